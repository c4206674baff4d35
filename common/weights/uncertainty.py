"""Pixels count the less, the more several passes differ there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from common.pseudo_label import PseudoLabel
from common.weights.weight import Weight

if TYPE_CHECKING:
    from common.step import Step


class Uncertainty(Weight):
    """exp(-beta max_c s_c), with s the spread of a class's probability over the passes (after Sedai et al. 2019).

    The exponential and its factor are ours. The spread of numbers in [0, 1] is at most 1/2, so that weights lie between
    exp(-beta / 2) and 1.

    Args:
        falloff: beta, how fast the weight falls with the uncertainty; 0 for equal weights.

    Raises:
        ValueError: when it is negative.
    """

    asks = "spread"

    def __init__(self, falloff: float = 5.0) -> None:
        super().__init__()
        if falloff < 0:
            raise ValueError(f"falloff must not be negative, got {falloff}.")
        self.falloff = falloff

    @torch.no_grad()
    def forward(self, step: Step, pseudo: PseudoLabel) -> Tensor:
        return torch.exp(-self.falloff * self.known(pseudo).amax(1, keepdim=True))
