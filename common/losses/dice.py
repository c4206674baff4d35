"""The Dice loss, with a weight for each pixel."""

from __future__ import annotations

from torch import Tensor

from common.label_space import LabelSpace
from common.losses.loss import Loss

# In the numerator and the denominator: patches without the class and without a prediction of it have no loss.
SMOOTH = 1.0


class Dice(Loss):
    """1 - Dice of probabilities and label (Milletari et al. 2016; eq. 1 of POPCORN), the mean over the classes.

    .. math::
        1 - \\frac{2 \\sum_x w_x p_x y_x + 1}{\\sum_x w_x p_x + \\sum_x w_x y_x + 1}

    In 32-bit floats also under mixed precision.

    Args:
        per_image: sum over each image and take the mean of the losses, as eq. 1 of POPCORN. By default the sums run
            over all pixels of the batch at once: a patch without the class (most of a brain is without lesions) has no
            Dice of its own then, but its false positives count against the others' overlap.
        background: let softmax's background count as a class.
        absent: let classes count that the label shows nowhere, as in the papers. Their loss is near 1 for the least
            probability: pseudo-labels without a class, since the network is not sure of it, unlearn it.
        squared: squares of p and y in the denominator, as in Milletari et al. and in UniMatch's medical branch.
    """

    def __init__(
        self, per_image: bool = False, background: bool = False, absent: bool = True, squared: bool = False
    ) -> None:
        self.per_image, self.background, self.absent, self.squared = per_image, background, absent, squared

    def __call__(self, labels: LabelSpace, logits: Tensor, label: Tensor, weight: Tensor | None = None) -> Tensor:
        probabilities, masks = labels.probabilities(logits.float()), labels.masks(label).float()
        if self.background and not labels.multilabel:
            masks = labels.one_hot(label)
        else:
            probabilities = probabilities[:, -labels.num_classes :]
        if masks.shape != probabilities.shape:
            raise ValueError(
                f"outputs of shape {tuple(logits.shape)} need a label of {tuple(probabilities.shape)} masks, got "
                f"{tuple(masks.shape)}."
            )
        over = [*([] if self.per_image else [0]), *range(2, masks.ndim)]
        weight = 1.0 if weight is None else weight.float()
        overlap = (weight * probabilities * masks).sum(over)
        sizes = [part.square() if self.squared else part for part in (probabilities, masks)]
        total = sum((weight * size).sum(over) for size in sizes)
        loss = 1 - (2 * overlap + SMOOTH) / (total + SMOOTH)
        if self.absent:
            return loss.mean()
        shown = ((weight * masks).sum(over) > 0).float()
        return (loss * shown).sum() / shown.sum().clamp(min=1)
