"""Pixels count where the prediction's entropy is among the lowest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from common.label_space import LabelSpace
from common.pseudo_label import PseudoLabel
from common.weights.weight import Weight

if TYPE_CHECKING:
    from common.step import Step


class EntropyShare(Weight):
    """1 where the entropy is below a quantile of the batch's, else 0 (Wang et al. 2022, U2PL, eq. 2, 5).

    The share alpha_t of the pixels that are left out falls with the training, alpha_t = alpha_0 (1 - t / T).

    Args:
        unreliable: alpha_0, the share that is left out at first; 0.2 in the paper.

    Raises:
        ValueError: when it is outside of [0, 1).
    """

    asks = "outputs"

    def __init__(self, unreliable: float = 0.2) -> None:
        super().__init__()
        if not 0 <= unreliable < 1:
            raise ValueError(
                f"unreliable must be a share of the pixels in [0, 1), got {unreliable}: the paper has 0.2."
            )
        self.unreliable = unreliable

    @torch.no_grad()
    def forward(self, step: Step, pseudo: PseudoLabel) -> Tensor:
        entropies = entropy(step.labels, self.known(pseudo))
        return (entropies <= self.bound(step, entropies)).float()

    def bound(self, step: Step, entropies: Tensor) -> Tensor:
        """gamma_t, the entropy up to which pixels count: of the sorted ones, the last of the share 1 - alpha_t."""
        share = 1 - self.unreliable * (1 - step.progress)
        return entropies.flatten().kthvalue(max(1, int(share * entropies.numel()))).values


def entropy(labels: LabelSpace, outputs: Tensor) -> Tensor:
    """Entropy of the outputs' probabilities in nats, ``B 1 H W [D]``; in multi-label of each class, ``B C H W [D]``."""
    probabilities = labels.probabilities(outputs.float())
    if labels.multilabel:
        return torch.special.entr(probabilities) + torch.special.entr(1 - probabilities)
    return torch.special.entr(probabilities).sum(1, keepdim=True)
