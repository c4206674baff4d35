"""The Dice loss, with a weight for each pixel."""

from __future__ import annotations

from torch import Tensor

from common.label_space import LabelSpace

# In the numerator and the denominator: patches without the class and without a prediction of it have no loss.
SMOOTH = 1.0


def dice_loss(labels: LabelSpace, logits: Tensor, label: Tensor, weight: Tensor | None = None) -> Tensor:
    """1 - Dice of probabilities and label (Milletari et al. 2016; eq. 1 of POPCORN), the mean over the classes.

    .. math::
        1 - \\frac{2 \\sum_x w_x p_x y_x + 1}{\\sum_x w_x p_x + \\sum_x w_x y_x + 1}

    The sums run over all pixels of the batch at once: a patch without the class (most of a brain is without lesions)
    has no Dice of its own, but its false positives count against the others' overlap. In 32-bit floats also under
    mixed precision.

    Args:
        labels: the label space; softmax's background does not count.
        logits: the network's outputs, ``B C H W [D]`` or ``B C+1 H W [D]``.
        label: the label to match, 0 and 1 or, for soft pseudo-labels in multi-label, any value between.
        weight: weight w of each pixel, ``B 1 H W [D]``; 1 everywhere where not given.

    Raises:
        ValueError: when the label's shape does not fit the outputs.
    """
    probabilities = labels.probabilities(logits.float())[:, -labels.num_classes :]
    masks = labels.masks(label).float()
    if masks.shape != probabilities.shape:
        raise ValueError(
            f"outputs of shape {tuple(logits.shape)} need a label of {tuple(probabilities.shape)} masks, got "
            f"{tuple(masks.shape)}."
        )
    over = [0, *range(2, masks.ndim)]
    weight = 1.0 if weight is None else weight.float()
    overlap = (weight * probabilities * masks).sum(over)
    total = (weight * probabilities).sum(over) + (weight * masks).sum(over)
    return (1 - (2 * overlap + SMOOTH) / (total + SMOOTH)).mean()
