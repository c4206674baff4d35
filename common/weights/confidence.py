"""Pixels count where the network is confident."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from common.label_space import LabelSpace
from common.pseudo_label import PseudoLabel
from common.weights.weight import Weight

if TYPE_CHECKING:
    from common.step import Step


class Confidence(Weight):
    """1 where the network's prediction is confident, else 0 (Sohn et al. 2020; Seibold et al. 2022, eq. 9, 10).

    Multi-class, a pixel counts where max_c p_c > tau. Multi-label, each class of a pixel counts for itself, where
    \\|p_c - 0.5\\| > \\|0.5 - tau\\|. What does not count is ignored, not background. Where the label is not the
    network's own, as of :class:`~common.sources.References`, or was cleaned, the network must be confident of what the
    label says: a pixel does not count where it is sure of another class.

    Args:
        threshold: tau, in (0.5, 1) for multi-label and in [0, 1) for multi-class.

    Raises:
        ValueError: when the threshold lies outside.
    """

    asks, accepts = "outputs", ("predicted",)

    def __init__(self, threshold: float = 0.95) -> None:
        super().__init__()
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold must be in [0, 1), got {threshold}: the papers use 0.8 and 0.95.")
        self.threshold = threshold

    def check(self, labels: LabelSpace) -> None:
        if labels.multilabel and not self.threshold > 0.5:
            raise ValueError(
                f"threshold must be in (0.5, 1) for multi-label classes, where |p - 0.5| is to exceed |0.5 - threshold|"
                f", got {self.threshold}: the papers use 0.8 and 0.95."
            )

    @torch.no_grad()
    def forward(self, step: Step, pseudo: PseudoLabel) -> Tensor:
        labels = step.labels
        return (probability_of(labels, pseudo.label, self.known(pseudo)) > self.threshold).float()


def probability_of(labels: LabelSpace, label: Tensor, outputs: Tensor) -> Tensor:
    """The outputs' probability of what a label says, ``B 1 H W [D]``; in multi-label of each class, ``B C H W [D]``.

    Of the outputs' own label it is the largest probability, max_c p_c, and in multi-label max(p_c, 1 - p_c).
    """
    probabilities, label = labels.probabilities(outputs.float()), labels.hard(label)
    if labels.multilabel:
        return torch.where(label > 0.5, probabilities, 1 - probabilities)
    return probabilities.gather(1, label.long())
