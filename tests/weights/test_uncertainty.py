"""The weight of pixels in which several passes differ."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from common.sources import PseudoLabel
from common.weights import Uncertainty


def weight_of(spread, falloff):
    spread = torch.as_tensor(spread)
    return Uncertainty(falloff)(None, PseudoLabel(torch.zeros_like(spread), known={"spread": spread}))


@pytest.mark.parametrize("size", [(4, 5), (3, 4, 2)])
def test_equals_numpy(size):
    spread = np.random.default_rng(0).uniform(0, 0.5, (2, 3, *size))
    found = weight_of(spread, 3.0)
    assert found.shape == (2, 1, *size)
    np.testing.assert_allclose(found.numpy(), np.exp(-3 * spread.max(1, keepdims=True)))


def test_by_hand():
    found = weight_of([[[0.0, 0.25, 0.5]]], 2.0)
    assert found.flatten().tolist() == pytest.approx([1, math.exp(-0.5), math.exp(-1)])
    assert weight_of([[[0.0, 0.25, 0.5]]], 0.0).tolist() == [[[1, 1, 1]]]
    assert weight_of([[[0.1], [0.4]]], 5.0).item() == pytest.approx(math.exp(-2))  # the most uncertain class


def test_negative_falloff_is_refused():
    with pytest.raises(ValueError, match=r"falloff must not be negative, got -0\.1"):
        Uncertainty(-0.1)
