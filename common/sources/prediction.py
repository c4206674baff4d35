"""Pseudo-labels that the network predicts itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from common.parts import Needs, Part
from common.pseudo_label import PseudoLabel

if TYPE_CHECKING:
    from common.step import Step


class Prediction(Part):
    """What the network predicts of the weakly augmented image (Lee et al. 2013; Sohn et al. 2020).

    Known about it: ``outputs``.

    Args:
        soft: the class probabilities instead of the decision.
    """

    needs, knows = Needs(unlabeled=1), ("outputs",)

    def __init__(self, soft: bool = False) -> None:
        super().__init__()
        self.soft = soft

    @torch.no_grad()
    def forward(self, step: Step) -> PseudoLabel:
        outputs = step.see(step.unlabeled["image"]).outputs.detach().float()
        label = step.labels.probabilities(outputs) if self.soft else step.labels.predict(outputs).float()
        return PseudoLabel(label, known={"outputs": outputs})
