"""Pseudo-labels from the network's own confident predictions."""

from __future__ import annotations

import torch
from torch import Tensor

from common.label_space import LabelSpace


class ConfidentPrediction:
    """What the network predicts, counted where it is confident (Sohn et al. 2020; Seibold et al. 2022, eq. 9, 10).

    Multi-class, a pixel counts where max_c p_c > tau. Multi-label, each class of a pixel counts for itself, where
    |p_c - 0.5| > |0.5 - tau|. What does not count is ignored, not background.

    Args:
        labels: the label space.
        threshold: tau, in (0.5, 1) for multi-label and in [0, 1) for multi-class.

    Raises:
        ValueError: when the threshold lies outside.
    """

    def __init__(self, labels: LabelSpace, threshold: float) -> None:
        if labels.multilabel and not 0.5 < threshold < 1:
            raise ValueError(
                f"threshold must be in (0.5, 1) for multi-label classes, where |p - 0.5| is to exceed |0.5 - threshold|"
                f", got {threshold}: the paper uses 0.8 and 0.95."
            )
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold must be in [0, 1), got {threshold}: the paper uses 0.8 and 0.95.")
        self.labels, self.threshold = labels, threshold

    @torch.no_grad()
    def __call__(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Label and weight of the network's outputs ``B C H W [D]``.

        Returns:
            a label of the label space, and weights of 0 and 1 in the label's shape.
        """
        probability = self.labels.probabilities(outputs.float())
        if self.labels.multilabel:
            counts = (probability - 0.5).abs() > abs(0.5 - self.threshold)
        else:
            counts = probability.amax(dim=1, keepdim=True) > self.threshold
        return self.labels.predict(outputs).float(), counts.float()
