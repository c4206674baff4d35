"""UniMatch: one prediction, matched by two strong views and by a view with dropped features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.label_space import LabelSpace
from common.methods.base import Method
from common.sources import Prediction
from common.terms import Match
from common.views import Chain, CutMix, FeatureDropout, Several, Strong, View
from common.weights import Confidence


class UniMatch(Method):
    """The confident prediction on a weak view is learnt on three others (Yang et al. 2023).

    L = Ls + 1/2 L_strong + 1/2 L_features, with two strong views of the image in one pass, parts of which are replaced
    by parts of other images (CutMix), and the weak view with half of the encoder's features dropped. The paper has half
    of it, which is a matter of the learning rate.

    Args:
        labels: the label space.
        threshold: tau; 0.95 in the paper.
        view: the strong view; intensity operations and CutMix where not given.
        features: the view with dropped features; a rate of 0.5 where not given.
        factors: factors of the two terms, ``strong`` and ``features``, relative to the supervised one.
        options: see :class:`~common.methods.Method`; the paper's branch for medical images has Dice as the
            ``unsupervised_loss``.

    Raises:
        ValueError: when there is a factor of another term.
    """

    def __init__(
        self,
        labels: LabelSpace,
        threshold: float = 0.95,
        view: View | None = None,
        features: View | None = None,
        factors: Mapping[str, float] | None = None,
        **options: Any,
    ) -> None:
        factors = {"strong": 0.5, "features": 0.5} if factors is None else dict(factors)
        strong = view or Chain([Strong(geometry=False, cutout=0), CutMix()])
        views = {"strong": Several([strong, strong]), "features": features or FeatureDropout()}
        unknown = factors.keys() - views.keys()
        if unknown:
            raise ValueError(f"factors must be of {', '.join(views)}, got {', '.join(sorted(unknown))}.")
        source, weight = Prediction(), Confidence(threshold)
        terms = {name: Match(source, weight, views[name], factor=factors[name]) for name in factors}
        super().__init__(labels, terms, **options)
