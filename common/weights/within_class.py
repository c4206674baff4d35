"""Another weight's order among the pixels of each class, whatever the class's size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from common.pseudo_label import PseudoLabel
from common.weights.weight import Weight

if TYPE_CHECKING:
    from common.step import Step


class WithinClass(Weight):
    """A weight's rank among the batch's pixels with the same pseudo-label, as a share of them (no paper).

    .. math::
        W'_i = (r_i - 1/2) / n_c

    with n_c the number of pixels of class c, that of pixel i, and r_i the rank of its weight among theirs, from 1 for
    the lowest; equal ones share their mean rank. Every class has the mean weight 1/2 and each W' is in (0, 1): how much
    a pixel counts no longer depends on which class it is of. A weight of 0 no longer rules a pixel out, either; what
    does so belongs beside this weight, in a :class:`Product` or as ``added_weight``.

    Multi-label, each class of a pixel counts for itself, ``B C H W [D]``: by its rank among the pixels of the class, or
    among those that are not of it. Several processes rank the pixels of their own batches. NaN stays NaN.

    Args:
        weight: the weight that is ranked.

    Raises:
        ValueError: when it is no weight.
    """

    def __init__(self, weight: Weight) -> None:
        super().__init__()
        if not isinstance(weight, Weight):
            raise ValueError(f"WithinClass ranks one of common.weights, ClassEntropy say, got {weight!r}.")
        self.weight = weight

    @torch.no_grad()
    def forward(self, step: Step, pseudo: PseudoLabel) -> Tensor:
        label = step.labels.hard(pseudo.label).long()
        weight = self.weight(step, pseudo).expand(-1, label.shape[1], *label.shape[2:])
        if not step.labels.multilabel:
            return mid_ranks(weight, label)
        classes = torch.arange(label.shape[1], device=label.device).view(-1, *[1] * (label.ndim - 2))
        return mid_ranks(weight, 2 * classes + label)


def mid_ranks(values: Tensor, groups: Tensor) -> Tensor:
    """Of each value the share (r - 1/2) / n of its group's n values, of its own shape; r is the mean rank of equals.

    Sorted twice: all values, then groups and in them places of values. Without waiting for a device.

    Args:
        values: of any shape; NaN stays NaN.
        groups: a whole number for each of them.
    """
    flat, groups = values.flatten().contiguous(), groups.flatten()
    below = torch.searchsorted(flat.sort().values, flat)  # how many are lower: the same of equals alone
    base = flat.numel() + 1
    places = groups * base + below
    ordered = places.sort().values
    first, after = (torch.searchsorted(ordered, edge) for edge in (groups * base, (groups + 1) * base))
    lower, upper = (torch.searchsorted(ordered, places, right=right) for right in (False, True))
    shares = ((lower + upper).double() / 2 - first) / (after - first)
    return torch.where(flat.isnan(), flat, shares.to(flat.dtype)).view(values.shape)
