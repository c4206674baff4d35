"""Scores slice by slice against values counted by hand and plain loops over pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from common.metrics import slice_scores


def volume(*slices):
    """Slices as rows of text, # inside, along the last axis."""
    rows = [[[pixel == "#" for pixel in line] for line in text.split("/")] for text in slices]
    return np.stack([np.array(one) for one in rows], axis=-1)


def test_counted_by_hand():
    truth = volume("##./...", "#../##.", ".../...", ".../...")
    prediction = volume("#../.#.", "#../...", "##./#..", ".../...")
    scores = slice_scores(prediction, truth)
    # Dice 2 * 1 / (2 + 2) and 2 * 1 / (1 + 3); of 2 pixels 1 is found, of 3 one; 3 false pixels in one slice of two
    assert scores["slice_dice"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert scores["slice_sensitivity"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert scores["false_positive_area"] == pytest.approx(3 / 2)
    assert (scores["slices_with"], scores["slices_without"]) == (2, 2)


def plain(prediction, truth):
    """In loops, slice by slice and pixel by pixel."""
    dices, sensitivities, areas = [], [], []
    for place in range(truth.shape[2]):
        hits = predicted = true = 0
        for row in range(truth.shape[0]):
            for column in range(truth.shape[1]):
                p, t = prediction[row, column, place], truth[row, column, place]
                hits, predicted, true = hits + (p and t), predicted + p, true + t
        if true:
            dices.append(2 * hits / (predicted + true))
            sensitivities.append(hits / true)
        else:
            areas.append(predicted)
    return [sum(values) / len(values) for values in (dices, sensitivities, areas)]


@pytest.mark.parametrize("seed", range(3))
def test_in_plain_loops(seed):
    random = np.random.default_rng(seed)
    truth = (random.random((5, 6, 9)) < 0.2) & (np.arange(9) % 3 > 0)
    prediction = truth ^ (random.random(truth.shape) < 0.15)
    scores = slice_scores(prediction, truth)
    found = [scores[name] for name in ("slice_dice", "slice_sensitivity", "false_positive_area")]
    np.testing.assert_allclose(found, plain(prediction, truth), rtol=1e-12)


def test_means_over_no_slice_are_not_defined():
    full = volume("##/##", "##/##")
    everywhere = slice_scores(full, full)
    assert everywhere["slice_dice"] == 1 and math.isnan(everywhere["false_positive_area"])
    assert (everywhere["slices_with"], everywhere["slices_without"]) == (2, 0)
    nowhere = slice_scores(full, ~full)
    assert nowhere["false_positive_area"] == 4
    assert math.isnan(nowhere["slice_dice"]) and math.isnan(nowhere["slice_sensitivity"])


def test_a_slice_in_which_nothing_is_found():
    assert slice_scores(volume("../.."), volume("#./.."))["slice_dice"] == 0


def test_masks_of_pictures_have_no_slices():
    with pytest.raises(ValueError, match=r"masks must have three axes, the last one of slices, got shape \(4, 5\)"):
        slice_scores(np.zeros((4, 5), bool), np.zeros((4, 5), bool))
    with pytest.raises(ValueError, match="truth must be a boolean mask"):
        slice_scores(np.zeros((4, 5, 2), bool), np.zeros((4, 5, 2)))
