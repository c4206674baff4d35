"""POPCORN's loss, eq. 1 to 5, against plain NumPy and values by hand; which images join in which step."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from common.label_space import LabelSpace
from common.methods import Popcorn
from common.methods.popcorn import bottleneck_distance, label_similarity

LABELS = LabelSpace(["lesion"])


class GivenOutputs(nn.Module):
    """A network whose bottleneck and outputs are given."""

    def __init__(self, bottleneck: torch.Tensor, outputs: torch.Tensor) -> None:
        super().__init__()
        self.bottleneck, self.outputs = nn.Parameter(bottleneck), nn.Parameter(outputs)

    def forward(self, image, return_bottleneck):
        assert return_bottleneck
        return self.bottleneck, self.outputs


def plain_total(outputs, label, bottleneck, alpha, squared):
    """Eq. 1 to 5 for one batch of pairs, in float64 loops."""
    pairs = len(outputs) // 2

    def segmentation(logits, truth):
        overlap = total = 0.0
        for z, y in zip(logits.flatten().tolist(), truth.flatten().tolist(), strict=True):
            p = 1 / (1 + math.exp(-z))
            overlap, total = overlap + p * y, total + p + y
        return 1 - (2 * overlap + 1) / (total + 1)

    regularization = 0.0
    for i in range(pairs):
        hi, hj = bottleneck[i].flatten().tolist(), bottleneck[pairs + i].flatten().tolist()
        difference = sum((a - b) ** 2 for a, b in zip(hi, hj, strict=True))
        norms = sum(a * a for a in hi), sum(b * b for b in hj)
        if squared:
            distance = 2 * difference / (norms[0] + norms[1])
        else:
            distance = 2 * math.sqrt(difference) / (math.sqrt(norms[0]) + math.sqrt(norms[1]))
        yi, yj = label[i].flatten().tolist(), label[pairs + i].flatten().tolist()
        mse = sum((a - b) ** 2 for a, b in zip(yi, yj, strict=True)) / len(yi)
        regularization += distance * math.exp(-mse) / pairs
    first = segmentation(outputs[:pairs], label[:pairs])
    second = segmentation(outputs[pairs:], label[pairs:])
    return first, second, alpha * regularization


@pytest.mark.parametrize("squared", [True, False])
def test_terms_equal_plain_loops(squared):
    rng = np.random.default_rng(0)
    outputs, bottleneck = rng.normal(size=(6, 1, 3, 4, 2)), rng.normal(size=(6, 5, 2, 1, 1))
    label = rng.integers(0, 2, (6, 1, 3, 4, 2)).astype(float)
    network = GivenOutputs(torch.tensor(bottleneck), torch.tensor(outputs))
    method = Popcorn(LABELS, consistency_weight=0.7, squared=squared)
    batch = {"labeled": {"image": torch.zeros(6, 1, 3, 4, 2), "label": torch.tensor(label)}}
    terms, _ = method.terms(network, batch, 1)
    first, second, consistency = plain_total(outputs, label, bottleneck, 0.7, squared)
    assert terms["dice"].item() == pytest.approx(first + second, abs=1e-6)
    assert terms["consistency"].item() == pytest.approx(consistency, abs=1e-6)


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
def test_equal_bottlenecks_have_a_finite_gradient(squared):
    one = torch.ones(2, 3, requires_grad=True)
    bottleneck_distance(one, one.detach().clone(), squared).sum().backward()
    assert torch.isfinite(one.grad).all()


def test_similarity_by_hand():
    one, other = torch.zeros(2, 1, 2, 2, 1), torch.zeros(2, 1, 2, 2, 1)
    other[1, 0, 0, 0, 0] = 1  # one voxel of four differs
    assert label_similarity(one, other).tolist() == pytest.approx([1, math.exp(-0.25)])


def test_weights_leave_voxels_out():
    rng = np.random.default_rng(1)
    outputs, label = torch.tensor(rng.normal(size=(2, 1, 4, 4, 4))), torch.zeros(2, 1, 4, 4, 4)
    label[:, :, :2], weight = 1, torch.ones(2, 1, 4, 4, 4)
    weight[:, :, 3:] = 0
    network = GivenOutputs(torch.ones(2, 3, 1, 1, 1), outputs)
    method = Popcorn(LABELS, consistency_weight=0)
    weighted = {"labeled": {"image": label, "label": label, "weight": weight}}
    parts = {"labeled": {"image": label[:, :, :3], "label": label[:, :, :3]}}
    cut = GivenOutputs(torch.ones(2, 3, 1, 1, 1), outputs[:, :, :3])
    terms, expected = method.terms(network, weighted, 1)[0], method.terms(cut, parts, 1)[0]
    assert terms["dice"].item() == pytest.approx(expected["dice"].item(), abs=1e-6)


def test_without_consistency_there_is_no_such_term():
    network = GivenOutputs(torch.ones(2, 3, 1, 1, 1), torch.zeros(2, 1, 4, 4, 4))
    batch = {"labeled": {"image": torch.zeros(2, 1, 4, 4, 4), "label": torch.zeros(2, 1, 4, 4, 4)}}
    assert set(Popcorn(LABELS, consistency_weight=0).terms(network, batch, 1)[0]) == {"dice"}


@pytest.mark.parametrize(
    ("settings", "images", "expected"),
    [
        ({}, 2901, [200] * 14 + [101]),  # the paper's
        ({"share": 0.5}, 2901, [200] * 7 + [51]),
        ({"step_size": 3}, 7, [3, 3, 1]),
        ({"step_size": 10}, 7, [7]),  # K larger than what there is
        ({"selection": "none"}, 7, []),
        ({"selection": "random", "step_size": 4}, 8, [4, 4]),
        ({}, 0, []),
    ],
)
def test_steps(settings, images, expected):
    assert Popcorn(LABELS, **settings).steps(images) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"consistency_weight": -1}, "consistency_weight must not be negative"),
        ({"selection": "best"}, "selection must be one of"),
        ({"step_size": 0}, "step_size must be at least 1"),
        ({"step_epochs": 0}, "step_epochs must be at least 1"),
        ({"neighbors": 0}, "neighbors must be at least 1"),
        ({"share": 0}, "share must be above 0"),
        ({"share": 1.5}, "share must be above 0"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        Popcorn(LABELS, **settings)
