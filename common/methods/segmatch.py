"""SegMatch: FixMatch for segmentation in which a gate decides which images, or pixels, teach."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.label_space import LabelSpace
from common.methods.base import Method
from common.sources import Prediction
from common.terms import Match, MatchBack
from common.views import Strong, View
from common.weights import ConfidenceMap, Discriminator, MeanConfidence, Ones, Weight
from common.weights.gate import checked_threshold

GATES = {
    "identity": Ones,
    "mean_confidence": MeanConfidence,
    "confidence_map": ConfidenceMap,
    "discriminator": Discriminator,
}
USED = {  # the settings that each has
    "identity": (),
    "mean_confidence": ("threshold",),
    "confidence_map": ("threshold",),
    "discriminator": ("threshold", "discriminator"),
}


class SegMatch(Method):
    """A strong view learns what a gate lets through of the prediction on a weak one (SegMatch, algorithm 1).

    .. math::
        L = L_s + \\lambda_u L_u, \\quad
        L_u = \\frac{1}{\\mu B} \\sum_b 1[\\hat y_b] \\, H(T_1 T_2^{-1} f(T_2 x_b), \\hat y_b)

    over the mu B unlabelled images of a step, with T1 the weak view (the loader's), T2 a strong one on top of it, whose
    prediction is mapped back onto the weak one's (:class:`~common.terms.MatchBack`). With y = f(T1 x), the pseudo-label
    is (section 3.3)

    - ``identity``: y itself, the probabilities, of every image;
    - ``mean_confidence``: argmax y, of images whose mean confidence is above tau;
    - ``confidence_map``: argmax y, at pixels whose confidence is above tau;
    - ``discriminator``: argmax y, of images whose mask a discriminator takes for a label
      (:class:`~common.weights.Discriminator`, eq. 1), which learns after each step.

    lambda_u is ``unsupervised_weight``, H the ``unsupervised_loss``. mu is no setting: it is the loader's
    ``unlabeled_batch`` divided by its ``labeled_batch``.

    Args:
        labels: the label space.
        gate: one of the four, or any weight of ``common.weights``.
        threshold: tau, in (0, 1); where not given, 0.99 for confidences as in the released code, and 0.5 for the
            discriminator.
        view: T2 on top of T1; RandAugment without CutOut where not given.
        mapped_back: as in the paper; else the pseudo-label is moved along with the image, and the view may also cut
            boxes and mix images. See :class:`~common.terms.MatchBack`.
        soft: the pseudo-label is the probabilities; where not given, for ``identity`` alone.
        discriminator: its further settings by name, for which see :class:`~common.weights.Discriminator`.
        options: see :class:`~common.methods.Method`.

    Raises:
        ValueError: when there is no such gate, a setting is out of its range, or the gate has no use for it.
    """

    def __init__(
        self,
        labels: LabelSpace,
        gate: str | Weight = "discriminator",
        threshold: float | None = None,
        view: View | None = None,
        mapped_back: bool = True,
        soft: bool | None = None,
        discriminator: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        weight = gate_of(gate, threshold, discriminator, options.get("seed", 0))
        source = Prediction(gate == "identity" if soft is None else soft)
        term = (MatchBack if mapped_back else Match)(source, weight, view or Strong(cutout=0))
        super().__init__(labels, {"unsupervised": term}, **options)


def gate_of(gate: str | Weight, threshold: float | None, discriminator: Mapping[str, Any] | None, seed: int) -> Weight:
    """The weight of a gate's name and settings, or the one given.

    Raises:
        ValueError: when there is no such gate, the threshold is out of its range, or the gate has no use for a setting.
    """
    if not isinstance(gate, Weight) and gate not in GATES:
        raise ValueError(f"gate must be one of {', '.join(GATES)}, or a weight of common.weights, got {gate!r}.")
    name, used = (type(gate).__name__, ()) if isinstance(gate, Weight) else (gate, USED[gate])
    given = {"threshold": threshold, "discriminator": discriminator}
    unused = [key for key, value in given.items() if value is not None and key not in used]
    if unused:
        raise ValueError(f"gate {name} has no use for {' and '.join(unused)}, got {given[unused[0]]}: leave it out.")
    settings = {} if threshold is None else {"threshold": checked_threshold(threshold)}
    if gate == "discriminator":
        settings = {"seed": seed, **(discriminator or {}), **settings}
    return gate if isinstance(gate, Weight) else GATES[gate](**settings)
