"""Statistics of pseudo-labels against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from common.label_space import LabelSpace
from common.metrics import pseudo_label_statistics

# Two images of 1 x 4 pixels; classes lung and heart, which overlap in one pixel of the first image.
PSEUDO = torch.tensor([[[[1, 1, 0, 0]], [[0, 1, 0, 0]]], [[[1, 0, 0, 0]], [[0, 0, 0, 1]]]]).float()
TRUTH = torch.tensor([[[[1, 1, 1, 0]], [[0, 0, 0, 0]]], [[[1, 0, 0, 0]], [[0, 0, 1, 1]]]]).float()
WEIGHT = torch.tensor([[[[0.4, 0.8, 0.1, 0.0]]], [[[1.0, 0.05, 0.3, 0.6]]]])
MULTILABEL_EXPECTED = {
    "pixel_share": 5 / 8,  # 0.4, 0.8, 1, 0.3, 0.6 lie above 0.1
    "weight_mean": 3.25 / 8,
    "weight_lung": (0.4 + 0.8 + 1.0) / 3,
    "weight_heart": (0.8 + 0.6) / 2,
    "pseudo_accuracy": 5 / 8,  # wrong: pixels 1 and 2 of the first image, 2 of the second
    "pseudo_iou_lung": 3 / 4,
    "pseudo_iou_heart": 1 / 3,
}


def test_multilabel_by_hand(multilabel):
    numbers = pseudo_label_statistics(multilabel, PSEUDO, WEIGHT, TRUTH)
    assert numbers == pytest.approx(MULTILABEL_EXPECTED)
    assert all(type(number) is float for number in numbers.values())


def test_multiclass_by_hand(multiclass):
    pseudo = torch.tensor([[0, 1], [2, 2]]).reshape(1, 1, 2, 2).float()
    truth = torch.tensor([[0, 1], [1, 2]]).reshape(1, 1, 2, 2).float()
    weight = torch.tensor([[0.0, 0.5], [0.25, 0.75]]).reshape(1, 1, 2, 2)
    assert pseudo_label_statistics(multiclass, pseudo, weight, truth) == pytest.approx(
        {
            "pixel_share": 3 / 4,
            "weight_mean": 0.375,
            "weight_lung": 0.5,
            "weight_heart": 0.5,
            "pseudo_accuracy": 3 / 4,
            "pseudo_iou_lung": 1 / 2,
            "pseudo_iou_heart": 1 / 2,
        }
    )


def test_without_truth_there_is_no_score_of_it(multilabel):
    numbers = pseudo_label_statistics(multilabel, PSEUDO, WEIGHT)
    expected = {name: value for name, value in MULTILABEL_EXPECTED.items() if not name.startswith("pseudo")}
    assert numbers == pytest.approx(expected)


def test_classes_that_do_not_occur_have_no_value():
    labels = LabelSpace(["lung", "heart", "clavicle", "rib"], "multilabel")
    nothing = torch.zeros(2, 2, 1, 4)
    truth = torch.cat([TRUTH, nothing], dim=1)
    truth[0, 3, 0, 0] = 1  # a rib that the pseudo-label misses
    numbers = pseudo_label_statistics(labels, torch.cat([PSEUDO, nothing], dim=1), WEIGHT, truth)
    assert not {"weight_clavicle", "weight_rib", "pseudo_iou_clavicle"} & set(numbers)
    assert numbers["pseudo_iou_rib"] == 0
    assert numbers["pseudo_accuracy"] == pytest.approx(4 / 8)


def test_truth_as_the_loader_gives_it_and_weights_of_half_precision(multilabel):
    numbers = pseudo_label_statistics(multilabel, PSEUDO, WEIGHT.half(), MetaTensor(TRUTH))
    assert numbers == pytest.approx(MULTILABEL_EXPECTED, abs=1e-3)


def test_weights_of_each_class_count_by_their_mean(multilabel):
    """A pixel's weight is the mean over its classes'."""
    both = torch.cat([1.5 * WEIGHT, 0.5 * WEIGHT], dim=1)
    assert pseudo_label_statistics(multilabel, PSEUDO, both, TRUTH) == pytest.approx(MULTILABEL_EXPECTED)


def test_soft_labels_are_what_is_more_probable_than_not(multilabel, multiclass):
    soft = 0.4 + 0.2 * PSEUDO
    assert pseudo_label_statistics(multilabel, soft, WEIGHT, TRUTH) == pytest.approx(MULTILABEL_EXPECTED)
    hard = torch.tensor([[0, 1], [2, 2]]).reshape(1, 1, 2, 2)
    soft = 0.2 + 0.4 * multiclass.one_hot(hard)  # 0.6 of the class, 0.2 of each other one
    weight, truth = torch.rand(1, 1, 2, 2), torch.tensor([[0, 1], [1, 2]]).reshape(1, 1, 2, 2)
    expected = pseudo_label_statistics(multiclass, hard, weight, truth)
    assert pseudo_label_statistics(multiclass, soft, weight, truth) == pytest.approx(expected)


def test_volumes_take_the_same_path(labels):
    label = torch.randint(0, 3 - labels.multilabel, (2, 1 + labels.multilabel, 3, 4, 5))
    numbers = pseudo_label_statistics(labels, label, torch.ones(2, 1, 3, 4, 5), label)
    assert numbers == {name: 1 for name in MULTILABEL_EXPECTED}
