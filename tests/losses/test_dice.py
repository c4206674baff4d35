"""The Dice loss against plain loops, MONAI's, and values by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.losses import DiceLoss

from common.label_space import LabelSpace
from common.losses import Dice

SHAPE = (3, 4, 3, 2)
PER_CLASS = "of each class"


def plain(probabilities: np.ndarray, masks: np.ndarray, weight: np.ndarray, per_image: bool) -> float:
    losses = []
    for images in [[b] for b in range(len(masks))] if per_image else [range(len(masks))]:
        for c in range(masks.shape[1]):
            overlap = total = 0.0
            for b in images:
                for place in np.ndindex(masks.shape[2:]):
                    p, y = float(probabilities[(b, c, *place)]), float(masks[(b, c, *place)])
                    w = float(weight[(b, min(c, weight.shape[1] - 1), *place)])
                    overlap += w * p * y
                    total += w * p + w * y
            losses.append(1 - (2 * overlap + 1) / (total + 1))
    return sum(losses) / len(losses)


def case(labels, soft=False):
    """Outputs, a label, and both as probabilities and masks of all channels."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(SHAPE[0], labels.num_outputs, *SHAPE[1:]))
    if labels.multilabel:
        label = rng.random(logits.shape) if soft else rng.integers(0, 2, logits.shape).astype(float)
        return logits, label, 1 / (1 + np.exp(-logits)), label
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    if soft:
        label = rng.random(logits.shape)
        label /= label.sum(1, keepdims=True)
        return logits, label, p, label
    label = rng.integers(0, 3, (SHAPE[0], 1, *SHAPE[1:]))
    return logits, label, p, np.concatenate([label == 0, label == 1, label == 2], axis=1).astype(float)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("weighted", [False, True, PER_CLASS])
@pytest.mark.parametrize("per_image", [False, True])
def test_equals_plain_loops(labels, per_image, weighted, background, soft):
    logits, label, probabilities, masks = case(labels, soft)
    if not background:
        probabilities, masks = probabilities[:, -2:], masks[:, -2:]
    channels = masks.shape[1] if weighted == PER_CLASS else 1
    weight = np.random.default_rng(1).random((SHAPE[0], channels, *SHAPE[1:])) if weighted else None
    found = Dice(per_image, background)(
        labels, torch.tensor(logits), torch.tensor(label), None if weight is None else torch.tensor(weight)
    )
    weight = np.ones((SHAPE[0], 1, *SHAPE[1:])) if weight is None else weight
    assert found.item() == pytest.approx(plain(probabilities, masks, weight, per_image), abs=1e-6)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("per_image", [False, True])
def test_equals_monai(labels, per_image, squared, soft):
    logits, label, probabilities, masks = case(labels, soft)
    theirs = DiceLoss(batch=not per_image, squared_pred=squared, smooth_nr=1.0, smooth_dr=1.0)
    expected = theirs(torch.tensor(probabilities[:, -2:]), torch.tensor(masks[:, -2:])).item()
    found = Dice(per_image, squared=squared)(labels, torch.tensor(logits), torch.tensor(label))
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_by_hand():
    labels = LabelSpace(["lesion"])
    logits = torch.tensor([math.log(3), -math.log(3), 0.0, 0.0]).reshape(1, 1, 2, 2)  # 3/4, 1/4, 1/2, 1/2
    label = torch.tensor([1.0, 0, 1, 0]).reshape(1, 1, 2, 2)
    # overlap 5/4, sum of probabilities 2, of the label 2
    assert Dice()(labels, logits, label).item() == pytest.approx(1 - 3.5 / 5)
    # a voxel without weight is not there
    weight = torch.tensor([1.0, 1, 0, 1]).reshape(1, 1, 2, 2)
    assert Dice()(labels, logits, label, weight).item() == pytest.approx(1 - 2.5 / 3.5)


