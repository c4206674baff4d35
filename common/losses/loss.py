"""What a loss is, cross-entropy, and sums of losses."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from common.label_space import LabelSpace


class Loss:
    """Compares outputs with a label in which each pixel has a weight. It asks the label space what they mean."""

    def __call__(self, labels: LabelSpace, logits: Tensor, label: Tensor, weight: Tensor | None = None) -> Tensor:
        """
        Args:
            labels: the label space.
            logits: the network's outputs, ``B C H W [D]`` or ``B C+1 H W [D]``.
            label: a label of the label space, or probabilities where it is soft, ``B C H W [D]`` or ``B C+1 H W [D]``.
            weight: weight of each pixel, ``B 1 H W [D]``, or in multi-label of each class of a pixel,
                ``B C H W [D]``; 1 everywhere where not given.

        Raises:
            ValueError: when the label's shape does not fit the outputs.
        """
        raise NotImplementedError


class CrossEntropy(Loss):
    """The mean over all pixels of weighted cross-entropy, binary for multi-label (eq. 8 of RPG).

    Args:
        normalized: divide by the sum of the weights instead: few pixels that count weigh as much as many (U2PL, AEL).
    """

    def __init__(self, normalized: bool = False) -> None:
        self.normalized = normalized

    def __call__(self, labels: LabelSpace, logits: Tensor, label: Tensor, weight: Tensor | None = None) -> Tensor:
        loss = labels.cross_entropy(logits, label, weight)
        return loss / weight.float().mean().clamp(min=1e-12) if self.normalized and weight is not None else loss


class Sum(Loss):
    """A weighted sum of losses.

    Args:
        losses: the losses.
        weights: their factors; equal ones that add up to 1 where not given.

    Raises:
        ValueError: when there is no loss, or not one factor for each.
    """

    def __init__(self, losses: Sequence[Loss], weights: Sequence[float] | None = None) -> None:
        weights = [1 / max(1, len(losses))] * len(losses) if weights is None else list(weights)
        if not losses or len(weights) != len(losses):
            raise ValueError(
                f"there must be a weight for each loss, got {len(losses)} losses and {len(weights)} weights."
            )
        self.losses, self.weights = list(losses), weights

    def __call__(self, labels: LabelSpace, logits: Tensor, label: Tensor, weight: Tensor | None = None) -> Tensor:
        terms = [loss(labels, logits, label, weight) for loss in self.losses]
        return sum(factor * term for factor, term in zip(self.weights, terms, strict=True))
