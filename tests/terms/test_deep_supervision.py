"""Deep supervision against loops over cells in float64 and by hand, its heads, and pixels that do not count."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.transforms.utils import create_translate
from torch import nn

from common.label_space import LabelSpace
from common.methods import Step
from common.networks import BasicUNet, Seen
from common.sources import Prediction, References
from common.terms import DeepMatch, DeepSupervision, LevelHeads, Match
from common.terms.deep_supervision import level_loss, max_pooled
from common.views import Flip, Geometry, Weak

SPACES = {
    "multi-label": LabelSpace(["lung", "heart"]),
    "multi-class": LabelSpace(["lung", "heart"], "multiclass"),
    "one class": LabelSpace(["lesion"]),
    "one of two": LabelSpace(["lesion"], "multiclass"),
}
# images, and levels that divide them or do not
SIZES = {
    "2D": ((8, 12), ((2, 3), (4, 6))),
    "3D": ((4, 8, 4), ((1, 2, 1), (2, 4, 2))),
    "odd": ((7, 9), ((1, 2), (3, 4))),
}


@pytest.fixture(params=SPACES)
def space(request) -> LabelSpace:
    return SPACES[request.param]


def label_of(space, size, number=2, rng=None):
    rng = rng or np.random.default_rng(0)
    if space.multilabel:
        return rng.random((number, space.num_classes, *size)) < 0.15
    return np.where(rng.random((number, 1, *size)) < 0.85, 0, rng.integers(1, space.num_outputs, (number, 1, *size)))


def tensor(values):
    return torch.tensor(np.asarray(values, dtype=np.float64), dtype=torch.float32)


def plain_masks(space, label):
    """The label's masks, those of the background among them where classes exclude each other."""
    if space.multilabel:
        return label.astype(float)
    return np.concatenate([label == k for k in range(space.num_outputs)], 1).astype(float)


