"""POPCORN's consistency, eq. 2 to 4, against plain loops and values by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from common.label_space import LabelSpace
from common.methods import Step
from common.networks import Seen
from common.terms import BottleneckConsistency
from common.terms.bottleneck import bottleneck_distance, dice_similarity, label_similarity


class GivenBottleneck(nn.Module):
    """A network whose bottleneck is given."""

    def __init__(self, bottleneck):
        super().__init__()
        self.bottleneck = nn.Parameter(torch.tensor(bottleneck))

    def forward_features(self, image):
        return image

    def forward(self, image, seen, perturb=None):
        return Seen(image, image, self.bottleneck)


def plain_similarity(yi, yj, similarity):
    """Eq. 3, or the mean over the classes of Dice, of two masks ``C H W [D]`` in float64 loops."""
    if similarity == "mse":
        yi, yj = yi.flatten().tolist(), yj.flatten().tolist()
        return math.exp(-sum((a - b) ** 2 for a, b in zip(yi, yj, strict=True)) / len(yi))
    dice = []
    for one, other in zip(yi, yj, strict=True):
        overlap = total = 0.0
        for a, b in zip(one.flatten().tolist(), other.flatten().tolist(), strict=True):
            overlap, total = overlap + a * b, total + a * a + b * b
        dice.append(2 * overlap / total if total else 1.0)
    return sum(dice) / len(dice)


def plain_consistency(bottleneck, masks, pairs, squared, similarity="mse"):
    """Eq. 2 to 4 for a batch's pairs, in float64 loops."""
    total = 0.0
    for i, j in pairs:
        hi, hj = bottleneck[i].flatten().tolist(), bottleneck[j].flatten().tolist()
        difference = sum((a - b) ** 2 for a, b in zip(hi, hj, strict=True))
        norms = sum(a * a for a in hi), sum(b * b for b in hj)
        if squared:
            distance = 2 * difference / (norms[0] + norms[1])
        else:
            distance = 2 * math.sqrt(difference) / (math.sqrt(norms[0]) + math.sqrt(norms[1]))
        total += distance * plain_similarity(masks[i], masks[j], similarity)
    return total / len(pairs)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(("squared", "similarity"), [(True, "mse"), (False, "mse"), (True, "dice")])
def test_equals_plain_loops(labels, squared, similarity, soft):
    rng = np.random.default_rng(0)
    bottleneck = rng.normal(size=(6, 5, 2, 1, 1))
    if soft:
        label = rng.random((6, labels.num_outputs, 3, 4, 2))
        masks = label[:, -2:]
    elif labels.multilabel:
        label = masks = rng.integers(0, 2, (6, 2, 3, 4, 2)).astype(float)
    else:
        label = rng.integers(0, 3, (6, 1, 3, 4, 2)).astype(float)
        masks = np.concatenate([label == 1, label == 2], axis=1).astype(float)
    pairs = [(0, 3), (1, 4), (2, 5)]
    labeled = {"image": torch.zeros(6, 1, 3, 4, 2), "label": torch.tensor(label), "pairs": torch.tensor(pairs)}
    step = Step(labels, GivenBottleneck(bottleneck), {"labeled": labeled})
    found = BottleneckConsistency(0.7, squared, similarity)(step)  # the factor is the method's to multiply with
    assert found.item() == pytest.approx(plain_consistency(bottleneck, masks, pairs, squared, similarity), rel=1e-6)


def test_pairs_say_which_images_belong_together():
    labels, rng = LabelSpace(["lesion"]), np.random.default_rng(0)
    bottleneck, label = rng.normal(size=(4, 3, 1, 1)), rng.integers(0, 2, (4, 1, 4, 4)).astype(float)
    pairs = [(0, 1), (3, 2)]
    labeled = {"image": torch.zeros(4, 1, 4, 4), "label": torch.tensor(label), "pairs": torch.tensor(pairs)}
    found = BottleneckConsistency()(Step(labels, GivenBottleneck(bottleneck), {"labeled": labeled}))
    assert found.item() == pytest.approx(plain_consistency(bottleneck, label, pairs, True), rel=1e-6)


def test_distance_by_hand():
    one, other = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    assert bottleneck_distance(one, other).item() == pytest.approx(2 * 25 / 25)
    assert bottleneck_distance(one, other, squared=False).item() == pytest.approx(2 * 5 / 7)
    assert bottleneck_distance(one, -one).item() == pytest.approx(4)
    for squared in (True, False):
        assert bottleneck_distance(one, one, squared).item() == pytest.approx(0, abs=1e-5)
        scaled = bottleneck_distance(10 * one, 10 * other, squared).item()
        assert scaled == pytest.approx(bottleneck_distance(one, other, squared).item(), rel=1e-6)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_bottlenecks_have_a_finite_gradient(squared, value):
    one = torch.full((2, 3), value, requires_grad=True)
    bottleneck_distance(one, one.detach().clone(), squared).sum().backward()
    assert torch.isfinite(one.grad).all()


def test_half_precision_is_enough_for_the_features():
    one, other = torch.rand(2, 64, 4, 4, 4) + 20, torch.rand(2, 64, 4, 4, 4)
    found = bottleneck_distance(one.half(), other.half())  # squares add up beyond half precision
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, bottleneck_distance(one, other), rtol=1e-3, atol=0)


def test_similarity_by_hand():
    one, other = torch.zeros(2, 1, 2, 2, 1), torch.zeros(2, 1, 2, 2, 1)
    other[1, 0, 0, 0, 0] = 1  # one voxel of four differs
    assert label_similarity(one, other).tolist() == pytest.approx([1, math.exp(-0.25)])


def test_dice_similarity_by_hand():
    """Pairs: the same; one voxel of two in common; one class in one mask alone; no foreground at all; soft ones."""
    one, other = torch.zeros(5, 2, 2, 2, 1), torch.zeros(5, 2, 2, 2, 1)
    one[0, :, 0] = other[0, :, 0] = 1
    one[1, :, 0, 0], other[1, :, 0] = 1, 1  # Dice 2 x 1 / (1 + 2) for both classes
    one[2, 0, 0], other[2, 0, 0], one[2, 1, 0] = 1, 1, 1  # 1 and 0
    one[4], other[4] = 0.3, 0.3
    assert dice_similarity(one, other).tolist() == pytest.approx([1, 2 / 3, 1 / 2, 1, 1])
    assert dice_similarity(other, one).tolist() == pytest.approx([1, 2 / 3, 1 / 2, 1, 1])


def test_dice_tells_small_lesions_apart_that_exp_of_mse_does_not():
    one, other = torch.zeros(1, 1, 16, 16, 16), torch.zeros(1, 1, 16, 16, 16)
    one[..., :2, :2, :2], other[..., 8:10, 8:10, 8:10] = 1, 1
    assert label_similarity(one, other).item() > 0.99 and dice_similarity(one, other).item() == 0


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_dice_similarity_counts_whole_masks_in_half_precision(value):
    full = torch.full((1, 1, 64, 64, 64), value, dtype=torch.float16)  # more voxels than half precision counts
    assert dice_similarity(full, full).item() == pytest.approx(1)


def test_what_it_needs_and_refuses():
    needs = BottleneckConsistency().needs
    assert needs.pairs and needs.features and needs.unlabeled == 0
    assert BottleneckConsistency().factor == 0.2
    with pytest.raises(ValueError, match="factor of a term must not be negative, got -1"):
        BottleneckConsistency(-1)
    assert BottleneckConsistency().similarity == "mse"
    with pytest.raises(ValueError, match="similarity must be one of mse, dice, got 'iou'"):
        BottleneckConsistency(similarity="iou")
