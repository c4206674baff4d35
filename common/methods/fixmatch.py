"""Methods that learn from the network's own confident predictions: Pseudo-Label and FixMatch."""

from __future__ import annotations

from typing import Any

from common.label_space import LabelSpace
from common.methods.base import Method
from common.sources import Prediction
from common.terms import Match
from common.views import Strong, View, Weak
from common.weights import Confidence


class PseudoLabel(Method):
    """The network learns its own confident predictions (Lee et al. 2013; as compared in Seibold et al. 2022, table 1).

    L = Ls + CE(f(x), l'(x)), with l'(x) what the network predicts of the same weakly augmented image, where it is
    confident (eq. 9, 10).

    Args:
        labels: the label space.
        threshold: tau, 0.8 and 0.95 in the paper's tables.
        view: what is learnt on; the weakly augmented image itself where not given.
        options: see :class:`~common.methods.Method`.
    """

    def __init__(
        self,
        labels: LabelSpace,
        threshold: float = 0.95,
        view: View | None = None,
        **options: Any,
    ) -> None:
        self_taught = Match(Prediction(), Confidence(threshold), view or Weak())
        super().__init__(labels, {"unsupervised": self_taught}, **options)


class FixMatch(PseudoLabel):
    """The prediction on a weak view is learnt on a strong one (Sohn et al. 2020; Seibold et al. 2022, eq. 9, 10).

    L = Ls + CE(f(a_s(x)), a_s(l'(x))): :class:`PseudoLabel` whose second term looks at a strongly augmented view, with
    the pseudo-label changed as the image was. The pass over the weak view keeps no gradients.

    Args:
        labels: the label space.
        threshold: tau, 0.8 and 0.95 in the paper's tables.
        view: the strong view a_s; the paper's RandAugment and CutOut where not given.
        options: see :class:`PseudoLabel`.
    """

    def __init__(self, labels: LabelSpace, threshold: float = 0.8, view: View | None = None, **options: Any) -> None:
        super().__init__(labels, threshold, view or Strong(), **options)
