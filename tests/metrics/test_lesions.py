"""Lesion scores against values counted by hand and a flood fill in plain loops."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from common.metrics import lesion_scores

EMPTY = np.zeros((4, 5, 6), bool)


def volume(*voxels, shape=(4, 5, 6)):
    mask = np.zeros(shape, bool)
    for voxel in voxels:
        mask[voxel] = True
    return mask


def flood_fill(mask, connectivity):
    """The lesions as sets of voxels, one voxel after the other."""
    reach = {6: 1, 18: 2, 26: 3}[connectivity]
    steps = [step for step in product((-1, 0, 1), repeat=3) if 0 < sum(map(abs, step)) <= reach]
    left, lesions = {tuple(voxel) for voxel in np.argwhere(mask).tolist()}, []
    while left:
        lesion, front = set(), [left.pop()]
        while front:
            voxel = front.pop()
            lesion.add(voxel)
            near = {tuple(a + b for a, b in zip(voxel, step, strict=True)) for step in steps} & left
            left -= near
            front += near
        lesions.append(lesion)
    return lesions


def test_counted_by_hand():
    truth = volume((0, 0, 0), (0, 0, 1), (0, 0, 2), (3, 4, 5), (3, 0, 0))  # three lesions
    prediction = volume((0, 0, 1), (0, 1, 1), (3, 4, 5), (1, 4, 0))  # two that are right, one that is not
    assert lesion_scores(prediction, truth) == pytest.approx(
        {
            "lesion_f1": 2 * 2 / (3 + 3),
            "lesion_precision": 2 / 3,
            "lesion_sensitivity": 2 / 3,
            "truth_lesions": 3,
            "predicted_lesions": 3,
        }
    )


def test_one_predicted_lesion_over_two_true_ones():
    truth = volume((0, 0, 0), (0, 0, 2), (3, 3, 3))
    scores = lesion_scores(volume((0, 0, 0), (0, 0, 1), (0, 0, 2)), truth)
    assert scores["lesion_sensitivity"] == pytest.approx(2 / 3) and scores["lesion_precision"] == 1
    assert scores["lesion_f1"] == pytest.approx(2 * (2 / 3) / (2 / 3 + 1))


@pytest.mark.parametrize(("connectivity", "lesions"), [(6, 3), (18, 2), (26, 1)])
def test_connectivity(connectivity, lesions):
    truth = volume((0, 0, 0), (0, 1, 1), (1, 2, 2))  # an edge, then a corner apart
    assert lesion_scores(EMPTY, truth, connectivity=connectivity)["truth_lesions"] == lesions


def test_corners_connect_by_default():
    assert lesion_scores(EMPTY, volume((0, 0, 0), (1, 1, 1)))["truth_lesions"] == 1


@pytest.mark.parametrize(("min_overlap", "detected"), [(1, 1), (2, 1 / 2), (3, 0)])
def test_overlap_that_is_asked_for(min_overlap, detected):
    truth = volume((0, 0, 0), (0, 0, 1), (0, 0, 2), (3, 0, 0), (3, 0, 1), (3, 0, 2))
    prediction = volume((0, 0, 0), (0, 0, 1), (3, 0, 0))
    scores = lesion_scores(prediction, truth, min_overlap)
    assert scores["lesion_sensitivity"] == detected
    assert scores["lesion_precision"] == 1  # predicted lesions lie wholly in true ones: more is not possible


def test_both_empty():
    scores = lesion_scores(EMPTY, EMPTY)
    names = ["lesion_f1", "lesion_precision", "lesion_sensitivity"]
    assert [scores.pop(name) for name in names] == [1] * 3
    assert set(scores.values()) == {0}


def test_empty_truth():
    scores = lesion_scores(volume((0, 0, 0), (3, 3, 3)), EMPTY)
    for name in ("lesion_f1", "lesion_precision", "truth_lesions"):
        assert scores[name] == 0, name
    assert math.isnan(scores["lesion_sensitivity"])
    assert scores["predicted_lesions"] == 2


def test_empty_prediction():
    scores = lesion_scores(EMPTY, volume((0, 0, 0), (3, 3, 3)))
    for name in ("lesion_f1", "lesion_sensitivity", "predicted_lesions"):
        assert scores[name] == 0, name
    assert math.isnan(scores["lesion_precision"])
    assert scores["truth_lesions"] == 2


def test_nothing_in_common():
    scores = lesion_scores(volume((0, 0, 0)), volume((3, 3, 3)))
    for name in ("lesion_f1", "lesion_precision", "lesion_sensitivity"):
        assert scores[name] == 0, name


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize("min_overlap", [1, 2])
def test_random_volumes_as_by_flood_fill(connectivity, min_overlap):
    for seed in range(10):
        random = np.random.default_rng([seed, 5])
        truth, prediction = (random.random((7, 8, 9)) < share for share in (0.12, 0.1))
        prediction |= truth & (random.random(truth.shape) < 0.2)
        voxels = [{tuple(v) for v in np.argwhere(mask).tolist()} for mask in (prediction, truth)]
        predicted, true = flood_fill(prediction, connectivity), flood_fill(truth, connectivity)
        right = sum(len(lesion & voxels[1]) >= min(min_overlap, len(lesion)) for lesion in predicted)
        found = sum(len(lesion & voxels[0]) >= min(min_overlap, len(lesion)) for lesion in true)
        scores = lesion_scores(prediction, truth, min_overlap, connectivity)
        assert (scores["predicted_lesions"], scores["truth_lesions"]) == (len(predicted), len(true))
        assert scores["lesion_precision"] == right / len(predicted) and scores["lesion_sensitivity"] == found / len(
            true
        )
        p, s = right / len(predicted), found / len(true)
        assert scores["lesion_f1"] == pytest.approx(2 * p * s / (p + s))


def test_2d():
    mask = np.eye(3, dtype=bool)
    assert lesion_scores(mask, mask)["truth_lesions"] == 1 and lesion_scores(mask, mask, 1, 6)["truth_lesions"] == 3


def test_bad_input():
    with pytest.raises(ValueError, match="min_overlap must be at least 1"):
        lesion_scores(EMPTY, EMPTY, 0)
    with pytest.raises(ValueError, match=r"6, 18 or 26 .* got 8"):
        lesion_scores(EMPTY, EMPTY, connectivity=8)
    with pytest.raises(ValueError, match=r"one shape, got \(4, 5, 6\) and \(3, 5, 6\)"):
        lesion_scores(EMPTY, EMPTY[1:])
