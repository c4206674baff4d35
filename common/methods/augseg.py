"""AugSeg: a teacher's confident prediction, on images that are mixed with labelled ones where it is unsure."""

from __future__ import annotations

from typing import Any

from common.label_space import LabelSpace
from common.methods.base import Method
from common.sources import Teacher
from common.terms import Match
from common.views import Chain, CutMix, LabeledCutMix, Strong, View
from common.weights import Confidence


class AugSeg(Method):
    """Simple augmentations and a teacher (Zhao et al. 2023).

    L = Ls + CE(f(a(x)), a(l'(x))), with l'(x) the confident prediction of an exponential moving average of the weights,
    as a mean over all pixels. The view a does one to three intensity operations, each at a random strength, fills a box
    from a labelled image with a probability that falls with the teacher's confidence
    (:class:`~common.views.LabeledCutMix`), and then one from another of the images so mixed. The paper's operations on
    colour are those on grey values of :class:`~common.views.Strong` here.

    Args:
        labels: the label space.
        decay: of the teacher's average; 0.999 in the paper.
        threshold: tau; 0.95 in the paper.
        view: a, where another one is wanted.
        options: see :class:`~common.methods.Method`.
    """

    def __init__(
        self,
        labels: LabelSpace,
        decay: float = 0.999,
        threshold: float = 0.95,
        view: View | None = None,
        **options: Any,
    ) -> None:
        mixed = CutMix(beta=(4, 4), aspect=(1, 1), prob=1)
        view = view or Chain([Strong((1, 3), geometry=False, cutout=0), LabeledCutMix(), mixed])
        match = Match(Teacher(decay), Confidence(threshold), view)
        super().__init__(labels, {"unsupervised": match}, **options)
