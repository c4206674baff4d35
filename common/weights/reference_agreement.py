"""Pixels count where labelled pixels with like features say the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from common.label_space import LabelSpace
from common.pseudo_label import PseudoLabel
from common.sources import References
from common.weights.weight import Weight

if TYPE_CHECKING:
    from common.step import Step


class ReferenceAgreement(Weight):
    """1 where the nearest labelled pixel in feature space says what the pseudo-label does, else 0 (no paper).

    As ``added_weight`` it lets the references of RPG (Seibold et al. 2022, eq. 4) forbid pixels to any method, as they
    do in :class:`~common.methods.ReferenceMatch`. Features are the network's own, of the weak view. Multi-label, each
    class of a pixel counts for itself. In an evaluation, without labelled images, all pixels count.

    Args:
        reference_size: see :class:`~common.sources.References`; every pixel of the pseudo-label asks.
    """

    needs = References.needs

    def __init__(self, reference_size: int = 64) -> None:
        super().__init__()
        self.reference_size = reference_size  # what a run that goes on is compared by
        self.references = References(1, reference_size, None)

    def check(self, labels: LabelSpace) -> None:
        self.references.check(labels)

    @torch.no_grad()
    def forward(self, step: Step, pseudo: PseudoLabel) -> Tensor:
        label = step.labels.hard(pseudo.label)
        if step.labeled is None:
            return torch.ones_like(label, dtype=torch.float32)
        said = self.references(step).label
        return ((said if pseudo.grid is None else pseudo.grid.of(said)) == label).float()