def test_per_image_by_hand():
    labels = LabelSpace(["lesion"])
    logits = torch.zeros(2, 1, 2, 1)  # 1/2 everywhere
    label = torch.tensor([1.0, 1, 0, 0]).view(2, 1, 2, 1)
    # first image: overlap 1, sums 1 and 2; second: overlap 0, sums 1 and 0
    assert Dice(per_image=True)(labels, logits, label).item() == pytest.approx(((1 - 3 / 4) + (1 - 1 / 2)) / 2)
    assert Dice()(labels, logits, label).item() == pytest.approx(1 - 3 / 5)


def test_background_of_the_softmax_by_hand():
    labels = LabelSpace(["lesion"], "multiclass")
    logits = torch.log(torch.tensor([3.0, 1.0])).view(1, 2, 1, 1)  # 3/4 background
    label = torch.zeros(1, 1, 1, 1)
    assert Dice()(labels, logits, label).item() == pytest.approx(1 - 1 / 1.25)
    assert Dice(background=True)(labels, logits, label).item() == pytest.approx(((1 - 1 / 1.25) + (1 - 2.5 / 2.75)) / 2)


def test_patches_without_the_class_cost_nothing_when_none_is_predicted():
    labels = LabelSpace(["lesion"])
    nothing = torch.zeros(2, 1, 4, 4, 4)
    for loss in (Dice(), Dice(per_image=True)):
        assert loss(labels, nothing - 50, nothing).item() == pytest.approx(0, abs=1e-6)
        assert loss(labels, nothing + 50, nothing).item() > 0.98


def test_a_pixel_of_no_weight_has_no_gradient(labels):
    logits, label, _, _ = case(labels)
    logits = torch.tensor(logits, requires_grad=True)
    weight = torch.ones(SHAPE[0], 1, *SHAPE[1:])
    weight[:, :, 1] = 0
    Dice()(labels, logits, torch.tensor(label), weight).backward()
    assert (logits.grad[:, :, 1] == 0).all() and (logits.grad[:, :, 0] != 0).all()


def test_is_taken_in_single_precision():
    labels = LabelSpace(["lesion"])
    logits = torch.zeros(1, 1, 64, 64, 64, dtype=torch.float16)  # the sum is beyond half precision
    found = Dice()(labels, logits, torch.ones(1, 1, 64, 64, 64).half(), torch.ones(1, 1, 64, 64, 64).half())
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(1 / 3, abs=1e-4)


def test_refuses_a_label_of_another_shape():
    with pytest.raises(ValueError, match=r"need a label of \(1, 1, 4, 4\) masks, got \(1, 2, 4, 4\)"):
        Dice()(LabelSpace(["lesion"]), torch.zeros(1, 1, 4, 4), torch.zeros(1, 2, 4, 4))


@pytest.mark.parametrize("per_image", [False, True])
def test_classes_that_the_label_does_not_show_can_be_left_out(multiclass, per_image):
    """By weight, too: a pixel that does not count shows nothing."""
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    label, weight = torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4)
    label[0, 0, 0, :2], label[1, 0, 1, :3] = 1, 1
    label[0, 0, 3, 3], weight[0, 0, 3, 3] = 2, 0  # the second class, where nothing counts
    found = Dice(per_image=per_image, absent=False)(multiclass, logits, label, weight)
    p, w = logits.softmax(1).detach().double().numpy()[:, 1], weight.double().numpy()[:, 0]
    y = (label.numpy()[:, 0] == 1) * 1.0
    axes = (1, 2) if per_image else None
    expected = 1 - (2 * (w * p * y).sum(axes) + 1) / ((w * p).sum(axes) + (w * y).sum(axes) + 1)
    assert found.item() == pytest.approx(np.mean(expected), rel=1e-5)
    (gradient,) = torch.autograd.grad(Dice(absent=False)(multiclass, logits, torch.zeros(2, 1, 4, 4)), logits)
    assert not gradient.any()  # a label of background alone teaches nothing
