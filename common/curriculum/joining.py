"""Which unlabelled images join the training images, how many at a time, when, and with what label."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from common.parts import Needs, Part, check_source
from common.sources import Prediction
from common.weights import Weight

if TYPE_CHECKING:
    from common.step import Step

SELECTIONS = ("proximity", "random")


class Joining(Part):
    """What a method asks of the curriculum (Kamraoui et al. 2021, section 2.3).

    Args:
        selection: which images join next: ``"proximity"`` (eq. 6 and 7) or ``"random"``.
        step_size: number K of images that join in a step, 200 in the paper, of 2901; None for all at once.
        step_epochs: number N of epochs between two steps.
        neighbors: number p of training images whose distances are summed up (eq. 7).
        share: share of the unlabelled images that join.
        source: gives the label of a whole image when it joins; the network's decision where not given.
        weight: says how much each of its pixels counts; all alike where not given.

    Raises:
        ValueError: when a number is out of its range or the selection is unknown.
    """

    def __init__(
        self,
        selection: str = "proximity",
        step_size: int | None = 200,
        step_epochs: int = 2,
        neighbors: int = 5,
        share: float = 1.0,
        source: Part | None = None,
        weight: Weight | None = None,
    ) -> None:
        super().__init__()
        if selection not in SELECTIONS:
            raise ValueError(f"selection must be one of {SELECTIONS}, got {selection!r}.")
        for name, value in (("step_size", step_size), ("step_epochs", step_epochs), ("neighbors", neighbors)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {share}.")
        self.selection, self.step_size, self.step_epochs = selection, step_size, step_epochs
        self.neighbors, self.share = neighbors, share
        self.source, self.weight = source or Prediction(), weight
        self.needs = Needs(features=selection == "proximity")
        if self.source.needs.class_cover:
            raise ValueError(
                f"source must label an image on its own, got {type(self.source).__name__}, which looks at the labelled "
                f"images of a batch."
            )
        if weight is not None:
            check_source(weight, self.source)
            if any(part.needs.features for part in weight.modules() if isinstance(part, Part)):
                raise ValueError(
                    f"weight must weigh an image on its own, got {type(weight).__name__}, which compares features of a "
                    f"step's images: take another one, or a method with added_weight."
                )

    def plan(self, images: int) -> list[int]:
        """How many of so many unlabelled images join in each step."""
        joining = math.ceil(self.share * images)
        size = self.step_size or max(1, joining)
        return [min(size, joining - first) for first in range(0, joining, size)]

    @torch.no_grad()
    def label(self, step: Step) -> tuple[Tensor, Tensor | None]:
        """The pseudo-label of the step's unlabelled images, and a weight for each pixel or None for 1."""
        pseudo = self.source(step)
        return pseudo.label, None if self.weight is None else self.weight(step, pseudo)
