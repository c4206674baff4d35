"""Segmentation and the reconstruction of what it tells apart (Chen et al. 2019)."""

from __future__ import annotations

from typing import Any

from common.label_space import LabelSpace
from common.losses import Dice, Loss
from common.methods.base import Method
from common.terms import Reconstruction


class MultiTaskAttention(Method):
    """L = L_seg + lambda L_rec: Dice, and reconstructions of the lesions and of the rest (after Chen et al. 2019).

    A comparator of Kamraoui et al. 2021 (section 3.2, table 2); L_rec is :class:`~common.terms.Reconstruction`, on
    labelled and unlabelled images alike. Inference needs the network alone.

    This is made from the description in Kamraoui et al., who name a supervised segmentation, an unsupervised
    reconstruction, and an attention with which regions of different classes are predicted. Ours are the equation, the
    attention without gradient and from the network's segmentation in labelled images too, the head on a shared decoder
    instead of a decoder of its own, and the factor.

    Args:
        labels: the label space.
        reconstruction_weight: the factor lambda.
        loss: L_seg; Dice where not given.
        options: see :class:`~common.methods.Method`.
    """

    def __init__(
        self, labels: LabelSpace, reconstruction_weight: float = 1.0, loss: Loss | None = None, **options: Any
    ) -> None:
        reconstruction = Reconstruction(reconstruction_weight, options.get("seed", 0))
        super().__init__(labels, {"reconstruction": reconstruction}, loss=loss or Dice(), **options)
