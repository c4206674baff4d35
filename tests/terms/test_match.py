"""A pseudo-label that a view learns: at the pixels of its grid, moved as the image was, each counted by its weight."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from given import GivenLabel, GivenWeight
from methods.plain_terms import Pixels, picture_batch, plain_dice, plain_entropies, plain_loss
from monai.transforms.utils import create_translate

from common.draws import generator
from common.label_space import LabelSpace
from common.losses import CrossEntropy, Dice
from common.methods import RPG, Method, Step
from common.sources import Grid, Prediction
from common.terms import Match
from common.views import Chain, FeatureDropout, Geometry, Intensity, Strong, Viewed, Weak
from common.weights import Ones, Product
from common.weights.class_entropy import entropy_weight

SIZE = 12


class Shift(Geometry):
    """Moves images by whole pixels: pixel y of the moved image is the image's at y + shift."""

    def __init__(self, shift):
        super().__init__()
        self.shift = shift

    def motion(self, number, size, draw, device):
        return np.stack([create_translate(len(size), list(self.shift))] * number), None


class Brighter(Intensity):
    """Every value is larger; nothing moves."""

    def changed(self, image, draw, values):
        return image + 0.25


class Copy(Weak):
    """The images themselves, as another tensor."""

    def forward(self, image, draw, values=None, groups=None, step=None):
        return Viewed(image.clone(), super().forward(image, draw).change)


@pytest.fixture
def batch(labels):
    return picture_batch(labels, SIZE)


@pytest.fixture
def network(labels):
    return Pixels(3, labels.num_outputs, 6.0)


def task(labels, grid, soft=False, seed=0):
    """A pseudo-label at a grid's pixels, and a weight, for each class of a pixel where these may overlap."""
    rng = np.random.default_rng(seed)
    shape = (SIZE, SIZE) if grid is None else grid.shape
    channels = labels.num_outputs
    if soft:
        label = rng.uniform(0, 1, (3, channels, *shape))
        label = label if labels.multilabel else label / label.sum(1, keepdims=True)
    elif labels.multilabel:
        label = rng.integers(0, 2, (3, channels, *shape))
    else:
        label = rng.integers(0, channels, (3, 1, *shape))
    weight = rng.uniform(0, 1, (3, labels.num_classes if labels.multilabel else 1, *shape))
    return torch.from_numpy(label).float(), torch.from_numpy(weight).float()


def term_of(labels, batch, network, match, **options):
    step = Step(labels, network, batch, **{"iteration": 4, **options})
    return match(step), step


GRIDS = {
    "all pixels": None,
    "cell centres": Grid.of_cells((SIZE, SIZE), 4),
    "other phases": Grid.of_cells((SIZE, SIZE), 5, [0.1, 0.8]),
}


@pytest.fixture(params=GRIDS)
def grid(request):
    return GRIDS[request.param]


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("loss", [None, Dice(), Dice(per_image=True)])
def test_on_the_weak_view_the_loss_is_taken_at_the_grid_s_pixels(labels, batch, network, grid, soft, loss):
    label, weight = task(labels, grid, soft)
    found, step = term_of(labels, batch, network, Match(GivenLabel(label, grid), GivenWeight(weight), loss=loss))
    logits = network(batch["unlabeled"]["image"])
    logits = logits if grid is None else logits[..., list(grid.places[0]), :][..., list(grid.places[1])]
    plain = plain_loss if loss is None else lambda *a: plain_dice(*a, per_image=loss.per_image)
    assert found.item() == pytest.approx(plain(labels, logits, label, weight), rel=1e-5)
    assert step.noted.pseudo.label is label and torch.equal(step.noted.weight, weight)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("shift", [(0, 0), (2, 0), (0, -3), (-1, 4)])
def test_a_shift_by_whole_pixels_gives_the_shifted_labels(labels, batch, network, grid, shift, soft):
    """Query by query: where it lies in the moved image, if within it, what the network says there and its label."""
    label, weight = task(labels, grid, soft)
    found, _ = term_of(labels, batch, network, Match(GivenLabel(label, grid), GivenWeight(weight), Shift(shift)))
    image = batch["unlabeled"]["image"]
    moved = torch.zeros_like(image)
    for y, x in np.ndindex(SIZE, SIZE):
        source = np.clip((y + shift[0], x + shift[1]), 0, SIZE - 1)
        moved[..., y, x] = image[..., source[0], source[1]]
    logits, places = network(moved), (range(SIZE), range(SIZE)) if grid is None else grid.places
    total = count = inside = 0
    for i, row in enumerate(places[0]):
        for j, column in enumerate(places[1]):
            there = row - shift[0], column - shift[1]
            count += weight[..., i, j].numel()
            if min(there) >= 0 and max(there) < SIZE:
                pixel = (..., slice(there[0], there[0] + 1), slice(there[1], there[1] + 1))
                query = (..., slice(i, i + 1), slice(j, j + 1))
                total += (plain_entropies(labels, logits[pixel], label[query]) * weight[query].numpy()).sum()
                inside += 1
    assert shift == (0, 0) or 0 < inside < len(places[0]) * len(places[1])
    assert found.item() == pytest.approx(total / count, rel=1e-4)


