"""Scores of a segmentation of a volume, slice by slice."""

from __future__ import annotations

import math

import numpy as np

from common.metrics.mask import check_masks


def slice_scores(prediction: np.ndarray, truth: np.ndarray) -> dict[str, float | int]:
    """Means over the slices of one mask, apart for those that hold some of the truth and those that do not.

    A slice that holds some of it has a Dice and a sensitivity, the share of its true pixels that are predicted. In one
    that holds none, all that is predicted is false. So the means of the former do not tell of the latter, of which
    there are mostly more: a network that finds a lesion everywhere may have good ones.

    Args:
        prediction: predicted mask ``(H, W, D)``, boolean; D slices.
        truth: true mask of the same shape.

    Returns:
        ``slice_dice`` and ``slice_sensitivity``, means over the slices with truth; ``false_positive_area``, the mean
        number of predicted pixels in those without; ``slices_with`` and ``slices_without``, how many there are. A mean
        over none is NaN, which does not count in a mean and is an empty cell in a table.

    Raises:
        ValueError: if the masks are not boolean, of three axes and of one shape.
    """
    check_masks(prediction, truth)
    if truth.ndim != 3:
        raise ValueError(f"masks must have three axes, the last one of slices, got shape {truth.shape}.")
    hits, predicted, true = (mask.sum((0, 1)) for mask in (prediction & truth, prediction, truth))
    shown = true > 0
    return {
        "slice_dice": mean(2 * hits[shown] / (predicted + true)[shown]),
        "slice_sensitivity": mean(hits[shown] / true[shown]),
        "false_positive_area": mean(predicted[~shown]),
        "slices_with": int(shown.sum()),
        "slices_without": int((~shown).sum()),
    }


def mean(values: np.ndarray) -> float:
    """The mean; NaN of no values."""
    return float(values.mean()) if values.size else math.nan
