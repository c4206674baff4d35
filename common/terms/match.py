"""The sentence: a pseudo-label from a source, counted by a weight, matched by a view."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from common.losses import CrossEntropy, Loss
from common.parts import Part, check_source
from common.terms.term import Term
from common.views import View, Weak
from common.weights import Ones, Weight

if TYPE_CHECKING:
    from common.sources import PseudoLabel
    from common.step import Step, Viewed


class Match(Term):
    """Takes a pseudo-label from a source, lets each pixel count by a weight, and asks a view of the image to match it.

    Args:
        source: gives the pseudo-label of the batch's unlabelled images, weakly augmented; see ``common.sources``.
        weight: says how much each of its pixels counts; all alike where not given. See ``common.weights``.
        view: what the network is shown of the images; the weakly augmented ones where not given. See ``common.views``.
        loss: compares outputs with the pseudo-label; the method's ``unsupervised_loss`` where not given.
        factor: how much the term counts.
    """

    def __init__(
        self,
        source: Part,
        weight: Weight | None = None,
        view: View | None = None,
        loss: Loss | None = None,
        factor: float = 1.0,
    ) -> None:
        super().__init__(factor)
        self.source, self.weight, self.view = source, weight or Ones(), view or Weak()
        self.loss = loss
        for part in (self.weight, self.view):
            check_source(part, source)

    def forward(self, step: Step) -> Tensor:
        pseudo, weight = self.taught(step)
        step.note(pseudo, weight, step.factors.get(id(self.weight)))
        viewed = step.view(self.view, step.unlabeled["image"])
        outputs = step.see(viewed.image, viewed.perturb).outputs
        step.show(viewed, outputs)
        return self.compared(step, viewed, outputs, pseudo, weight)

    def compared(self, step: Step, viewed: Viewed, outputs: Tensor, pseudo: PseudoLabel, weight: Tensor) -> Tensor:
        """The loss of a view's outputs, with the pseudo-label and its weight moved as the image was."""
        label, grid = pseudo.label, pseudo.grid
        if grid is not None and viewed.image is step.unlabeled["image"]:
            outputs = grid.of(outputs)  # pixel for pixel, where the label is
        elif grid is not None:  # the label's pixels move with the image, and no other pixel counts
            share = label[0, 0].numel() / outputs[0, 0].numel()
            label, weight = grid.spread(label), grid.spread(weight) / share
        return step.compare(self.loss or CrossEntropy(), outputs, *viewed.change.of_label(label, weight))

    def taught(self, step: Step) -> tuple[PseudoLabel, Tensor]:
        """The pseudo-label, and the weight of its pixels; made once for all terms that share source and weight."""
        key = id(self.source), id(self.weight)
        if key not in step.taught:
            pseudo = self.source(step)
            step.taught[key] = pseudo, self.weight(step, pseudo)
        return step.taught[key]
