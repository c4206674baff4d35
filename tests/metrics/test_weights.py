"""Whether weights know right pseudo-labels from wrong ones, against hand-computed values and plain loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from monai.metrics import compute_roc_auc

from common.metrics import weight_statistics
from common.metrics.weights import PIXELS, area_under_curve

# One image of 1 x 4 pixels, lung and heart: right are pixels 1 and 4 as a whole, 1, 2, 4 of lung and 1, 3, 4 of heart
PSEUDO = torch.tensor([[[[1, 1, 0, 0]], [[0, 1, 0, 1]]]]).float()
TRUTH = torch.tensor([[[[1, 1, 1, 0]], [[0, 0, 0, 1]]]]).float()


def plain_area(scores: np.ndarray, right: np.ndarray) -> float:
    pairs = list(itertools.product(scores[right], scores[~right]))
    return sum((good > bad) + 0.5 * (good == bad) for good, bad in pairs) / len(pairs)


def plain_calibration(confidence: np.ndarray, right: np.ndarray) -> float:
    error = 0.0
    for number in range(15):
        inside = [min(int(p * 15), 14) == number for p in confidence]
        if any(inside):
            error += sum(inside) / len(confidence) * abs(confidence[inside].mean() - right[inside].mean())
    return error


def test_by_hand(multilabel):
    weight = torch.tensor([[[[0.8, 0.4, 0.2, 0.4]]]])
    numbers = weight_statistics(multilabel, PSEUDO, {"weight": weight}, TRUTH)
    assert numbers == pytest.approx(
        {
            "accuracy_weight": 1.2 / 1.8,
            "auc_weight": (2 + 1.5) / 4,  # 0.8 is over both wrong ones, 0.4 over one of them and equal to the other
            "auc_weight_heart": 0.5,  # pixel 4 is right and 2 is wrong, of equal weight; those of lung are all right
        }
    )


def test_weights_of_classes_by_hand(multilabel):
    weight = torch.tensor([[[[0.9, 0.5, 0.1, 0.2]], [[0.3, 0.7, 0.4, 0.6]]]])
    numbers = weight_statistics(multilabel, PSEUDO, {"weight": weight, "Part": 1 - weight}, TRUTH)
    right = np.array([1, 1, 0, 1, 1, 0, 1, 1], bool)
    scores = weight.flatten().double().numpy()
    assert numbers == pytest.approx(
        {
            "accuracy_weight": (scores * right).sum() / scores.sum(),
            "auc_weight": plain_area(scores, right),
            "auc_weight_heart": 0,  # 0.6 of the right pixel, 0.7 of the wrong one
            "accuracy_Part": ((1 - scores) * right).sum() / (1 - scores).sum(),
            "auc_Part": plain_area(1 - scores, right),
        }
    )


def test_confidence_against_loops(labels):
    rng = torch.Generator().manual_seed(0)
    shape = (2, labels.num_classes if labels.multilabel else 1, 5, 7)
    confidence = 0.5 + torch.rand(shape, generator=rng) / 2
    label = torch.randint(0, 2, shape, generator=rng).float()
    truth = torch.where(torch.rand(shape, generator=rng) < 0.3, 1 - label, label)
    numbers = weight_statistics(labels, label, {}, truth, confidence)
    right, scores = (label == truth).flatten().numpy(), confidence.flatten().double().numpy()
    sure = scores > 0.95
    assert numbers == pytest.approx(
        {
            "auc_probability": plain_area(scores, right),
            "confident": sure.mean(),
            "confident_wrong": (sure & ~right).sum() / sure.sum(),
            "calibration_error": plain_calibration(scores, right),
        }
    )
    assert 0 < numbers["confident_wrong"] < 1


def test_area_is_that_of_pairs_with_ties():
    rng = np.random.default_rng(0)
    scores, right = rng.integers(0, 6, 60) / 5, rng.random(60) < 0.6
    assert area_under_curve(torch.tensor(scores), torch.tensor(right)).item() == pytest.approx(
        plain_area(scores, right)
    )
    by_monai = compute_roc_auc(torch.tensor(scores), torch.tensor(right).int())
    assert area_under_curve(torch.tensor(scores), torch.tensor(right)).item() == pytest.approx(by_monai)
    assert np.isnan(area_under_curve(torch.ones(3), torch.ones(3, dtype=torch.bool)).item())
    assert np.isnan(area_under_curve(torch.ones(0), torch.ones(0, dtype=torch.bool)).item())


@pytest.mark.parametrize(("side", "period"), [(256, 2), (192, 3)])
def test_of_many_pixels_some_are_looked_at_all_over_the_images(multilabel, side, period):
    """Columns are right or wrong in turns, of which a stride that divides the side would see one kind alone."""
    assert 4 * side**2 > 2 * PIXELS
    label = torch.zeros(4, 2, side, side)
    truth = label.clone()
    truth[..., 1::period] = 1
    weight = torch.where(truth[:, :1] > 0, 0.1, 0.9)
    numbers = weight_statistics(multilabel, label, {"weight": weight}, truth)
    assert numbers == pytest.approx({"accuracy_weight": 0.9 / (0.9 + 0.1 / (period - 1)), "auc_weight": 1.0})


def test_what_is_undefined_has_no_value(multilabel):
    assert weight_statistics(multilabel, PSEUDO, {"weight": torch.zeros(1, 1, 1, 4)}, PSEUDO) == {}
