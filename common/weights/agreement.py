"""Pixels count where a pseudo-label and the network, or a detector, say the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from common.label_space import LabelSpace
from common.parts import Needs
from common.pseudo_label import PseudoLabel
from common.weights.confidence import Confidence, probability_of
from common.weights.weight import Weight

if TYPE_CHECKING:
    from common.step import Step


class PredictionAgreement(Weight):
    """1 where the network predicts what the pseudo-label says, else 0, however sure it is (no paper).

    It is for labels that are not the network's own, as of :class:`~common.sources.References`, with whose teacher the
    prediction is the teacher's; of the network's own it lets all pixels through. Multi-label, each class of a pixel
    counts for itself. :class:`Confidence` asks in addition that the network is sure of it.
    """

    asks, accepts = "outputs", ("predicted",)

    @torch.no_grad()
    def forward(self, step: Step, pseudo: PseudoLabel) -> Tensor:
        return (step.labels.predict(self.known(pseudo)) == step.labels.hard(pseudo.label)).float()


class Reliable(Weight):
    """1 where a detector says what a confident pseudo-label does, else 0 (Howlader et al. 2024, section 3.3).

    A pixel whose pseudo-label is class c is reliable where it lies in a box of class c and p_c >= tau, with p_c the
    network's probability of that class: max_c p_c where the label is the network's own. Pixels of the background,
    and of classes that the detector was not trained on or found nowhere, are not: the paper takes from labelled images
    alone what it wants to know of these. It is meant for who picks pixels to learn from what a class looks like, not as
    the weight of a loss: see :class:`DetectorAgreement`. Multi-label, each class of a pixel is judged for itself, and a
    pixel is not reliable for what it is not.

    The boxes come with the batch, moved as its images were (:class:`~common.detection.DetectorStage`). Without them, in
    an evaluation, no class has any.

    Args:
        threshold: tau; 0.95 in the released code.

    Raises:
        ValueError: when it is outside of [0, 1), or in multi-label not above 0.5.
    """

    asks, accepts, needs = "outputs", ("predicted",), Needs(unlabeled=1, boxes=True)
    others = False  # what becomes of confident pixels of no class that has boxes

    def __init__(self, threshold: float = 0.95) -> None:
        super().__init__()
        self.threshold = Confidence(threshold).threshold

    def check(self, labels: LabelSpace) -> None:
        Confidence(self.threshold).check(labels)

    @torch.no_grad()
    def forward(self, step: Step, pseudo: PseudoLabel) -> Tensor:
        labels = step.labels
        confidence = probability_of(labels, pseudo.label, self.known(pseudo))
        masks = labels.masks(labels.hard(pseudo.label)) > 0.5
        boxes, boxed = boxes_of(step, pseudo, masks)
        mine = masks & boxed
        alone = mine & ~boxes
        if not labels.multilabel:
            mine, alone = mine.any(1, keepdim=True), alone.any(1, keepdim=True)
        counts = ~alone if self.others else mine & ~alone
        return (counts & (confidence >= self.threshold)).float()


class DetectorAgreement(Reliable):
    """1 where the network is confident and no detector says otherwise, else 0: reliability as the weight of a loss.

    It goes beyond :class:`Reliable`, and the paper, in what has no boxes: pixels of the background, and of classes that
    the detector was not trained on or found nowhere, count by confidence alone, since a loss without them would make
    all of an image foreground.

    Args:
        threshold: tau.

    Raises:
        ValueError: as :class:`Reliable`.
    """

    others = True


def boxes_of(step: Step, pseudo: PseudoLabel, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Where the batch's boxes are, ``B C h w [d]``, and of which classes there are any, ``1 C 1 1 [1]``."""
    boxes, boxed = (step.unlabeled.get(name) for name in ("boxes", "boxed"))
    shape = 1, -1, *[1] * (masks.ndim - 2)
    if boxes is None:
        nowhere = masks.new_zeros(masks.shape[1]).view(shape)
        return nowhere, nowhere
    return (boxes if pseudo.grid is None else pseudo.grid.of(boxes)) > 0.5, boxed.view(shape)
