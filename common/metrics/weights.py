"""Whether the weights of pseudo-labels know right ones from wrong ones."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from common.label_space import LabelSpace
from common.metrics.comparisons import defined

SURE = 0.95  # a confidence above which methods trust a pixel
PIXELS = 2**16  # that are looked at, spread evenly: an area under a curve is sure to 0.01 with far fewer
BINS = 15  # of the calibration error


@torch.no_grad()
def weight_statistics(
    labels: LabelSpace,
    pseudo_label: Tensor,
    weights: Mapping[str, Tensor],
    truth: Tensor,
    confidence: Tensor | None = None,
) -> dict[str, float]:
    """Numbers that say whether what counts is right.

    Args:
        labels: the label space.
        pseudo_label: a label of the label space, hard or soft.
        weights: by name, weights of each pixel, ``B 1 H W [D]``, or of each of its classes, ``B C H W [D]``. The first
            is that of the loss; others are its factors.
        truth: the hidden truth in the pseudo-label's form.
        confidence: the network's probability of what the label says, in such a form.

    Returns:
        ``accuracy_<name>``, the share of right pixels where each counts as its weight says, and ``auc_<name>``, of all
        pairs of a right and a wrong pixel the share in which the right one has the higher weight, ties counting half;
        of the first also ``auc_<name>_<class>``, of the pixels that are taken for the class. Of a confidence
        ``auc_probability``, ``confident`` and ``confident_wrong``, the share of pixels with a confidence over 0.95 and
        the share of these that are wrong, and ``calibration_error``, the mean difference of confidence and accuracy in
        15 bins (Guo et al. 2017). Areas and the calibration error are of at most 65,536 pixels. A pixel is right where
        its whole label is; where weights are of classes, each class of a pixel is one, and weights of classes that are
        fused to others count by their mean. ``auc_<name>_<class>`` is of this class alone. ``Ones`` as a factor,
        and what is undefined, has no value.
    """
    masks, true = (labels.masks(label) > 0.5 for label in (pseudo_label, truth))
    numbers: dict[str, Tensor] = {}
    for place, (name, weight) in enumerate(weights.items()):
        if place and name == "Ones":
            continue
        weight, right = _judged(masks, true, weight)
        numbers[f"accuracy_{name}"] = (weight * right).sum() / weight.sum()
        numbers[f"auc_{name}"] = area_under_curve(*_some(weight, right))
        for j, of in enumerate(labels.classes) if place == 0 else ():
            own = weight[:, j if weight.shape[1] > 1 else 0]
            numbers[f"auc_{name}_{of}"] = area_under_curve(*_some(own[masks[:, j]], true[:, j][masks[:, j]]))
    if confidence is not None:
        confidence, right = _judged(masks, true, confidence)
        sure = confidence > SURE
        some = _some(confidence, right)
        numbers |= {
            "auc_probability": area_under_curve(*some),
            "confident": sure.float().mean(),
            "confident_wrong": (sure & ~right).sum() / sure.sum(),
            "calibration_error": _calibration_error(*some),
        }
    return defined(numbers)


def area_under_curve(scores: Tensor, right: Tensor) -> Tensor:
    """Area under the ROC curve of scores ``N`` for what is right and what is not; NaN where either lacks.

    It is MONAI's ``compute_roc_auc``, which goes through the scores one by one on the host: too slow for so many.
    """
    place = scores.unique(return_inverse=True)[1]
    counts = torch.bincount(2 * place + right.long(), minlength=2 * len(scores)).reshape(-1, 2)
    wrong, good = counts.unbind(1)
    below = 2 * (wrong.cumsum(0) - wrong) + wrong
    return (good * below).sum() / (2.0 * good.sum() * wrong.sum())


def _judged(masks: Tensor, true: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight, and what is right, of pixels or of classes alike."""
    weight, right = weight.float(), masks == true
    if weight.shape[1] not in (1, masks.shape[1]):
        weight = weight.mean(1, keepdim=True)
    return weight, right if weight.shape[1] == masks.shape[1] else right.all(1, keepdim=True)


def _some(scores: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Every n-th of the pixels, n without a factor of a row's length, so that it is not the same columns in each."""
    stride = max(1, -(-scores.numel() // PIXELS))
    while math.gcd(stride, scores.shape[-1]) > 1 and scores.ndim > 1:
        stride += 1
    return scores.flatten()[::stride], right.flatten()[::stride]


def _calibration_error(confidence: Tensor, right: Tensor) -> Tensor:
    bins = torch.arange(BINS, device=confidence.device)
    places = ((confidence * BINS).long().clamp(max=BINS - 1) == bins[:, None]).double()
    return (places @ (confidence.double() - right.double())).abs().sum() / len(confidence)
