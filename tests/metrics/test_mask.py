"""Scores of masks against values counted by hand and surface distances in plain loops."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from common.metrics import mask_scores

EMPTY = np.zeros((4, 5), bool)


def mask(*pixels, shape=(4, 5)):
    values = np.zeros(shape, bool)
    for pixel in pixels:
        values[pixel] = True
    return values


def surface(values):
    """Pixels of a mask with a neighbour outside it, or at the border, one after the other."""
    found = []
    for place in map(tuple, np.argwhere(values)):
        for axis, step in product(range(values.ndim), (-1, 1)):
            near = list(place)
            near[axis] += step
            if not 0 <= near[axis] < values.shape[axis] or not values[tuple(near)]:
                found.append(place)
                break
    return np.array(found, dtype=float)


def distances(one, other, spacing):
    return np.array([np.sqrt((((place - other) * spacing) ** 2).sum(1)).min() for place in one])


def test_counted_by_hand():
    truth = mask((0, 0), (0, 1), (0, 2), (3, 4), (2, 0))
    prediction = mask((0, 1), (1, 1), (3, 4), (1, 4))
    scores = mask_scores(prediction, truth)
    assert scores["iou"] == pytest.approx(2 / 7) and scores["dice"] == pytest.approx(4 / 9)
    assert scores["precision"] == pytest.approx(2 / 4) and scores["sensitivity"] == pytest.approx(2 / 5)
    assert math.isnan(scores["surface_dice"]), "no spacing is known"


@pytest.mark.parametrize("shape", [(9, 11), (7, 8, 9)])
def test_surfaces_in_plain_loops(shape):
    spacing = np.array([0.7, 1.3, 2.0][: len(shape)])
    for seed in range(3):
        random = np.random.default_rng([seed, 1])
        truth = np.zeros(shape, bool)
        truth[tuple(slice(1, size - 2) for size in shape)] = True
        prediction = np.roll(truth, 1, axis=0) ^ (random.random(shape) < 0.03)
        scores = mask_scores(prediction, truth, spacing, tolerance=0.8)
        to_truth = distances(surface(prediction), surface(truth), spacing)
        to_prediction = distances(surface(truth), surface(prediction), spacing)
        farther = max(np.percentile(to_truth, 95), np.percentile(to_prediction, 95))
        assert scores["hausdorff95"] == pytest.approx(farther, rel=1e-4)
        near = (to_truth <= 0.8).sum() + (to_prediction <= 0.8).sum()
        assert scores["surface_dice"] == pytest.approx(near / (len(to_truth) + len(to_prediction)), rel=1e-5)


def test_empty_masks():
    full = mask((1, 1), (1, 2))
    both = mask_scores(EMPTY, EMPTY)
    assert [both[name] for name in ("iou", "dice", "precision", "sensitivity")] == [1] * 4
    wrong = mask_scores(full, EMPTY)
    assert wrong["iou"] == wrong["dice"] == wrong["precision"] == 0 and math.isnan(wrong["sensitivity"])
    missed = mask_scores(EMPTY, full)
    assert missed["iou"] == missed["dice"] == missed["sensitivity"] == 0 and math.isnan(missed["precision"])
    assert all(math.isnan(found["hausdorff95"]) for found in (both, wrong, missed))
    assert mask_scores(EMPTY, full, (1, 1))["surface_dice"] == mask_scores(full, EMPTY, (1, 1))["surface_dice"] == 0
    assert math.isnan(mask_scores(EMPTY, EMPTY, (1, 1))["surface_dice"])


def test_bad_input():
    with pytest.raises(ValueError, match=r"prediction must be a boolean mask .* got uint8 of shape \(4, 5\)"):
        mask_scores(EMPTY.astype(np.uint8), EMPTY)
    with pytest.raises(ValueError, match=r"truth must be a boolean mask .* shape \(5,\)"):
        mask_scores(EMPTY, EMPTY[0])
    with pytest.raises(ValueError, match=r"one shape, got \(4, 5\) and \(3, 5\)"):
        mask_scores(EMPTY, EMPTY[1:])
    for spacing in ((1, 0), (1, math.nan), (1, 1, 1)):
        with pytest.raises(ValueError, match="spacing must be 2 lengths above 0"):
            mask_scores(EMPTY, EMPTY, spacing)
