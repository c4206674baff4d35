"""Shared strongest features and cosines against loops in float64 and by hand, ties included."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from common.weights.similarity import similarities, strongest


def plain_strongest(row, k):
    """Indices of the k largest, of equal ones the first."""
    return set(sorted(range(len(row)), key=lambda i: (-row[i], i))[:k])


def plain_cosine(one, other):
    length = math.sqrt(sum(a * a for a in one)) * math.sqrt(sum(b * b for b in other))
    return max(sum(a * b for a, b in zip(one, other, strict=True)) / length, 0)


def rows_of(features):
    return [features[(b, slice(None), *place)].tolist() for b, *place in np.ndindex(len(features), *features.shape[2:])]


@pytest.mark.parametrize("k", [1, 2, 5, 8])
@pytest.mark.parametrize("values", ["distinct", "ties", "half precision"])
@pytest.mark.parametrize("size", [(5, 4), (2, 3, 4)])
def test_shared_features_equal_loops(k, values, size):
    rng = np.random.default_rng(k)
    features = torch.from_numpy(rng.normal(size=(2, 8, *size))).float()
    if values == "ties":
        features = torch.from_numpy(rng.integers(-1, 2, (2, 8, *size))).float()
    features = features.bfloat16() if values == "half precision" else features
    prototypes = torch.from_numpy(rng.integers(0, 4, (3, 8))).float()
    before = features.clone()
    found = similarities(features, prototypes, k)
    assert found.shape == (2, *size, 3) and found.dtype == torch.float32 and torch.equal(features, before)
    for row, shares in zip(rows_of(features.double()), found.reshape(-1, 3).tolist(), strict=True):
        mine = plain_strongest(row, k)
        expected = [len(mine & plain_strongest(each, k)) / k for each in prototypes.tolist()]
        assert shares == pytest.approx(expected, rel=1e-6)
    if 1 < k < 8:
        assert len(found.unique()) > 1
    assert k < 8 or (found == 1).all()  # all features are all features


def test_the_order_in_memory_makes_no_difference():
    features, prototypes = torch.randn(2, 6, 5, 4).round(), torch.randn(3, 6)
    last = features.to(memory_format=torch.channels_last)
    assert not last.is_contiguous() and torch.equal(
        similarities(last, prototypes, 3), similarities(features, prototypes, 3)
    )


def test_the_first_of_equal_features_is_the_stronger_one():
    rows = torch.tensor([[1.0, 3, 3, 3, 0], [2, 2, 2, 2, 2], [-1, -3, -1, -2, -1], [0, 0, 5, 0, 0]])
    assert strongest(rows, 2).tolist() == [[0, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [1, 0, 1, 0, 0]]
    assert strongest(rows, 1).tolist() == [[0, 1, 0, 0, 0], [1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [0, 0, 1, 0, 0]]


def test_shares_by_hand():
    """Of the pixel's 1, 2, 4 the prototypes' 1, 2, 4 are three, 0, 1, 4 two, and 0, 3, 5 none."""
    pixel = torch.tensor([0.1, 9.0, 3.0, -20.0, 2.0, 0.0]).view(1, 6, 1, 1)
    prototypes = torch.tensor([[0.0, 1, 3, 0, 2, 0], [5, 6, 0, 0, 7, 0], [1, 0, 0, 1, 0, 1]])
    assert similarities(pixel, prototypes, 3).flatten().tolist() == pytest.approx([1, 2 / 3, 0])


def test_ranks_do_not_ask_how_large_features_are_and_cosines_do():
    pixel = torch.tensor([4.0, 3.0, 2.0, 0.0]).view(1, 4, 1, 1)
    other = torch.tensor([[100.0, 1.5, 0.2, 0.1]])
    assert similarities(pixel, other, 3).item() == 1
    assert similarities(pixel, other, None).item() == pytest.approx(plain_cosine([4, 3, 2, 0], other[0].tolist()))
    assert similarities(pixel, other, None).item() < 0.8


@pytest.mark.parametrize("size", [(5, 4), (2, 3, 4)])
def test_cosines_equal_loops(size):
    rng = np.random.default_rng(0)
    features, prototypes = rng.normal(size=(2, 6, *size)), rng.normal(size=(3, 6))
    found = similarities(torch.from_numpy(features).float(), torch.from_numpy(prototypes).float(), None)
    for row, values in zip(rows_of(features), found.reshape(-1, 3).tolist(), strict=True):
        assert values == pytest.approx([plain_cosine(row, each) for each in prototypes], abs=1e-6)
    assert (found == 0).any() and (found > 0).any()  # the opposite is as little alike as can be


def test_a_feature_of_zeros_is_like_nothing():
    assert similarities(torch.zeros(1, 4, 1, 1), torch.ones(1, 4), None).item() == 0


@pytest.mark.parametrize("k", [3, None])
def test_mixed_precision_does_not_round(k):
    features, prototypes = torch.rand(1, 6, 8, 8), torch.rand(2, 6)
    expected = similarities(features, prototypes, k)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(similarities(features, prototypes, k), expected)
