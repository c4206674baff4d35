"""The label space: which classes there are, and whether they may overlap."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from common.class_names import require_class_names
from common.label_modes import MODES


class LabelSpace:
    """Names of the classes, and how a network's outputs and a label's values stand for them.

    ===============  ==============================  =======================================
    \\                multi-label (sigmoid)           multi-class (softmax)
    ===============  ==============================  =======================================
    network outputs  ``B C H W [D]``                 ``B C+1 H W [D]``, background first
    label            ``B C H W [D]`` of 0 and 1      ``B 1 H W [D]``, 0 background, j+1 class j
    soft label       ``B C H W [D]`` in [0, 1]       ``B C+1 H W [D]`` in [0, 1], background first
    ===============  ==============================  =======================================

    Losses, weights and metrics ask this object instead of deciding on their own.

    Args:
        classes: names of the C foreground classes.
        mode: ``"multilabel"`` where a pixel may belong to several classes (lung and clavicle of a radiograph),
            ``"multiclass"`` where it belongs to at most one.

    Raises:
        ValueError: when there is no class, a name is repeated (in whatever case) or cannot be one, or the mode is
            unknown.
    """

    def __init__(self, classes: Sequence[str], mode: str = "multilabel") -> None:
        require_class_names(classes)
        if mode not in MODES:
            raise ValueError(f"mode must be one of {MODES}, got {mode!r}.")
        self.classes = tuple(str(name) for name in classes)
        self.mode = mode

    def __repr__(self) -> str:
        return f"LabelSpace({list(self.classes)}, mode={self.mode!r})"

    @property
    def multilabel(self) -> bool:
        return self.mode == "multilabel"

    @property
    def num_classes(self) -> int:
        """Number C of foreground classes."""
        return len(self.classes)

    @property
    def num_outputs(self) -> int:
        """Number of the network's output channels: C, or C + 1 with the softmax's background."""
        return self.num_classes if self.multilabel else self.num_classes + 1

    @property
    def forms(self) -> tuple[tuple[str, ...], ...]:
        """The lists of classes that a label's masks may be of; label maps are of the first."""
        return (self.classes,)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Class probabilities of the network's outputs, in their shape."""
        return logits.sigmoid() if self.multilabel else logits.softmax(dim=1)

    def confidence(self, probabilities: Tensor) -> Tensor:
        """The probability of what is most probable, ``B 1 H W [D]``; multi-label max(p, 1 - p), ``B C H W [D]``."""
        return torch.maximum(probabilities, 1 - probabilities) if self.multilabel else probabilities.amax(1, True)

    def predict(self, logits: Tensor) -> Tensor:
        """The label that the network's outputs say: probability over 0.5, or the most probable class."""
        return (logits > 0).to(logits.dtype) if self.multilabel else logits.argmax(dim=1, keepdim=True)

    def is_soft(self, label: Tensor) -> bool:
        """Whether a multi-class label holds probabilities; in multi-label a label may be soft without looking so."""
        return not self.multilabel and label.shape[1] == self.num_outputs

    def masks(self, label: Tensor) -> Tensor:
        """One mask for each foreground class, ``B C H W [D]`` of 0 and 1 (between them, of a soft label)."""
        if self.multilabel:
            return label
        if self.is_soft(label):
            return label[:, 1:]
        return torch.cat([label == value + 1 for value in range(self.num_classes)], dim=1).to(torch.float32)

    def hard(self, label: Tensor) -> Tensor:
        """The label of whole numbers that a soft one says, in float32; any other one as it is."""
        if self.multilabel:
            return (label > 0.5).float()
        return label.argmax(dim=1, keepdim=True).float() if self.is_soft(label) else label

    def one_hot(self, label: Tensor) -> Tensor:
        """A label with one channel for each of the network's outputs, in float32."""
        if self.multilabel or self.is_soft(label):
            return label.float()
        masks = self.masks(label)
        return torch.cat([1 - masks.sum(1, keepdim=True), masks], dim=1)

    def cross_entropy(self, logits: Tensor, label: Tensor, weight: Tensor | None = None) -> Tensor:
        """Mean over the pixels of (weighted) cross-entropy, binary for multi-label (eq. 8 of RPG).

        The mean runs over all pixels, not over the sum of the weights, so that an image whose pixels count little
        adds little.

        Args:
            logits: the network's outputs, ``B C H W [D]`` or ``B C+1 H W [D]``.
            label: the label to match, hard or soft; values below 0 are ignored.
            weight: weight of each pixel, ``B 1 H W [D]``, or in multi-label of each class of a pixel; 1 everywhere
                where not given.

        Raises:
            ValueError: when the label's shape does not fit the outputs.
        """
        channels = label.shape[1] if self.is_soft(label) else self.num_classes if self.multilabel else 1
        expected = (logits.shape[0], channels, *logits.shape[2:])
        if tuple(label.shape) != expected or logits.shape[1] != self.num_outputs:
            raise ValueError(
                f"outputs of shape {tuple(logits.shape)} need a {self.mode} label of shape {expected} and "
                f"{self.num_outputs} output channels, got a label of shape {tuple(label.shape)}."
            )
        if self.multilabel:
            valid = label >= 0
            target = label.clamp(min=0).to(logits.dtype)
            loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * valid
        elif self.is_soft(label):
            loss = F.cross_entropy(logits, label.to(logits.dtype), reduction="none").unsqueeze(1)
        else:
            loss = F.cross_entropy(logits, label.squeeze(1).long().clamp(min=-1), reduction="none", ignore_index=-1)
            loss = loss.unsqueeze(1)
        return loss.mean() if weight is None else (loss * weight).mean()
