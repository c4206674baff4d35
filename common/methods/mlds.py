"""MLDS: the decoder's levels learn which classes occur in their cells, from labels and from a teacher."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from common.label_space import LabelSpace
from common.methods.base import Method
from common.sources import Teacher
from common.step import Step
from common.terms import DeepMatch, DeepSupervision, LevelHeads, Match
from common.views import Strong, View


class MLDS(Method):
    """Multi-label deep supervision with a mean teacher (after Reiss et al. 2021).

    L = Ls + mu Ds + lambda(t) (CE(f(a(x)), a(l'(x))) + mu Du), with Ds and Du the deep supervision of labelled images
    (:class:`~common.terms.DeepSupervision`) and of unlabelled ones (:class:`~common.terms.DeepMatch`), whose label is
    l'(x), the decision of an exponential moving average of the weights. Wrong borders of a pseudo-label change few of
    the coarse cells, which only say what occurs in them. ``supervised`` is Ls + mu Ds, which does not wait for
    lambda(t). The model of a run is the network, without the heads of its levels.

    A comparator of Seibold et al. 2022 (RPG, table 5). From the paper are the masks of several classes, max-pooled to
    the size of each level, binary cross-entropy there, and pseudo-labels of a mean teacher at full resolution and at
    the levels. Ours, since this is made from a description of it, are the heads of one 1 x 1 convolution, the levels of
    the decoder alone, the means over cells, classes and levels, the factors and their rise, the view, and that coarse
    cells with pixels from outside of the image do not count.

    Args:
        labels: the label space.
        decay: of the teacher's average.
        view: what the network is shown of unlabelled images, a; :class:`~common.views.Strong` where not given.
        levels_weight: the factor mu.
        ramp_up: number of iterations over which lambda rises along exp(-5 (1 - t)^2); 0 for none.
        options: see :class:`~common.methods.Method`.

    Raises:
        ValueError: for a decay outside of [0, 1), a negative factor, a network without levels.
    """

    def __init__(
        self,
        labels: LabelSpace,
        decay: float = 0.99,
        view: View | None = None,
        levels_weight: float = 1.0,
        ramp_up: int = 200,
        **options: Any,
    ) -> None:
        heads = LevelHeads(options.get("seed", 0))
        match = Match(Teacher(decay), view=view or Strong())
        terms = {"unsupervised": match, "levels": DeepMatch(levels_weight, heads)}
        super().__init__(labels, terms, ramp_up=ramp_up, **options)
        self.deep = DeepSupervision(levels_weight, heads)

    def supervised(self, step: Step) -> Tensor:
        """The loss on the labelled images, at full resolution and at the decoder's levels."""
        return super().supervised(step) + self.deep.factor * self.deep(step)