def test_moved_labels_lie_where_the_moved_image_says_so(labels):
    """The image shows its own label: after any whole shift both still agree, pixel for pixel."""
    grid = Grid.of_cells((SIZE, SIZE), 4, [0.4, 0.9])
    channels = labels.num_outputs
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 2 if labels.multilabel else 3, (3, channels if labels.multilabel else 1, SIZE, SIZE))
    truth = torch.from_numpy(truth).float()
    batch = {"labeled": None, "unlabeled": {"image": labels.one_hot(truth)}}
    network = torch.nn.Conv2d(channels, channels, 1)
    network.weight.data = 60 * torch.eye(channels)[..., None, None]
    network.bias.data.fill_(-30)
    for shift in [(0, 0), (3, -2), (-5, 1)]:
        right, _ = term_of(labels, batch, network, Match(GivenLabel(grid.of(truth), grid), view=Shift(shift)))
        assert right.item() < 1e-8
        wrong, _ = term_of(
            labels, batch, network, Match(GivenLabel(grid.of(truth.roll(1, 2)), grid), view=Shift(shift))
        )
        assert wrong.item() > 1


def test_one_image_of_one_class():
    labels, grid = LabelSpace(["lung"]), Grid.of_cells((SIZE, SIZE), 4)
    batch = {"unlabeled": {"image": torch.rand(1, 3, SIZE, SIZE)}}
    label, network = torch.ones(1, 1, 4, 4), Pixels(3, 1)
    weak, _ = term_of(labels, batch, network, Match(GivenLabel(label, grid)))
    found, _ = term_of(labels, batch, network, Match(GivenLabel(label, grid), view=Copy()))
    torch.testing.assert_close(found, weak)


@pytest.mark.parametrize("view", [Copy(), Shift((0, 0))])
def test_the_sum_is_divided_by_the_number_of_queries(labels, batch, network, grid, view):
    """Whether the view's pixels are those of the grid or all of the image, one query counts as much."""
    label, weight = task(labels, grid)
    source = GivenLabel(label, grid)
    weak, _ = term_of(labels, batch, network, Match(source, GivenWeight(weight)))
    found, _ = term_of(labels, batch, network, Match(source, GivenWeight(weight), view))
    torch.testing.assert_close(found, weak)


def test_a_change_of_intensities_leaves_the_labels_in_place(labels, batch, network, grid):
    label, weight = task(labels, grid)
    found, _ = term_of(labels, batch, network, Match(GivenLabel(label, grid), GivenWeight(weight), Brighter()))
    logits = network((batch["unlabeled"]["image"] + 0.25).clamp(0, 1))
    logits = logits if grid is None else grid.of(logits)
    assert found.item() == pytest.approx(plain_loss(labels, logits, label, weight), rel=1e-5)


def nearest_places(matrix):
    """Where each pixel comes from in float64, and whether that is clearly nearest to one pixel."""
    centre = (SIZE - 1) / 2
    grid = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij"), axis=-1) - centre
    exact = grid @ matrix[:-1, :-1].T + matrix[:-1, -1] + centre
    assert np.abs(np.abs(exact - np.floor(exact)) - 0.5).min() > 1e-4
    return np.round(exact).astype(int)


