"""The Dice loss against plain loops, MONAI's, and values by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.losses import DiceLoss

from common.label_space import LabelSpace
from common.losses import dice_loss


def plain(probabilities: np.ndarray, masks: np.ndarray, weight: np.ndarray) -> float:
    losses = []
    for j in range(masks.shape[1]):
        overlap = total = 0.0
        for index in np.ndindex(masks[:, j].shape):
            p, y = float(probabilities[:, j][index]), float(masks[:, j][index])
            w = float(weight[:, 0][index])
            overlap += w * p * y
            total += w * p + w * y
        losses.append(1 - (2 * overlap + 1) / (total + 1))
    return sum(losses) / len(losses)


@pytest.fixture
def case(labels):
    rng = np.random.default_rng(0)
    shape = (2, 4, 3, 2)
    logits = rng.normal(size=(2, labels.num_outputs, *shape[1:]))
    classes = rng.integers(0, 3, (2, 1, *shape[1:]))
    masks = np.concatenate([classes == 1, classes == 2], axis=1).astype(float)
    if labels.multilabel:
        return logits, masks, masks, 1 / (1 + np.exp(-logits))
    exponentials = np.exp(logits)
    return logits, classes, masks, (exponentials / exponentials.sum(1, keepdims=True))[:, 1:]


@pytest.mark.parametrize("weighted", [False, True])
def test_equals_plain_loops(labels, case, weighted):
    logits, label, masks, probabilities = case
    weight = np.random.default_rng(1).random((2, 1, *masks.shape[2:])) if weighted else None
    loss = dice_loss(
        labels, torch.tensor(logits), torch.tensor(label), None if weight is None else torch.tensor(weight)
    )
    expected = plain(probabilities, masks, np.ones((2, 1, *masks.shape[2:])) if weight is None else weight)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_equals_monai_over_the_batch(labels, case):
    logits, label, masks, probabilities = case
    theirs = DiceLoss(batch=True, smooth_nr=1.0, smooth_dr=1.0)(torch.tensor(probabilities), torch.tensor(masks))
    assert dice_loss(labels, torch.tensor(logits), torch.tensor(label)).item() == pytest.approx(theirs.item(), abs=1e-6)


def test_by_hand():
    labels = LabelSpace(["lesion"])
    logits = torch.tensor([math.log(3), -math.log(3), 0.0, 0.0]).reshape(1, 1, 2, 2)  # 3/4, 1/4, 1/2, 1/2
    label = torch.tensor([1.0, 0, 1, 0]).reshape(1, 1, 2, 2)
    # overlap 5/4, sum of probabilities 2, of the label 2
    assert dice_loss(labels, logits, label).item() == pytest.approx(1 - 3.5 / 5)
    # a voxel without weight is not there
    weight = torch.tensor([1.0, 1, 0, 1]).reshape(1, 1, 2, 2)
    assert dice_loss(labels, logits, label, weight).item() == pytest.approx(1 - 2.5 / 3.5)


def test_patches_without_the_class_cost_nothing_when_none_is_predicted():
    labels = LabelSpace(["lesion"])
    nothing = torch.zeros(2, 1, 4, 4, 4)
    assert dice_loss(labels, nothing - 50, nothing).item() == pytest.approx(0, abs=1e-6)
    assert dice_loss(labels, nothing + 50, nothing).item() > 0.99


def test_is_taken_in_single_precision():
    labels = LabelSpace(["lesion"])
    logits = torch.zeros(1, 1, 64, 64, 64, dtype=torch.float16)  # the sum is beyond half precision
    assert dice_loss(labels, logits, torch.ones(1, 1, 64, 64, 64)).item() == pytest.approx(1 / 3, abs=1e-4)


def test_refuses_a_label_of_another_shape():
    with pytest.raises(ValueError, match=r"\(1, 1, 4, 4\) masks, got \(1, 2, 4, 4\)"):
        dice_loss(LabelSpace(["lesion"]), torch.zeros(1, 1, 4, 4), torch.zeros(1, 2, 4, 4))
