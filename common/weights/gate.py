"""Gates: whole images count, or do not. Identity is :class:`~common.weights.Ones`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from common.label_space import LabelSpace
from common.pseudo_label import PseudoLabel
from common.weights.confidence import Confidence
from common.weights.weight import Weight

if TYPE_CHECKING:
    from common.step import Step


class Gate(Weight):
    """1 for all pixels of an image whose score is above tau, else 0.

    In multi-label, each class of an image has a score and counts for itself. What the gate says of a batch is kept in
    ``step.judged`` for the log.

    Args:
        threshold: tau, in (0, 1).

    Raises:
        ValueError: when the threshold lies outside.
    """

    asks = "outputs"

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = checked_threshold(threshold)

    def forward(self, step: Step, pseudo: PseudoLabel) -> Tensor:
        scores = self.scores(step, pseudo).detach()
        accepted = (scores > self.threshold).float()
        step.judge(scores, accepted)
        size = pseudo.label.shape[2:]
        return accepted.view(*accepted.shape, *[1] * len(size)).expand(-1, -1, *size)

    def scores(self, step: Step, pseudo: PseudoLabel) -> Tensor:
        """Scores in [0, 1] of the images, ``B 1``, or in multi-label of each of their classes, ``B C``."""
        raise NotImplementedError


class MeanConfidence(Gate):
    """Images count whose mean confidence is above tau (SegMatch, section 3.3, "mean confidence").

    .. math::
        \\tilde D(x, y) = \\frac{1}{|x|} \\sum_{u \\in x} \\max_c y_{c,u}

    over all pixels u of the image, most of which are background. Multi-label, each class counts for itself, by the mean
    of max(y_c, 1 - y_c).

    Args:
        threshold: tau; 0.99 in the released code. In (0.5, 1) for multi-label.

    Raises:
        ValueError: when the threshold lies outside.
    """

    def __init__(self, threshold: float = 0.99) -> None:
        super().__init__(threshold)

    def check(self, labels: LabelSpace) -> None:
        if labels.multilabel and not self.threshold > 0.5:
            raise ValueError(
                f"threshold must be in (0.5, 1) for multi-label classes, whose confidence max(p, 1 - p) is never less, "
                f"got {self.threshold}: every image would count."
            )

    @torch.no_grad()
    def scores(self, step: Step, pseudo: PseudoLabel) -> Tensor:
        probabilities = step.labels.probabilities(self.known(pseudo).float())
        return step.labels.confidence(probabilities).flatten(2).mean(2)


class ConfidenceMap(Confidence):
    """Pixels count where the network is confident (SegMatch, section 3.3, "confidence map").

    It is :class:`~common.weights.Confidence`, which also tells the log what it lets through: an image's score is the
    share of its pixels that count, in multi-label that of each class.

    Args:
        threshold: tau; 0.99 in the released code. See :class:`~common.weights.Confidence`.
    """

    def __init__(self, threshold: float = 0.99) -> None:
        super().__init__(threshold)

    @torch.no_grad()
    def forward(self, step: Step, pseudo: PseudoLabel) -> Tensor:
        weight = super().forward(step, pseudo)
        share = weight.flatten(2).mean(2)
        step.judge(share, share)
        return weight


def checked_threshold(threshold: float) -> float:
    """The threshold, where it is one.

    Raises:
        ValueError: when it is outside of (0, 1).
    """
    if not 0 < threshold < 1:
        raise ValueError(
            f"threshold must be in (0, 1), got {threshold}: at 0 every image counts, at 1 none does; SegMatch has 0.99 "
            f"for confidences, and 0.5 is where its discriminator is undecided."
        )
    return threshold
