"""POPCORN's consistency: where labels are alike, bottlenecks shall be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from common.parts import Needs
from common.terms.term import Term

if TYPE_CHECKING:
    from common.step import Step


class BottleneckConsistency(Term):
    """Distance(h_i, h_j) Similarity(y_i, y_j), the mean over a batch's pairs (Kamraoui et al. 2021, eq. 2).

    See :func:`bottleneck_distance`, :func:`label_similarity` and :func:`dice_similarity`.

    Args:
        factor: alpha; 0.2 in section 3.3.
        squared: take the square of the norms in the distance (eq. 4 can be read either way).
        similarity: ``"mse"``, exp(-mse), the paper's, near 1 for any two patches whose foreground is small; or
            ``"dice"``, which tells those apart.

    Raises:
        ValueError: when the factor is negative, or the similarity is unknown.
    """

    needs = Needs(pairs=True, features=True)

    def __init__(self, factor: float = 0.2, squared: bool = True, similarity: str = "mse") -> None:
        super().__init__(factor)
        if similarity not in SIMILARITIES:
            raise ValueError(f"similarity must be one of {', '.join(SIMILARITIES)}, got {similarity!r}.")
        self.squared, self.similarity = squared, similarity

    def forward(self, step: Step) -> Tensor:
        one, other = step.labeled["pairs"].unbind(1)
        bottleneck = step.see(step.labeled["image"]).bottleneck
        masks = step.labels.masks(step.labeled["label"])
        distance = bottleneck_distance(bottleneck[one], bottleneck[other], self.squared)
        return (distance * SIMILARITIES[self.similarity](masks[one], masks[other])).mean()


def bottleneck_distance(one: Tensor, other: Tensor, squared: bool = True) -> Tensor:
    """Distance of the bottlenecks of pairs of patches, for each pair (eq. 4).

    .. math::
        Distance(h_i, h_j) = \\frac{2 \\, ||h_i - h_j||^2}{||h_i||^2 + ||h_j||^2}

    In print the squares can be taken for indices of the norm; ``squared=False`` leaves them out. Either form ignores
    the scale of the features.

    Args:
        one, other: ``B d H W [D]``.

    Returns:
        ``B``, between 0 and 4.
    """
    one, other = one.flatten(1).float(), other.flatten(1).float()
    power = 2 if squared else 1
    # the square root has no gradient at 0, where two patches are the same
    norms = [(value.square().sum(1) + 1e-12) ** (power / 2) for value in (one - other, one, other)]
    return 2 * norms[0] / (norms[1] + norms[2])


def label_similarity(one: Tensor, other: Tensor) -> Tensor:
    """exp(-mse) of pairs of label masks ``B C H W [D]``, for each pair (eq. 3): 1 where they are the same."""
    return torch.exp(-(one.float() - other.float()).square().flatten(1).mean(1))


def dice_similarity(one: Tensor, other: Tensor) -> Tensor:
    """Dice of pairs of label masks ``B C H W [D]``, the mean over their classes, for each pair.

    A class without any foreground in both masks counts 1, in one of them 0. Of soft labels the denominator has the
    squares, so that those that are the same are alike, too.
    """
    one, other = one.flatten(2).float(), other.flatten(2).float()
    total = one.square().sum(2) + other.square().sum(2)
    dice = 2 * (one * other).sum(2) / total.clamp(min=torch.finfo(total.dtype).tiny)
    return torch.where(total > 0, dice, 1.0).mean(1)


SIMILARITIES = {"mse": label_similarity, "dice": dice_similarity}
