"""The squared error of probabilities, with a weight for each pixel."""

from __future__ import annotations

from torch import Tensor

from common.label_space import LabelSpace
from common.losses.loss import Loss


class SquaredError(Loss):
    """The mean over pixels and outputs of (p - y)^2, of probabilities and label (Tarvainen and Valpola 2017, eq. 4).

    In 32-bit floats also under mixed precision. Labels below 0 are ignored.
    """

    def __call__(self, labels: LabelSpace, logits: Tensor, label: Tensor, weight: Tensor | None = None) -> Tensor:
        probabilities = labels.probabilities(logits.float())
        known = (label >= 0).all(1, keepdim=True) if not labels.multilabel else label >= 0
        target = labels.one_hot(label.clamp(min=0))
        if target.shape != probabilities.shape:
            raise ValueError(
                f"outputs of shape {tuple(logits.shape)} need a {labels.mode} label of {tuple(probabilities.shape)}, "
                f"got one of {tuple(label.shape)}."
            )
        error = (probabilities - target) ** 2 * known
        return error.mean() if weight is None else (error * weight.float()).mean()
