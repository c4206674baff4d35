"""Pixels count where a segmentation and a detector say the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from common.label_space import LabelSpace
from common.parts import Needs, Part
from common.pseudo_label import PseudoLabel
from common.weights.confidence import Confidence
from common.weights.weight import Weight

if TYPE_CHECKING:
    from common.step import Step


class Reliable(Part):
    """Where a pseudo-label is reliable: a detector's box says the same, with confidence (Howlader et al. 2024, 3.3).

    A pixel whose pseudo-label is class c is reliable where it lies in a box of class c and its confidence is at least
    tau. Pixels of the background, and of classes that the detector was not trained on or found nowhere, never are: what
    is known of those classes comes from labelled images alone. Multi-label, each class of a pixel is judged for itself,
    and pixels that are not of a class are not reliable for it. The boxes come with the batch, moved as its images were
    (:class:`~common.detection.DetectorStage`); without them, in an evaluation, nothing is reliable.

    Args:
        threshold: tau; 0.95 in the released code.

    Raises:
        ValueError: when it is outside of [0, 1).
    """

    needs = Needs(unlabeled=1, boxes=True)

    def __init__(self, threshold: float = 0.95) -> None:
        super().__init__()
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold must be in [0, 1), got {threshold}: the released code has 0.95.")
        self.threshold = threshold

    @torch.no_grad()
    def forward(self, step: Step, pseudo: PseudoLabel, confidence: Tensor) -> Tensor:
        """
        Args:
            step: the step, whose unlabelled images have boxes.
            pseudo: their pseudo-label.
            confidence: probability of what the pseudo-label says, ``B 1 h w [d]``, or in multi-label of each class,
                ``B C h w [d]``.

        Returns:
            True where the pseudo-label is reliable, in the shape of the confidence.
        """
        masks = classes_of(step.labels, pseudo)
        inside, known = boxes_of(step, pseudo, masks)
        agree = masks & inside & known
        agree = agree if step.labels.multilabel else agree.any(1, keepdim=True)
        return agree & (confidence >= self.threshold)


class DetectorAgreement(Weight):
    """1 where the network is confident and no detector says otherwise, else 0.

    A pixel whose pseudo-label is class c counts where it lies in a detector's box of class c and max_c p_c >= tau. That
    is the reliability of Howlader et al. 2024 (:class:`Reliable`), by which the paper picks prototypes, as a weight of
    the loss. It goes beyond the paper for the background, and for classes that the detector was not trained on or found
    nowhere: their pixels count by confidence alone, since a loss without them would make all of an image foreground.
    Without boxes, in an evaluation, all pixels do.

    Args:
        threshold: tau; 0.95 in the released code.

    Raises:
        ValueError: when it is outside of [0, 1), or in multi-label not above 0.5.
    """

    asks, needs = "outputs", Needs(unlabeled=1, boxes=True)

    def __init__(self, threshold: float = 0.95) -> None:
        super().__init__()
        self.threshold = Reliable(threshold).threshold

    def check(self, labels: LabelSpace) -> None:
        Confidence(self.threshold).check(labels)

    @torch.no_grad()
    def forward(self, step: Step, pseudo: PseudoLabel) -> Tensor:
        confidence = confidence_of(step.labels, self.known(pseudo))
        masks = classes_of(step.labels, pseudo)
        inside, known = boxes_of(step, pseudo, masks)
        alone = masks & known & ~inside
        alone = alone if step.labels.multilabel else alone.any(1, keepdim=True)
        return ((confidence >= self.threshold) & ~alone).float()


def confidence_of(labels: LabelSpace, outputs: Tensor) -> Tensor:
    """Probability of what the outputs say: ``B 1 h w [d]``, in multi-label of each class ``B C h w [d]``."""
    probabilities = labels.probabilities(outputs.float())
    if labels.multilabel:
        return torch.maximum(probabilities, 1 - probabilities)
    return probabilities.amax(1, keepdim=True)


def classes_of(labels: LabelSpace, pseudo: PseudoLabel) -> Tensor:
    """Which foreground classes a pseudo-label says, boolean, ``B C h w [d]``."""
    return labels.masks(labels.hard(pseudo.label)) > 0.5


def boxes_of(step: Step, pseudo: PseudoLabel, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Where the batch's boxes are, ``B C h w [d]``, and of which classes there are any, ``1 C 1 1 [1]``."""
    boxes, boxed = (step.unlabeled.get(name) for name in ("boxes", "boxed"))
    if boxes is None:
        nowhere = masks.new_zeros(1, masks.shape[1], *[1] * (masks.ndim - 2))
        return nowhere, nowhere
    boxes = boxes if pseudo.grid is None else pseudo.grid.of(boxes)
    return boxes > 0.5, boxed.view(1, -1, *[1] * (masks.ndim - 2))
