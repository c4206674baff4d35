"""Outputs that follow a deformation of the image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from common.parts import Needs
from common.terms.term import Term
from common.views import Elastic, View

if TYPE_CHECKING:
    from common.step import Step


class Equivariance(Term):
    """The squared difference between the moved outputs and the outputs of the moved image (after Bortsova et al. 2019).

    .. math::
        \\frac{1}{|V| C} \\sum_{x \\in V} \\sum_c \\left( T(p(X))_c(x) - p(T(X))_c(x) \\right)^2

    with p the network's probabilities of C outputs, T a movement of each image, and V the pixels of all images,
    labelled and unlabelled alike, that come from inside their image. Gradients go through both outputs.

    Args:
        factor: how much the term counts.
        view: T; an elastic deformation where not given.
    """

    needs = Needs(unlabeled=1, weak_gradients=True)

    def __init__(self, factor: float = 1.0, view: View | None = None) -> None:
        super().__init__(factor)
        self.view = view or Elastic()

    def forward(self, step: Step) -> Tensor:
        error = pixels = 0.0
        for part in (step.labeled, step.unlabeled):
            viewed = step.view(self.view, part["image"])
            there = step.labels.probabilities(step.see(viewed.image).outputs.float())
            here = viewed.change.of_image(step.labels.probabilities(step.see(part["image"]).outputs.float()))
            ones = torch.ones_like(here[:, :1])
            inside = viewed.change.of_label(ones, ones)[1]
            error = error + ((here - there).square().mean(1, keepdim=True) * inside).sum()
            pixels = pixels + inside.sum()
        return error / pixels.clamp(min=1)