def plain_cells(size, coarse):
    """Each cell of a level, and the box of its pixels."""
    for cell in np.ndindex(*coarse):
        box = zip(cell, size, coarse, strict=True)
        yield cell, tuple(slice(i * side // n, -(-(i + 1) * side // n)) for i, side, n in box)


def plain_loss(masks, weight, outputs):
    """The mean over levels of the mean over cells and outputs of weighted binary cross-entropy, in float64."""
    levels = []
    for logits in outputs:
        total = 0.0
        for b, k in np.ndindex(*logits.shape[:2]):
            for cell, box in plain_cells(masks.shape[2:], logits.shape[2:]):
                target, z = masks[b, k][box].max(), logits[(b, k, *cell)]
                counts = weight[b, min(k, weight.shape[1] - 1)][box].min()
                total += counts * (target * math.log(1 + math.exp(-z)) + (1 - target) * math.log(1 + math.exp(z)))
        levels.append(total / logits.size)
    return sum(levels) / len(levels)


def random_outputs(space, levels, number=2, seed=1):
    rng = np.random.default_rng(seed)
    return [2 * rng.normal(size=(number, space.num_outputs, *coarse)) for coarse in levels]


# ---- the loss


@pytest.mark.parametrize("case", SIZES)
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_plain_loops(space, case, weighted):
    size, levels = SIZES[case]
    label, outputs = label_of(space, size), random_outputs(space, levels)
    weight = np.ones((2, 1, *size))
    if weighted:
        weight = np.random.default_rng(2).uniform(0.2, 1, (2, 1, *size))
        weight[:, :, : size[0] // 2] *= np.random.default_rng(3).random((2, 1, size[0] // 2, *size[1:])) > 0.1
    given = (tensor(weight),) if weighted else ()
    found = level_loss(space, [tensor(each) for each in outputs], tensor(label), *given)
    expected = plain_loss(plain_masks(space, label), weight, outputs)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_each_class_of_a_pixel_may_have_a_weight():
    space, (size, levels) = SPACES["multi-label"], SIZES["2D"]
    label, outputs = label_of(space, size), random_outputs(space, levels)
    weight = (np.random.default_rng(2).random((2, 2, *size)) > 0.1).astype(float)
    found = level_loss(space, [tensor(each) for each in outputs], tensor(label), tensor(weight))
    assert found.item() == pytest.approx(plain_loss(label.astype(float), weight, outputs), rel=1e-5)


def test_labels_below_0_do_not_count(space):
    size, levels = SIZES["2D"]
    label, outputs = label_of(space, size).astype(float), random_outputs(space, levels)
    weight = np.ones_like(label)
    label[0, 0, 1, 2], weight[0, 0, 1, 2] = -1, 0
    found = level_loss(space, [tensor(each) for each in outputs], tensor(label))
    expected = plain_loss(plain_masks(space, np.maximum(label, 0)), weight, outputs)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_of_a_soft_label_it_is_the_largest_probability():
    for space in (SPACES["multi-label"], SPACES["multi-class"]):
        size, levels = SIZES["2D"]
        soft = np.random.default_rng(0).dirichlet([0.3] * space.num_outputs, (2, *size)).transpose(0, 3, 1, 2)
        outputs = random_outputs(space, levels)
        found = level_loss(space, [tensor(each) for each in outputs], tensor(soft))
        assert found.item() == pytest.approx(plain_loss(soft, np.ones((2, 1, *size)), outputs), rel=1e-5)


def test_masks_by_hand():
    """Four cells: background alone, class 1 beside background, both classes without background, class 2 alone."""
    label = torch.tensor([[0, 0, 0, 1], [0, 0, 1, 1], [1, 2, 2, 2], [2, 1, 2, 2.0]])[None, None]
    masks = max_pooled(SPACES["multi-class"].one_hot(label), (2, 2))
    assert masks[0].tolist() == [[[1, 1], [0, 0]], [[0, 1], [1, 0]], [[0, 0], [1, 1]]]
    volume = torch.zeros(1, 1, 4, 4, 4)
    volume[0, 0, 3, 0, 1] = 1
    assert max_pooled(volume, (2, 2, 2)).nonzero().tolist() == [[0, 0, 1, 0, 0]]


def test_loss_by_hand():
    """One level of one cell: ln 2 for a logit of 0, and ln(1 + e^-z) for what occurs; levels count alike."""
    label = torch.tensor([[0.0, 2.0]])[None, None]  # background and the second class, not the first
    zero = torch.zeros(1, 3, 1, 1)
    sure = torch.tensor([3.0, -3.0, 3.0]).view(1, 3, 1, 1)
    space = SPACES["multi-class"]
    assert level_loss(space, [zero], label).item() == pytest.approx(math.log(2))
    assert level_loss(space, [sure], label).item() == pytest.approx(math.log(1 + math.exp(-3)))
    fine = torch.zeros(1, 3, 1, 2)
    expected = (math.log(2) + math.log(1 + math.exp(-3))) / 2
    assert level_loss(space, [sure, fine], label).item() == pytest.approx(expected, rel=1e-6)


def test_more_of_a_class_where_it_occurs_and_other_borders_within_cells_change_nothing(space):
    size, levels = (8, 8), ((2, 2),)
    label = np.zeros((1, space.num_classes if space.multilabel else 1, *size))
    label[0, 0, 1, 1] = label[0, 0, 6, 5] = 1
    wider = label.copy()
    wider[0, 0, :3, 1:4] = wider[0, 0, 4:7, 5:] = 1
    outputs = [tensor(each) for each in random_outputs(space, levels, 1)]
    one, other = (level_loss(space, outputs, tensor(each)).item() for each in (label, wider))
    assert one == other
    wider[0, 0, 1, 4] = 1  # the next cell
    assert level_loss(space, outputs, tensor(wider)).item() != one


# ---- pixels that do not count


def test_a_cell_with_a_pixel_that_does_not_count_does_not_count(space):
    label = label_of(space, (4, 4), 1)
    label[..., 0, 0] = 1  # the cell shows a class all the same
    weight = torch.ones(1, 1, 4, 4)
    weight[0, 0, 1, 1] = 0
    outputs = torch.zeros(1, space.num_outputs, 2, 2, requires_grad=True)
    level_loss(space, [outputs], tensor(label), weight).backward()
    assert (outputs.grad[:, :, 0, 0] == 0).all()
    outputs.grad[:, :, 0, 0] = 1
    assert (outputs.grad != 0).all()
    changed = tensor(label)
    changed[..., :2, :2] = 0
    values = [level_loss(space, [outputs.detach()], each, weight).item() for each in (tensor(label), changed)]
    assert values[0] == values[1]


def test_without_a_pixel_that_counts_there_is_no_loss(space):
    size, levels = SIZES["2D"]
    outputs = [tensor(each) for each in random_outputs(space, levels)]
    assert level_loss(space, outputs, tensor(label_of(space, size)), torch.zeros(2, 1, *size)).item() == 0


# ---- the terms


class GivenLevels(nn.Module):
    """A network whose levels are the image's mean over 4 x 4 and 2 x 2 pixels, and whose outputs are the image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.final_conv, self.level_widths = nn.Conv2d(channels, channels, 1), (channels, channels)

    def forward_features(self, x):
        raise AssertionError("one pass is enough")

    def forward(self, x, seen=False, perturb=None, levels=False):
        coarse = tuple(nn.functional.avg_pool2d(x, side) for side in (4, 2)) if levels else None
        return Seen(x, x, None, coarse)


def batch_of(space, size=(8, 8)):
    rng = np.random.default_rng(4)
    image = {part: tensor(2 * rng.normal(size=(2, space.num_outputs, *size))) for part in ("labeled", "unlabeled")}
    return {
        "labeled": {"image": image["labeled"], "label": tensor(label_of(space, size))},
        "unlabeled": {"image": image["unlabeled"]},
    }


def prepared(space, network, *terms):
    for term in terms:
        for part in term.modules():
            getattr(part, "prepare", lambda *_: None)(network, space)
    with torch.no_grad():
        for head in terms[0].heads.heads:
            head.bias.normal_(generator=torch.Generator().manual_seed(0))


def plain_heads(heads, image):
    """The heads' logits, in float64 loops over cells."""
    image, found = image.double().numpy(), []
    for head, side in zip(heads.heads, (4, 2), strict=True):
        weight, bias = head.weight.detach().double().numpy()[:, :, 0, 0], head.bias.detach().double().numpy()
        coarse = tuple(length // side for length in image.shape[2:])
        logits = np.zeros((len(image), len(bias), *coarse))
        for b, x, y in np.ndindex(len(image), *coarse):
            mean = image[b, :, side * x : side * (x + 1), side * y : side * (y + 1)].mean((1, 2))
            logits[b, :, x, y] = weight @ mean + bias
        found.append(logits)
    return found


def test_labelled_images_learn_their_labels(space):
    network, term, batch = GivenLevels(space.num_outputs), DeepSupervision(0.7), batch_of(space)
    prepared(space, network, term)
    outputs = plain_heads(term.heads, batch["labeled"]["image"])
    masks = plain_masks(space, batch["labeled"]["label"].double().numpy())
    for weight in (None, torch.rand(2, 1, 8, 8)):
        batch["labeled"] |= {} if weight is None else {"weight": weight}
        found = term(Step(space, network, batch, levels=True))
        plain = np.ones((2, 1, 8, 8)) if weight is None else weight.double().numpy()
        assert found.item() == pytest.approx(plain_loss(masks, plain, outputs), rel=1e-5)


def matched(space, network, batch, view, term):
    """The term after a match of the network's own prediction on a view."""
    step = Step(space, network, batch, levels=True)
    Match(Prediction(), view=view)(step)
    step.notes["match"] = step.noted
    return term(step), step


def plain_prediction(space, image):
    image = image.double().numpy()
    return (image > 0).astype(float) if space.multilabel else image.argmax(1)[:, None]


def test_unlabelled_images_learn_the_pseudo_label_moved_as_they_were(space):
    network, term, batch = GivenLevels(space.num_outputs), DeepMatch(), batch_of(space)
    prepared(space, network, term)
    found, _ = matched(space, network, batch, Flip([0], 1.0), term)
    image = batch["unlabeled"]["image"]
    masks = plain_masks(space, plain_prediction(space, image))[:, :, ::-1]
    expected = plain_loss(masks, np.ones((2, 1, 8, 8)), plain_heads(term.heads, image.flip(2)))
    assert found.item() == pytest.approx(expected, rel=1e-5)


class Shift(Geometry):
    def motion(self, number, size, draw, device):
        return np.stack([create_translate(2, [3, 0])] * number), None


def test_cells_with_pixels_from_outside_do_not_count(space):
    """Moved by three pixels: the last three rows are none, and with them the last of two and the last two of four."""
    network, term, batch = GivenLevels(space.num_outputs), DeepMatch(), batch_of(space)
    prepared(space, network, term)
    found, step = matched(space, network, batch, Shift(), term)
    image = batch["unlabeled"]["image"]
    masks = plain_masks(space, plain_prediction(space, image))[:, :, [3, 4, 5, 6, 7, 7, 7, 7]]
    weight = np.ones((2, 1, 8, 8))
    weight[:, :, 5:] = 0
    expected = plain_loss(masks, weight, plain_heads(term.heads, step.shown.image))
    assert found.item() == pytest.approx(expected, rel=1e-4)
    least = -max_pooled(-tensor(weight), (4, 4))
    assert least[0, 0, :, 0].tolist() == [1, 1, 0, 0] and expected > 0


def test_terms_may_share_heads(space):
    heads = LevelHeads(3)
    one, other = DeepSupervision(heads=heads), DeepMatch(heads=heads)
    assert one.heads is other.heads is heads
    assert DeepSupervision(seed=2).heads.seed == 2 and DeepMatch().heads is not DeepMatch().heads


# ---- with the network


def unet(dimensions=2, outputs=1):
    torch.manual_seed(0)
    return BasicUNet(dimensions, 1, outputs, (4, 5, 6, 7, 8, 4))


def image_batch(dimensions=2):
    rng = torch.Generator().manual_seed(1)
    image = torch.randn(2, 1, *[16] * dimensions, generator=rng)
    return {"labeled": {"image": image, "label": (image > 1).float()}}


@pytest.mark.parametrize("dimensions", [2, 3])
def test_gradients_reach_heads_and_coarse_levels_alone(dimensions):
    network, term = unet(dimensions), DeepSupervision()
    term.heads.prepare(network, SPACES["one class"])
    term(Step(SPACES["one class"], network, image_batch(dimensions), levels=True)).backward()
    for head in term.heads.heads:
        assert head.weight.grad.abs().sum() > 0 and head.bias.grad.abs().sum() > 0
    assert network.conv_0.conv_0.conv.weight.grad.abs().sum() > 0
    assert network.upcat_2.convs.conv_1.conv.weight.grad.abs().sum() > 0
    fine = [*network.upcat_1.parameters(), *network.final_conv.parameters()]
    assert all(parameter.grad is None for parameter in fine)


def test_mixed_precision_is_close():
    network, term = unet(), DeepSupervision()
    term.heads.prepare(network, SPACES["one class"])
    expected = term(Step(SPACES["one class"], network, image_batch(), levels=True))
    with torch.autocast("cpu", torch.bfloat16):
        found = term(Step(SPACES["one class"], network, image_batch(), levels=True))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=0.05)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_heads_fit_the_network(space, dimensions):
    network, heads = unet(dimensions, space.num_outputs), LevelHeads(5)
    state = torch.get_rng_state()
    heads.prepare(network, space)
    assert torch.equal(torch.get_rng_state(), state)
    ones = [1] * dimensions
    assert [tuple(head.weight.shape) for head in heads.heads] == [
        (space.num_outputs, width, *ones) for width in (7, 6, 5)
    ]
    made = heads.heads
    heads.prepare(network, space)
    assert heads.heads is made  # asking again makes no others
    twin, other = LevelHeads(5), LevelHeads(6)
    for each in (twin, other):
        each.prepare(torch.compile(network, backend="eager"), space)
    assert all(torch.equal(one.weight, two.weight) for one, two in zip(made, twin.heads, strict=True))
    assert not torch.equal(other.heads[0].weight, made[0].weight)


def test_what_they_need_and_refuse(multiclass):
    needs = DeepSupervision().needs | DeepSupervision().heads.needs
    assert (needs.unlabeled, needs.features, needs.levels) == (0, True, True) and DeepMatch().needs.unlabeled == 1
    for kind in (DeepSupervision, DeepMatch):
        with pytest.raises(ValueError, match="factor of a term must not be negative"):
            kind(-1)
    with pytest.raises(ValueError, match=r"must give the levels of its decoder.*, got a Conv2d: use common\.networks"):
        LevelHeads().prepare(nn.Conv2d(1, 1, 1), multiclass)


def test_a_match_without_pseudo_labels_of_all_pixels_is_refused(multiclass):
    network, term, batch = GivenLevels(3), DeepMatch(), batch_of(multiclass)
    prepared(multiclass, network, term)
    with pytest.raises(ValueError, match="must come after the term whose pseudo-labels it matches, got none"):
        term(Step(multiclass, network, batch, levels=True))
    step = Step(multiclass, network, batch, levels=True)
    Match(References(5, 4, 4), view=Weak())(step)
    step.notes["match"] = step.noted
    with pytest.raises(ValueError, match="pseudo-labels of all pixels, got those of a grid of 4 x 4: set query_size"):
        term(step)
