"""AEL: what is learnt badly is pasted, shown and sampled more often."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from common.class_confidence import ClassConfidence
from common.label_space import LabelSpace
from common.losses import CrossEntropy, Loss
from common.methods.base import Method
from common.sources import Teacher
from common.step import Step
from common.terms import Match
from common.views import ClassCopyPaste, ClassCutMix
from common.weights import ClassSample, ConfidencePower, Product


class AEL(Method):
    """Adaptive equalization learning (Hu et al. 2021).

    L = Ls + sum w CE(f(a(x)), a(l'(x))) / sum w, with l'(x) the prediction of a teacher. A bank keeps account of each
    class's confidence on labelled images (:class:`~common.class_confidence.ClassConfidence`). The less confident a
    class, the more often its pixels are pasted onto labelled images before Ls, the more often a shows the box around it
    in another image (:class:`~common.views.ClassCutMix`), and the more of its pixels are sampled for the second term
    (:class:`~common.weights.ClassSample`), where each counts by its largest probability squared.

    Args:
        labels: the label space.
        decay: of the teacher's average; 0.99 in the paper.
        bank_decay: of the class confidence; 0.999 in the paper.
        power: gamma, of a pixel's largest probability in its weight; 2 in the paper.
        sampling_power: beta, of the share of a class's pixels that count; 0 for all.
        paste_classes: number of draws of a class whose pixels are pasted onto a labelled image, onto half of them; 0
            for none.
        unsupervised_loss: loss of the second term; cross-entropy over the weights where not given.
        options: see :class:`~common.methods.Method`.
    """

    def __init__(
        self,
        labels: LabelSpace,
        decay: float = 0.99,
        bank_decay: float = 0.999,
        power: float = 2.0,
        sampling_power: float = 1.0,
        paste_classes: int = 1,
        unsupervised_loss: Loss | None = None,
        **options: Any,
    ) -> None:
        bank = ClassConfidence(bank_decay)
        weight = Product([ConfidencePower(power), ClassSample(bank, sampling_power)])
        loss = unsupervised_loss or CrossEntropy(normalized=True)
        match = Match(Teacher(decay), weight, ClassCutMix(bank))
        super().__init__(labels, {"unsupervised": match}, unsupervised_loss=loss, **options)
        self.bank, self.paste_classes = bank, paste_classes
        self.paste = ClassCopyPaste(bank, paste_classes) if paste_classes else None

    def supervised(self, step: Step) -> Tensor:
        """The loss on the labelled images with pasted classes, which the bank looks at, too."""
        image, label, weight = (step.labeled.get(key) for key in ("image", "label", "weight"))
        if self.paste is not None:
            viewed = step.view(self.paste, image)
            image, (label, weight) = viewed.image, viewed.change.of_label(label, weight)
        outputs = step.see(image).outputs
        self.bank.note(self.labels, outputs, label)
        return step.compare(self.loss, outputs, label, weight)
