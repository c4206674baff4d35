"""BCP: labelled and unlabelled images are pasted into each other, both ways."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.draws import on_device
from common.label_space import LabelSpace
from common.losses import CrossEntropy, Dice, Loss, Sum
from common.methods.base import Method
from common.sources import Teacher
from common.step import Noted, Step
from common.terms import Match
from common.views.boxes import boxes
from common.views.change import Inside

Images = tuple[Tensor, Tensor, Tensor]  # images, their labels one-hot, and the weight of their pixels


class BCP(Method):
    """Bidirectional copy-paste (Bai et al. 2023).

    A box of 2/3 of each side, at a random place that is the same for all images of a step, parts a mixed image: inward,
    it holds an unlabelled image within a labelled one; outward, a labelled image within another unlabelled one. With M
    the pixels that are labelled,

        L = sum over both ways of Lseg(f(mixed), y; M) + alpha Lseg(f(mixed), l'; 1 - M),

    where l' is the teacher's prediction, of each class the largest connected component, and Lseg, half cross-entropy
    and half Dice over all outputs, looks at its pixels alone. Before that, for a quarter of the training, labelled
    images are pasted into each other (eq. 1 to 8). The two parts of the sum are called ``supervised`` and
    ``unsupervised``.

    Args:
        labels: the label space.
        decay: of the teacher's average; 0.99 in the paper.
        alpha: how much the unlabelled pixels count; 0.5 in the paper.
        beta: sides of the box as a share of the image's; 2/3 in the paper.
        loss: Lseg; half cross-entropy and half Dice where not given.
        supervised_share: share of the training on labelled images alone; 10,000 of 40,000 iterations in the paper.
        options: see :class:`~common.methods.Method`.

    Raises:
        ValueError: when a number is out of its range.
    """

    def __init__(
        self,
        labels: LabelSpace,
        decay: float = 0.99,
        alpha: float = 0.5,
        beta: float = 2 / 3,
        loss: Loss | None = None,
        supervised_share: float = 0.25,
        **options: Any,
    ) -> None:
        if not 0 < beta < 1:
            raise ValueError(f"beta must be in (0, 1), got {beta}: the paper has 2/3.")
        loss = loss or Sum([CrossEntropy(), Dice(background=True)])
        taught = Match(Teacher(decay, largest=True), loss=loss, factor=alpha)
        super().__init__(labels, {"unsupervised": taught}, loss=loss, supervised_share=supervised_share, **options)
        self.beta = beta

    def losses(self, step: Step) -> dict[str, Tensor]:
        labeled, box = self.images(step.labeled), self.box(step)
        number = len(labeled[0])
        if step.progress < self.supervised_share:
            first = np.arange((number + 1) // 2)
            terms = self.way(step, labeled, first, labeled, (first + len(first)) % number, box, "supervised")
            return {"supervised": sum(terms), "unsupervised": terms[0].new_zeros(())}
        match = self.terms["unsupervised"]
        pseudo, weight = match.taught(step)
        step.notes["unsupervised"] = Noted(pseudo, weight)
        other = self.images({**step.unlabeled, "label": pseudo.label, "weight": weight})
        (first, second), (third, fourth) = halves(number, len(other[0]))
        inward = self.way(step, labeled, first, other, third, box)
        outward = self.way(step, labeled, second, other, fourth, ~box)
        factor = self.factor(step) * match.factor
        return {"supervised": inward[0] + outward[0], "unsupervised": factor * (inward[1] + outward[1])}

    def images(self, part: dict[str, Tensor]) -> Images:
        """Images, their labels one-hot, and the weight of their pixels."""
        image, weight = part["image"], part.get("weight")
        weight = torch.ones_like(image[:, :1], dtype=torch.float32) if weight is None else weight
        return image, self.labels.one_hot(part["label"]), weight

    def way(
        self,
        step: Step,
        one: Images,
        rows: np.ndarray,
        two: Images,
        others: np.ndarray,
        place: Tensor,
        term: str = "unsupervised",
    ) -> tuple[Tensor, Tensor]:
        """Lseg of each of the two parts of mixed images, whose second images are at a place ``1 1 H W [D]``.

        That of the second ones is noted by the name of a term, that of the first ones as the supervised one.
        """
        pairs = [
            (first[on_device(rows, first)], second[on_device(others, second)])
            for first, second in zip(one, two, strict=True)
        ]
        image, target, weight = (torch.where(place, second, first) for first, second in pairs)
        outputs = step.see(image).outputs
        # of some pixels alone, a mean over them
        weights = [weight * each / each.float().mean().clamp(min=1e-6) for each in (~place, place)]
        return (
            step.compare(self.loss, outputs, target, weights[0], "supervised"),
            step.compare(self.loss, outputs, target, weights[1], term),
        )

    def box(self, step: Step) -> Tensor:
        """The box of the step, ``1 1 H W [D]``."""
        image = step.labeled["image"]
        shares = np.full((1, image.ndim - 2), self.beta)
        return Inside(boxes(shares, image.shape[2:], step.draw("BCP")))(image)


def halves(one: int, other: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Which of so many labelled and of so many unlabelled images are mixed, for each way.

    The first halves one way and the second halves the other way; the smaller part's images are taken again. Where there
    is a single image, it is mixed both ways.
    """
    number = max(one, other)
    first, second = np.arange((number + 1) // 2), np.arange((number + 1) // 2, number)
    second = second if len(second) else first
    return (first % one, second % one), (first % other, second % other)
