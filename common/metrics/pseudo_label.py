"""What the pseudo-labels of a batch were: how right, how heavy, how many."""

from __future__ import annotations

import torch
from torch import Tensor

from common.label_space import LabelSpace

# A pixel whose weight is below this adds next to nothing to the loss, and is not said to count.
COUNTS_ABOVE = 0.1


@torch.no_grad()
def pseudo_label_statistics(
    labels: LabelSpace, pseudo_label: Tensor, weight: Tensor, truth: Tensor | None = None
) -> dict[str, float]:
    """Numbers that say whether pseudo-labels help or harm.

    Args:
        labels: the label space.
        pseudo_label: a label of the label space, ``B C H W [D]`` or ``B 1 H W [D]``.
        weight: weight of each pixel, ``B 1 H W [D]``, in [0, 1].
        truth: the hidden truth in the pseudo-label's form, where it is known.

    Returns:
        ``pixel_share`` (share of pixels with a weight over 0.1), ``weight_mean``, ``weight_<class>`` (mean weight of
        the pixels that carry the class), and with a truth ``pseudo_accuracy`` (share of pixels whose whole label is
        right) and ``pseudo_iou_<class>``. A class that does not occur has no value.
    """
    masks = labels.masks(pseudo_label) > 0
    weight = weight.float()
    numbers = {"pixel_share": (weight > COUNTS_ABOVE).float().mean(), "weight_mean": weight.mean()}
    for j, name in enumerate(labels.classes):
        mask = masks[:, j : j + 1]
        if mask.any():
            numbers[f"weight_{name}"] = weight[mask].mean()
    if truth is not None:
        true = labels.masks(truth) > 0
        numbers["pseudo_accuracy"] = (masks == true).all(dim=1).float().mean()
        for j, name in enumerate(labels.classes):
            union = (masks[:, j] | true[:, j]).sum()
            if union > 0:
                numbers[f"pseudo_iou_{name}"] = (masks[:, j] & true[:, j]).sum() / union
    return {name: value.item() for name, value in numbers.items()}
