"""Outputs mapped back onto the pseudo-label: right place for every pixel, against loops, and with label images."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from given import GivenLabel, GivenWeight
from methods.plain_terms import Pixels, plain_entropies, random_batch
from monai.transforms.utils import create_rotate, create_translate

from common.label_space import LabelSpace
from common.losses import CrossEntropy, Loss
from common.methods import Step
from common.sources import Grid, Prediction
from common.terms import Match, MatchBack
from common.views import Chain, CutMix, CutOut, Elastic, FeatureDropout, Flip, Geometry, Strong
from common.views.matrices import rotation, scaling, shear

SIZE = 12


class Moving(Geometry):
    """Moves each image by a given matrix: pixel y of the moved image is the image's at M y."""

    def __init__(self, *matrices):
        super().__init__()
        self.matrices = np.stack(matrices)

    def motion(self, number, size, draw, device):
        return self.matrices, None


class Kept(Loss):
    """Keeps what it is asked to compare."""

    def __call__(self, labels, logits, label, weight=None):
        self.logits, self.label, self.weight = logits.detach(), label, weight
        return CrossEntropy()(labels, logits, label, weight)


def any_matrix(seed, n=2):
    rng = np.random.default_rng(seed)
    turned = rotation(rng.uniform(-0.5, 0.5, (1, 1 if n == 2 else 3)))[0]
    sheared = shear(rng.uniform(-0.2, 0.2, (1, n * (n - 1))))[0]
    return turned @ sheared @ scaling(rng.uniform(0.9, 1.1, (1, n)))[0] @ create_translate(n, rng.uniform(-2, 2, n))


def blocks(labels, number, size):
    """Labels of large regions, a class each."""
    place = np.stack(np.meshgrid(*[np.arange(side) for side in size], indexing="ij"))
    found = []
    for index in range(number):
        one = place[0] + index > size[0] * 0.55
        other = place[1] < size[1] * 0.4
        found.append(np.stack([one, other]) if labels.multilabel else np.where(one, 1, 2 * other)[None])
    return torch.from_numpy(np.stack(found)).float()


@pytest.mark.parametrize("size", [(24, 20), (16, 14, 12)])
def test_an_image_of_its_own_label_comes_back_where_it_was(labels, size):
    """Exact up to interpolation: away from the classes' borders each pixel is of its class, wherever it has been."""
    truth, n, channels = blocks(labels, 3, size), len(size), labels.num_outputs
    convolution = torch.nn.Conv2d if n == 2 else torch.nn.Conv3d
    network = convolution(channels, channels, 1)
    network.weight.data = 60 * torch.eye(channels).view(channels, channels, *[1] * n)
    network.bias.data.fill_(-30)
    loss, matrices = Kept(), [any_matrix(seed, n) for seed in range(3)]
    step = Step(labels, network, {"unlabeled": {"image": labels.one_hot(truth)}})
    MatchBack(GivenLabel(truth), view=Moving(*matrices), loss=loss)(step)
    assert loss.label is truth
    right = (labels.predict(loss.logits) == truth).all(1, keepdim=True).numpy()
    pool = torch.nn.functional.max_pool2d if n == 2 else torch.nn.functional.max_pool3d
    one_hot = labels.one_hot(truth)
    inner = (pool(one_hot, 5, 1, 2) == -pool(-one_hot, 5, 1, 2)).all(1, keepdim=True).numpy()
    counts = loss.weight.numpy() > 0
    assert right[inner & counts].all() and (inner & counts).mean() > 0.25
    wrong = (labels.predict(loss.logits) == truth.roll(4, 2)).all(1, keepdim=True).numpy()
    assert not wrong[inner & counts].all()
    for index, matrix in enumerate(matrices):  # who counts is who lies inside of the view
        back, centre = np.linalg.inv(matrix), (np.array(size) - 1) / 2
        for pixel in itertools.product(*[range(side) for side in size]):
            place = back[:-1, :-1] @ (pixel - centre) + back[:-1, -1] + centre
            depth = min(place.min(), (np.array(size) - 1 - place).min())
            if abs(depth) > 0.01:
                assert counts[(index, 0, *pixel)] == (depth > 0)


