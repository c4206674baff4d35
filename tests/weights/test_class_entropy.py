"""The density-based class entropy, eq. 6 and 7 of RPG, against loops in float64 and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from common.sources import PseudoLabel
from common.weights import ClassEntropy
from common.weights.class_entropy import entropy_weight


def weight_of(distances):
    label = torch.zeros(len(distances), 1, *distances.shape[2:])
    return ClassEntropy()(None, PseudoLabel(label, known={"distances": distances}))


def column(*distances):
    return torch.tensor(distances).view(1, -1, 1, 1)


@pytest.mark.parametrize("classes", [2, 3, 73])
@pytest.mark.parametrize("size", [(4, 5), (3, 2, 4)])
def test_equals_plain_loops(classes, size):
    rng = np.random.default_rng(classes)
    distances = rng.uniform(0, 1, (2, classes, *size)) ** 3
    distances[rng.random(distances.shape) < 0.3] = 1  # classes that are not among the nearest
    found = weight_of(torch.from_numpy(distances).float())
    assert found.shape == (2, 1, *size) and found.dtype == torch.float32
    for b, *place in np.ndindex(2, *size):
        closeness = [1 - delta + 1e-8 for delta in distances[(b, slice(None), *place)]]
        p = [value / sum(closeness) for value in closeness]
        assert sum(p) == pytest.approx(1)
        expected = 1 + sum(value * math.log(value) for value in p) / math.log(classes)
        assert found[(b, 0, *place)].item() == pytest.approx(expected, abs=1e-6)


def test_by_hand():
    assert weight_of(column(0.0, 1.0, 1.0)).item() == pytest.approx(1, abs=1e-6)  # one class alone
    assert weight_of(column(0.3, 0.3, 0.3)).item() == pytest.approx(0, abs=1e-6)  # all equally near
    assert weight_of(column(1.0, 1.0, 1.0)).item() == pytest.approx(0, abs=1e-6)  # none at all
    two = 1 - (2 / 3 * math.log(3 / 2) + 1 / 3 * math.log(3)) / math.log(3)  # P = 2/3, 1/3, 0
    assert weight_of(column(0.0, 0.5, 1.0)).item() == pytest.approx(two, abs=1e-6)
    assert weight_of(column(0.0, 0.0)).item() == pytest.approx(0, abs=1e-6)


def test_epsilon_is_that_of_the_equation():
    """Of distances within 1e-8 of 1 it makes up a good part of the probabilities."""
    p = [2 / 3, 1 / 3]  # 1 - delta + 1e-8 of 2e-8 and 1e-8
    expected = 1 + sum(value * math.log(value) for value in p) / math.log(2)
    distances = torch.tensor([1 - 1e-8, 1.0], dtype=torch.float64).view(1, 2, 1, 1)
    assert entropy_weight(distances).item() == pytest.approx(expected, rel=1e-6)


def test_rounding_does_not_leave_the_range_and_there_are_no_gradients():
    distances = torch.rand(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weight = weight_of(torch.cat([distances, torch.zeros(2, 4, 8, 8), torch.ones(2, 4, 8, 8)], dim=3))
    assert weight.min() >= 0 and weight.max() <= 1
    assert not weight.requires_grad


def test_what_is_not_finite_is_not_hidden():
    assert weight_of(column(math.nan, 0.5)).isnan().all()
