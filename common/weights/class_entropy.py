"""RPG's weight: how clearly the references around a pixel are of one class."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from common.pseudo_label import PseudoLabel
from common.weights.weight import Weight

if TYPE_CHECKING:
    from common.step import Step

EPSILON = 1e-8  # of the paper's eq. 6


class ClassEntropy(Weight):
    """The density-based class entropy (Seibold et al. 2022, eq. 6, 7).

    With delta_j the distance to the nearest reference of class j among the k nearest (eq. 5), 1 where there is none,

        P_j = (1 - delta_j + eps) / sum_i (1 - delta_i + eps),   W = 1 + sum_j P_j log P_j / log c

    where eps = 1e-8 is part of every summand of the denominator, so that P sums to one. W is 1 where the references
    around a pixel are of one class, and 0 where all c classes are equally near.
    """

    asks = "distances"

    @torch.no_grad()
    def forward(self, step: Step, pseudo: PseudoLabel) -> Tensor:
        return entropy_weight(self.known(pseudo))


def entropy_weight(distances: Tensor) -> Tensor:
    """W of the class distances ``B c H W [D]``, ``B 1 H W [D]``; computed in float64."""
    closeness = 1 - distances.double() + EPSILON
    probability = closeness / closeness.sum(1, keepdim=True)
    weight = 1 + (probability * probability.log()).sum(1, keepdim=True) / math.log(distances.shape[1])
    return weight.clamp(0, 1).to(distances.dtype)  # against rounding alone