@pytest.mark.parametrize(
    "matrix",
    [
        np.diag([-1.0, 1.0, 1.0]),
        np.diag([-1.0, -1.0, 1.0]),
        create_rotate(2, np.pi / 2),
        create_translate(2, [3, -2]),
        create_translate(2, [0, 5]),
        np.eye(3),
    ],
)
def test_where_pixels_move_onto_pixels_it_is_what_moving_the_label_gives(labels, matrix):
    rng, batch = np.random.default_rng(0), random_batch(labels, SIZE)
    network = Pixels(3, labels.num_outputs, 3.0)
    channels = labels.num_classes if labels.multilabel else 1
    label = torch.from_numpy(rng.integers(0, 2, (3, channels, SIZE, SIZE))).float()
    weight = torch.from_numpy(rng.uniform(0, 1, (3, channels, SIZE, SIZE))).float()
    found, expected = (
        kind(GivenLabel(label), GivenWeight(weight), Moving(*[matrix] * 3))(Step(labels, network, batch))
        for kind in (MatchBack, Match)
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert found > 0


def interpolated(maps, place):
    """Linear interpolation of maps ``C H W`` at a place, and whether it is inside."""
    if min(place) < 0 or max(np.array(place) - np.array(maps.shape[1:]) + 1) > 0:
        return np.zeros(len(maps)), False
    low = np.minimum(np.floor(place).astype(int), np.array(maps.shape[1:]) - 2)
    share, value = np.array(place) - low, np.zeros(len(maps))
    for corner in itertools.product((0, 1), repeat=2):
        part = np.prod([s if c else 1 - s for s, c in zip(share, corner, strict=True)])
        value += part * maps[(slice(None), *(low + corner))]
    return value, True


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("grid", [None, Grid.of_cells((SIZE, SIZE), 4)])
def test_the_loss_equals_loops(labels, soft, grid):
    batch, network = random_batch(labels, SIZE), Pixels(3, labels.num_outputs, 3.0)
    matrices = [any_matrix(seed) for seed in range(3)]
    source = Prediction(soft)(Step(labels, network, batch)).label
    label = source if grid is None else grid.of(source)
    weight = torch.rand(3, 1, *label.shape[2:], generator=torch.Generator().manual_seed(0))
    view = Moving(*matrices)
    step = Step(labels, network, batch)
    found = MatchBack(GivenLabel(label, grid), GivenWeight(weight), view)(step)
    strong = network(step.shown.image).detach().double().numpy()
    places = [range(SIZE)] * 2 if grid is None else grid.places
    total = count = inside = 0
    for b, matrix in enumerate(matrices):
        back, centre = np.linalg.inv(matrix), (SIZE - 1) / 2
        for (i, y), (j, x) in itertools.product(*map(enumerate, places)):
            place = back[:2, :2] @ (np.array([y, x]) - centre) + back[:2, 2] + centre
            logits, there = interpolated(strong[b], place)
            entropies = plain_entropies(
                labels, torch.from_numpy(logits).view(1, -1, 1, 1), label[b : b + 1, :, i : i + 1, j : j + 1]
            )
            count += entropies.size
            total += there * weight[b, 0, i, j].item() * entropies.sum()
            inside += there
    assert 0.5 < inside / weight.numel() < 1
    assert found.item() == pytest.approx(total / count, rel=2e-3)


def test_the_network_learns_through_the_way_back(labels):
    batch, network = random_batch(labels, SIZE), Pixels(3, labels.num_outputs)
    step = Step(labels, network, batch, weak_gradients=False)
    with torch.autocast("cpu", torch.bfloat16):
        loss = MatchBack(Prediction(), view=Strong(names=["rotate"], cutout=0))(step)
    loss.backward()
    assert network.final_conv.weight.grad.abs().sum() > 0 and loss.dtype == torch.float32
    assert len(step.notes) == 0 and step.noted is not None


def test_a_view_of_dropped_features_has_nothing_to_map_back(labels):
    batch, network = random_batch(labels, SIZE), Pixels(3, labels.num_outputs)
    found, expected = (
        kind(Prediction(), view=FeatureDropout(0.5))(Step(labels, network, batch)) for kind in (MatchBack, Match)
    )
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("view", "what"),
    [(CutOut(0.5), "Cut"), (Chain([Flip(), CutMix()]), "Mixed"), (Elastic(), "an elastic deformation")],
)
def test_what_cannot_be_mapped_back_says_what_to_do(view, what):
    labels = LabelSpace(["a"])
    batch, network = random_batch(LabelSpace(["a", "b"]), SIZE), Pixels(3, 1)
    with pytest.raises(ValueError, match=f"{what} cannot be undone.*let the pseudo-label move instead, by Match"):
        MatchBack(Prediction(), view=view)(Step(labels, network, batch))
