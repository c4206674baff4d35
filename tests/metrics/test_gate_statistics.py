"""What a gate accepts and whether it is right, against loops, MONAI and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics import compute_roc_auc

from common.label_space import LabelSpace
from common.metrics import gate_statistics, image_dice


def plain_dice(one, other):
    both, total = sum(a and b for a, b in zip(one, other, strict=True)), sum(one) + sum(other)
    return 2 * both / total if total else 1.0


@pytest.mark.parametrize("size", [(4, 5), (3, 2, 4)])
def test_dice_of_each_image_and_class(labels, size):
    draw = np.random.default_rng(0)
    shape = (5, 2, *size) if labels.multilabel else (5, 1, *size)
    label, truth = (draw.integers(0, 2 if labels.multilabel else 3, shape) for _ in range(2))
    label[0] = truth[0] = 0  # without any class
    truth[1] = 0
    found = image_dice(labels, torch.from_numpy(label).float(), torch.from_numpy(truth).float())
    assert found.shape == (5, 2)
    for b, c in np.ndindex(5, 2):
        one, other = (x[b, c] if labels.multilabel else x[b, 0] == c + 1 for x in (label, truth))
        assert found[b, c].item() == pytest.approx(plain_dice(one.ravel().tolist(), other.ravel().tolist()))
    assert found[0].tolist() == [1, 1] and found[1].tolist() == [0, 0]


def test_a_soft_label_is_decided_at_one_half():
    label = torch.tensor([0.4, 0.6, 0.9, 0.1]).view(1, 1, 2, 2)
    found = image_dice(LabelSpace(["a"]), label, torch.tensor([1.0, 1, 0, 0]).view(1, 1, 2, 2))
    assert found.item() == pytest.approx(0.5)


def test_by_hand():
    scores, accepted = np.array([0.9, 0.6, 0.4, 0.2]), np.array([1.0, 1, 0, 0])
    found = gate_statistics(scores, accepted, np.array([0.8, 0.2, 0.6, 0.2]))
    assert found == pytest.approx(
        {
            "accepted": 0.5,
            "gate_score": 0.525,
            "dice_accepted": 0.5,
            "dice_refused": 0.4,
            "gate_auc": 4 / 5,  # pairs of different Dice: 4 right, and 0.6 of score 0.4 against 0.2 of score 0.6 wrong
        }
    )


def test_shares_of_pixels_weigh():
    found = gate_statistics(np.array([0.75, 0.25]), np.array([0.75, 0.25]), np.array([1.0, 0.6]))
    assert found["dice_accepted"] == pytest.approx(0.9) and found["dice_refused"] == pytest.approx(0.7)


def test_auc_is_that_of_pairs_and_of_right_and_wrong_the_roc_curve_s():
    draw = np.random.default_rng(1)
    scores = draw.integers(0, 6, 40) / 6  # with ties
    dice = draw.integers(0, 4, 40) / 3
    wins = pairs = 0
    for i, j in np.ndindex(40, 40):
        if dice[i] > dice[j]:
            pairs += 1
            wins += (scores[i] > scores[j]) + (scores[i] == scores[j]) / 2
    assert gate_statistics(scores, scores, dice)["gate_auc"] == pytest.approx(wins / pairs)
    right = (dice > 0.5).astype(float)
    expected = compute_roc_auc(torch.from_numpy(scores), torch.from_numpy(right))
    assert gate_statistics(scores, scores, right)["gate_auc"] == pytest.approx(float(expected))


def test_what_is_undefined_has_no_value():
    scores = np.array([0.3, 0.4])
    assert set(gate_statistics(scores, np.ones(2))) == {"accepted", "gate_score"}
    found = gate_statistics(scores, np.ones(2), np.array([0.5, 0.5]))
    assert set(found) == {"accepted", "gate_score", "dice_accepted"}
    found = gate_statistics(scores, np.zeros(2), np.array([0.5, np.nan]))
    assert set(found) == {"accepted", "gate_score", "dice_refused"} and found["dice_refused"] == 0.5
