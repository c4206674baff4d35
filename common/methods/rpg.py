"""Reference-guided pseudo-labels: nearest-neighbour assignment, RPG, RPG+, and what is made of them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from common.label_space import LabelSpace
from common.methods.base import Method
from common.sources import Prediction, References, Teacher
from common.step import Step
from common.terms import Match
from common.views import Chain, CutMix, Strong, View, Weak
from common.weights import ClassEntropy, Confidence, Ones, Weight


class NearestNeighbor(Method):
    """Each unlabelled pixel learns the label of its nearest labelled pixel in feature space (Seibold et al. 2022).

    L = Ls + CE(f(x), l(x)), with l(x) the labels of the nearest references (eq. 4), which all count alike. The labelled
    images of the batch are the references.

    Args:
        labels: the label space.
        neighbors, reference_size, query_size, background, moving_grid, per_class, label, teacher: see
            :class:`~common.sources.References`.
        view: what is learnt on; the weakly augmented image itself where not given.
        weight: how much each pixel counts; all alike where not given.
        options: see :class:`~common.methods.Method`.
    """

    def __init__(
        self,
        labels: LabelSpace,
        neighbors: int | float = 7000,
        reference_size: int = 64,
        query_size: int | None = 64,
        background: bool = True,
        moving_grid: bool = False,
        view: View | None = None,
        weight: Weight | None = None,
        per_class: bool = False,
        label: str = "nearest",
        teacher: float | Teacher | None = None,
        **options: Any,
    ) -> None:
        source = References(neighbors, reference_size, query_size, background, moving_grid, per_class, label, teacher)
        terms = {"unsupervised": Match(source, weight or Ones(), view or Weak())}
        super().__init__(labels, {**terms, **options.pop("terms", {})}, **options)


class RPG(NearestNeighbor):
    """Reference-guided pseudo-labels weighted by the density-based class entropy (Seibold et al. 2022, eq. 1-8).

    L = Ls + CE(f(x), l(x), W): :class:`NearestNeighbor` in which each unlabelled pixel counts by W (eq. 7): 1 where the
    references around it in feature space are of one class, 0 where all classes are equally near.

    Args: as for :class:`NearestNeighbor`.
    """

    def __init__(self, labels: LabelSpace, weight: Weight | None = None, **options: Any) -> None:
        super().__init__(labels, weight=weight or ClassEntropy(), **options)


class RPGPlus(RPG):
    """RPG with consistency between a weak and a strong view (Seibold et al. 2022, eq. 9-11).

    L = L_RPG + CE(f(a_s(x)), a_s(l'(x))): :class:`RPG`'s two terms, and FixMatch's. The network's own confident
    prediction l' on the weakly augmented image is what it shall predict on the strongly augmented one.

    Args:
        labels: the label space.
        threshold: tau of eq. 9 and 10, 0.8 or 0.95 in the paper's tables.
        strong: the strong view a_s; the paper's RandAugment and CutOut where not given.
        consistency_weight: factor of the third term, 1 in the paper.
        options: as for :class:`RPG`.
    """

    def __init__(
        self,
        labels: LabelSpace,
        threshold: float = 0.8,
        strong: View | None = None,
        consistency_weight: float = 1.0,
        **options: Any,
    ) -> None:
        consistency = Match(Prediction(), Confidence(threshold), strong or Strong(), factor=consistency_weight)
        super().__init__(labels, terms={"consistency": consistency}, **options)


class BalancedRPG(RPGPlus):
    """RPG+ in which consistency counts as much as the references do, not ten times as much (no paper).

    L = L_RPG + mean(W) CE(f(a_s(x)), a_s(l'(x))), where mean(W) is the mean density-based class entropy (eq. 7) of the
    batch's unlabelled pixels.

    In RPG+ (Seibold et al. 2022, eq. 11) nearly every pixel is confident and counts fully in the consistency term,
    while W averages 0.05 to 0.2: the network's own predictions, errors and all, outweigh the references tenfold. Small
    classes pay for it, whose missed pixels are confident background. With mean(W) as its factor the term also rises by
    itself, from next to nothing while features do not tell classes apart.

    Args: as for :class:`RPGPlus`.
    """

    def others(self, step: Step) -> dict[str, Tensor]:
        terms = super().others(step)
        return terms | {"consistency": step.notes["unsupervised"].weight.mean() * terms["consistency"]}


class ReferenceMatch(NearestNeighbor):
    """FixMatch on the pixels for which the nearest reference says what the network does (no paper).

    L = Ls + CE(f(a_s(x)), a_s(l(x)), [p_l(x) > tau]), with l(x) the label of the nearest reference (Seibold et al.
    2022, eq. 4), p_l(x) the network's probability of this label on the weakly augmented image, and a_s a strong view.
    Since tau is above one half, l(x) is the network's own prediction wherever it counts: labelled pixels with like
    features have a veto. How many neighbours are looked at makes no difference.

    Args:
        labels: the label space.
        threshold: tau; without effect where ``weight`` is given.
        view: the strong view a_s; where not given, changed intensities and a box of another image (CutMix), which keep
            pixels in place and need two unlabelled images or more in a batch.
        weight: takes the place of confidence.
        neighbors: for weights that ask for distances to the classes, see :class:`~common.sources.References`.
        options: as for :class:`NearestNeighbor`.

    Raises:
        ValueError: when tau is not above one half.
    """

    def __init__(
        self,
        labels: LabelSpace,
        threshold: float = 0.95,
        view: View | None = None,
        weight: Weight | None = None,
        neighbors: int | float = 1,
        **options: Any,
    ) -> None:
        if threshold <= 0.5:
            raise ValueError(f"threshold must be above 0.5, where a label is the network's own, got {threshold}.")
        view = view or Chain([Strong(geometry=False, cutout=0), CutMix()])
        super().__init__(labels, neighbors, view=view, weight=weight or Confidence(threshold), **options)
