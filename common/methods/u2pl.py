"""U2PL: a teacher's reliable pixels are learnt, and its unreliable ones are what other classes are not."""

from __future__ import annotations

from typing import Any

from common.label_space import LabelSpace
from common.losses import CrossEntropy, Loss
from common.methods.base import Method
from common.sources import Teacher
from common.terms import Contrast, Match
from common.views import CutMix, View
from common.weights import EntropyShare


class U2PL(Method):
    """Using unreliable pseudo-labels (Wang et al. 2022).

    L = Ls + Lu + 0.1 Lc. Lu is the mean cross-entropy over those pixels whose entropy, as the teacher sees them, is not
    among the highest (:class:`~common.weights.EntropyShare`), on images with boxes of others (CutMix); Lc the contrast
    of pixels' representations (:class:`~common.terms.Contrast`), whose negatives are the unreliable pixels. In the
    first iterations the network learns from the labels alone.

    Args:
        labels: the label space.
        decay: of the teacher's average; 0.99 in the paper.
        unreliable: alpha_0, the share of pixels that Lu leaves out at first; 0.2 in the paper.
        view: what is learnt on; CutMix of half of the images where not given.
        contrast: the settings of Lc by name, for which see :class:`~common.terms.Contrast`.
        unsupervised_loss: Lu's; cross-entropy over the pixels that count where not given.
        supervised_share: see :class:`~common.methods.Method`; one of the paper's 80 epochs.
        options: see :class:`~common.methods.Method`.
    """

    def __init__(
        self,
        labels: LabelSpace,
        decay: float = 0.99,
        unreliable: float = 0.2,
        view: View | None = None,
        contrast: dict[str, Any] | None = None,
        unsupervised_loss: Loss | None = None,
        supervised_share: float = 1 / 80,
        **options: Any,
    ) -> None:
        teacher, reliable = Teacher(decay), EntropyShare(unreliable)
        terms = {"unsupervised": Match(teacher, reliable, view or CutMix())}
        terms["contrast"] = Contrast(teacher, reliable, **(contrast or {}))
        loss = unsupervised_loss or CrossEntropy(normalized=True)
        super().__init__(labels, terms, unsupervised_loss=loss, supervised_share=supervised_share, **options)
