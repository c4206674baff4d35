"""AEL's weights: the confidence to a power, and samples of what is learnt well."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from common.class_confidence import ClassConfidence
from common.draws import uniform
from common.pseudo_label import PseudoLabel
from common.weights.weight import Weight

if TYPE_CHECKING:
    from common.step import Step


class ConfidencePower(Weight):
    """The largest probability to a power, (max_c p_c)^gamma (Hu et al. 2021, AEL, eq. 9).

    Multi-label, each class of a pixel counts for itself, by max(p_c, 1 - p_c).

    Args:
        power: gamma; 2 in the paper.

    Raises:
        ValueError: when it is negative.
    """

    asks = "outputs"

    def __init__(self, power: float = 2.0) -> None:
        super().__init__()
        if power < 0:
            raise ValueError(f"power must not be negative, got {power}.")
        self.power = power

    @torch.no_grad()
    def forward(self, step: Step, pseudo: PseudoLabel) -> Tensor:
        probabilities = step.labels.probabilities(self.known(pseudo).float())
        return step.labels.confidence(probabilities) ** self.power


class ClassSample(Weight):
    """1 for a random sample of each class's pixels, the smaller the better the class is learnt (AEL, eq. 8).

    A pixel whose pseudo-label is class c counts with the probability ((1 - Conf_c) / max_c (1 - Conf_c))^beta. Multi-
    label, that holds for the pixels of a class; those that are not of it count.

    Args:
        bank: how well each class is learnt.
        power: beta; 1 in the released code.

    Raises:
        ValueError: when it is negative.
    """

    def __init__(self, bank: ClassConfidence, power: float = 1.0) -> None:
        super().__init__()
        if power < 0:
            raise ValueError(f"power must not be negative, got {power}.")
        self.bank, self.power = bank, power

    @torch.no_grad()
    def forward(self, step: Step, pseudo: PseudoLabel) -> Tensor:
        masks = step.labels.one_hot(pseudo.label)
        if not len(self.bank.confidence):  # in an evaluation, without a training
            return masks.new_ones(len(masks), 1, *masks.shape[2:])
        rates = self.bank.rates(self.power).view(1, -1, *[1] * (masks.ndim - 2))
        chance = 1 - masks * (1 - rates) if step.labels.multilabel else (masks * rates).sum(1, keepdim=True)
        return (uniform(tuple(chance.shape), step.draw("ClassSample"), chance.device) < chance).float()