@pytest.mark.parametrize("cutout_label", ["background", "ignore"])
@pytest.mark.parametrize("query_size", [5, None])
def test_rpg_on_strong_views_is_the_plain_formula(labels, batch, network, query_size, cutout_label):
    """RPG's label and weight, moved by any affine map to the nearest pixel, and CutOut's box of background."""
    view = Strong(cutout_label=cutout_label, names=["rotate", "shear", "translate", "brightness"])
    method = RPG(labels, neighbors=40, query_size=query_size, view=view)
    step = Step(labels, network, batch, iteration=3)
    found = method.others(step)["unsupervised"]
    pseudo, weight = step.notes["unsupervised"][:2]
    torch.testing.assert_close(weight, entropy_weight(pseudo.known["distances"]))
    viewed = view(batch["unlabeled"]["image"], generator(0, 3, "Strong 1"))
    moved, cut = viewed.change.changes
    places = [range(SIZE)] * 2 if pseudo.grid is None else pseudo.grid.places
    counts = SIZE**2 / (len(places[0]) * len(places[1]))
    label, counted = torch.zeros(3, pseudo.label.shape[1], SIZE, SIZE), torch.zeros(3, 1, SIZE, SIZE)
    hit = 0
    for b in range(3):
        sources = nearest_places(moved.matrix[b])
        for y, x in np.ndindex(SIZE, SIZE):
            box = cut.box[b]
            if box[0, 0] <= y < box[0, 1] and box[1, 0] <= x < box[1, 1]:
                counted[b, :, y, x] = cutout_label == "background"
            elif sources[y, x, 0] in places[0] and sources[y, x, 1] in places[1]:
                query = (
                    b,
                    slice(None),
                    list(places[0]).index(sources[y, x, 0]),
                    list(places[1]).index(sources[y, x, 1]),
                )
                label[b, :, y, x], counted[b, :, y, x] = pseudo.label[query], weight[query] * counts
                hit += 1
    assert hit > 20
    expected = plain_loss(labels, network(viewed.image), label, counted)
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_a_view_of_dropped_features_is_asked_at_the_grid_s_pixels(labels, batch, network, grid):
    label, weight = task(labels, grid)
    found, _ = term_of(labels, batch, network, Match(GivenLabel(label, grid), GivenWeight(weight), FeatureDropout(0.5)))
    keep = torch.from_numpy(generator(0, 4, "FeatureDropout 1").random((3, 3)) >= 0.5)
    logits = network(batch["unlabeled"]["image"] * keep[..., None, None] * 2)
    logits = logits if grid is None else grid.of(logits)
    assert found.item() == pytest.approx(plain_loss(labels, logits, label, weight), rel=1e-5)


def test_weights_multiply(labels, batch, network, grid):
    label, weight = task(labels, grid)
    _, other = task(labels, grid, seed=1)
    both = Product([GivenWeight(weight), GivenWeight(other), Ones()])
    found, step = term_of(labels, batch, network, Match(GivenLabel(label, grid), both, Shift((1, 0))))
    expected, _ = term_of(
        labels, batch, network, Match(GivenLabel(label, grid), GivenWeight(weight * other), Shift((1, 0)))
    )
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(step.noted.weight, weight * other)


def test_the_view_learns_and_label_and_weight_do_not(labels, batch, network, grid):
    label, weight = task(labels, grid, soft=True)
    weight.requires_grad_()
    for view in (None, Shift((1, 1)), Brighter()):
        found, step = term_of(labels, batch, network, Match(GivenLabel(label, grid), GivenWeight(weight), view))
        (gradient,) = torch.autograd.grad(found, network.final_conv.weight)
        assert gradient.abs().sum() > 0
        assert not step.noted.weight.requires_grad


def test_in_mixed_precision_places_and_weights_stay_what_they_are(labels, batch, network, grid):
    label, weight = task(labels, grid)
    match = Match(GivenLabel(label, grid), GivenWeight(weight), Shift((2, 1)))
    expected, _ = term_of(labels, batch, network, match)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = term_of(labels, batch, network, match)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=0.02)


def test_defaults_and_needs(labels):
    match = Match(Prediction())
    assert type(match.weight) is Ones and type(match.view) is Weak and match.loss is None
    assert type(Method(labels, {"a": match}).terms["a"].loss) is CrossEntropy
    assert match.factor == 1
    assert Weak().needs.weak_gradients and not Match(Prediction(), view=Strong()).needs.weak_gradients
    with pytest.raises(ValueError, match=r"factor of a term must not be negative, got -0\.5"):
        Match(Prediction(), factor=-0.5)


def test_chain_of_movement_and_dropped_features(labels, batch, network, grid):
    """Both what happens to the image and what happens to its features are seen."""
    label, weight = task(labels, grid)
    view = Chain([Shift((0, 0)), FeatureDropout(0.5)])
    found, _ = term_of(labels, batch, network, Match(GivenLabel(label, grid), GivenWeight(weight), view))
    keep = torch.from_numpy(generator(0, 4, "Chain 1").random((3, 3)) >= 0.5)
    logits = network(batch["unlabeled"]["image"] * keep[..., None, None] * 2)
    logits = logits if grid is None else grid.of(logits)
    assert found.item() == pytest.approx(plain_loss(labels, logits, label, weight), rel=1e-4)
