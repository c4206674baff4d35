"""POPCORN: progressive pseudo-labels, and similar bottlenecks where labels are similar (Kamraoui et al. 2021)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from common.curriculum import SELECTIONS, Joining
from common.label_space import LabelSpace
from common.losses import Dice, Loss
from common.methods.base import Method
from common.parts import Needs
from common.step import Step
from common.terms import BottleneckConsistency


class Popcorn(Method):
    """Dice loss on the two images of a pair, and a bottleneck consistency (Kamraoui et al. 2021, section 2).

    .. math::
        L = L_{seg}(F(X_i), y_i) + L_{seg}(F(X_j), y_j) + \\alpha \\, Distance(h_i, h_j) \\, Similarity(y_i, y_j)

    (eq. 5), where X_i and X_j are two augmentations of one patch, or patches of two images at the same place. Training
    starts on the labelled images, and image after image the others join with the pseudo-label that the network gives
    them, those nearest to the training images first (:class:`~common.curriculum.Joining`). With what is here, all rows
    of the paper's table 1 are settings of this class:

    ================================  ==============================================
    row of table 1                    setting
    ================================  ==============================================
    our method                        the defaults
    with half selection steps         ``share=0.5``
    without CR                        ``consistency_weight=0``
    without proximity graph           ``selection="random"``
    baseline with CR                  ``selection="none"``
    baseline                          ``selection="none", consistency_weight=0``
    ================================  ==============================================

    Args:
        labels: the label space.
        consistency_weight: the factor alpha of the consistency; 0.2 in section 3.3.
        selection: which images join next: ``"proximity"`` (eq. 6 and 7), ``"random"``, or ``"none"`` for training on
            the labelled images alone.
        step_size, step_epochs, neighbors, share: see :class:`~common.curriculum.Joining`.
        squared, similarity: see :class:`~common.terms.BottleneckConsistency`.
        loss: L_seg; the Dice of a batch's images together where not given. ``Dice(per_image=True)`` is eq. 1 to the
            letter.
        options: see :class:`~common.methods.Method`.
    """

    needs_of_method = Needs(pairs=True)

    def __init__(
        self,
        labels: LabelSpace,
        consistency_weight: float = 0.2,
        selection: str = "proximity",
        step_size: int = 200,
        step_epochs: int = 2,
        neighbors: int = 5,
        share: float = 1.0,
        squared: bool = True,
        loss: Loss | None = None,
        similarity: str = "mse",
        **options: Any,
    ) -> None:
        if selection not in (*SELECTIONS, "none"):
            raise ValueError(f"selection must be one of {', '.join(SELECTIONS)} and none, got {selection!r}.")
        consistency = BottleneckConsistency(consistency_weight, squared, similarity)
        joining = None if selection == "none" else Joining(selection, step_size, step_epochs, neighbors, share)
        terms = {"consistency": consistency} if consistency_weight > 0 else {}
        super().__init__(labels, terms, joining, loss or Dice(), **options)

    def supervised(self, step: Step) -> Tensor:
        """The losses of all pairs' first images and of their second ones, added up (eq. 1 and 5)."""
        labeled, outputs = step.labeled, step.see(step.labeled["image"]).outputs
        weight = labeled.get("weight")
        return sum(
            step.compare(self.loss, outputs[half], labeled["label"][half], None if weight is None else weight[half])
            for half in labeled["pairs"].unbind(1)
        )
