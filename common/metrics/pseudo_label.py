"""What the pseudo-labels of a batch were: how right, how heavy, how many."""

from __future__ import annotations

import torch
from torch import Tensor

from common.label_space import LabelSpace
from common.metrics.comparisons import defined

# A pixel whose weight is below this adds next to nothing to the loss, and is not said to count.
COUNTS_ABOVE = 0.1


@torch.no_grad()
def pseudo_label_statistics(
    labels: LabelSpace, pseudo_label: Tensor, weight: Tensor, truth: Tensor | None = None
) -> dict[str, float]:
    """Numbers that say whether pseudo-labels help or harm.

    Args:
        labels: the label space.
        pseudo_label: a label of the label space, hard or soft.
        weight: weight of each pixel, ``B 1 H W [D]`` or ``B C H W [D]``, in [0, 1].
        truth: the hidden truth in the pseudo-label's form, where it is known.

    Returns:
        ``pixel_share`` (share of pixels with a weight over 0.1), ``weight_mean``, ``weight_<class>`` (mean weight of
        the pixels that carry the class), and with a truth ``pseudo_accuracy`` (share of pixels whose whole label is
        right) and ``pseudo_iou_<class>``. A class that does not occur has no value.
    """
    masks, weight = (labels.masks(pseudo_label) > 0.5).float(), weight.float().mean(dim=1, keepdim=True)
    numbers = {"pixel_share": (weight > COUNTS_ABOVE).float().mean(), "weight_mean": weight.mean()}
    over = [0, *range(2, masks.ndim)]
    weights = (weight * masks).sum(over) / masks.sum(over)  # not a number for a class that does not occur
    numbers |= {f"weight_{name}": value for name, value in zip(labels.classes, weights, strict=True)}
    if truth is not None:
        true = (labels.masks(truth) > 0.5).float()
        numbers["pseudo_accuracy"] = (masks == true).all(dim=1).float().mean()
        shared = (masks * true).sum(over)
        ious = shared / (masks.sum(over) + true.sum(over) - shared)
        numbers |= {f"pseudo_iou_{name}": value for name, value in zip(labels.classes, ious, strict=True)}
    return defined(numbers)
