"""Whether a gate lets the right pseudo-labels through."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from common.label_space import LabelSpace


@torch.no_grad()
def image_dice(labels: LabelSpace, pseudo_label: Tensor, truth: Tensor) -> Tensor:
    """Dice of each image's pseudo-label and each class, ``B C``; 1 where both are without the class.

    Args:
        labels: the label space.
        pseudo_label: a label of the label space, hard or soft.
        truth: the hidden truth, in the same form or hard.
    """
    masks, true = ((labels.masks(label) > 0.5).float().flatten(2) for label in (pseudo_label, truth))
    total = masks.sum(2) + true.sum(2)
    return torch.where(total > 0, 2 * (masks * true).sum(2) / total.clamp(min=1), torch.ones_like(total))


def gate_statistics(scores: np.ndarray, accepted: np.ndarray, dice: np.ndarray | None = None) -> dict[str, float]:
    """Numbers that say what a gate accepted, and whether it was right.

    Args:
        scores: the gate's scores, one for each image or each class of an image, ``N``.
        accepted: 1 where it counts, 0 where not; between them the share of pixels that count, ``N``.
        dice: of the pseudo-labels with the hidden truth, ``N``, NaN where it is not known; None where none is.

    Returns:
        ``accepted`` and ``gate_score``, the means; where a truth is known ``dice_accepted`` and ``dice_refused``, the
        mean Dice of what is accepted and of what is not, and ``gate_auc``: of all pairs of images of different Dice,
        the share in which the better one has the higher score, a tie counting half. Of pseudo-labels that are right or
        wrong alone, that is the area under the ROC curve. What is undefined has no value.
    """
    numbers = {"accepted": accepted.mean(), "gate_score": scores.mean()}
    if dice is not None:
        known = ~np.isnan(dice)
        scores, accepted, dice = scores[known], accepted[known], dice[known]
        better = dice[:, None] > dice
        right = (scores[:, None] > scores) + 0.5 * (scores[:, None] == scores)
        parts = {
            "dice_accepted": (accepted * dice, accepted),
            "dice_refused": ((1 - accepted) * dice, 1 - accepted),
            "gate_auc": (right * better, better),
        }
        numbers |= {name: part.sum() / whole.sum() for name, (part, whole) in parts.items() if whole.sum() > 0}
    return {name: float(value) for name, value in numbers.items()}
