"""Scores of one mask against the truth: overlap, and how far the surfaces are apart."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice


def mask_scores(
    prediction: np.ndarray, truth: np.ndarray, spacing: Sequence[float] | None = None, tolerance: float = 1.0
) -> dict[str, float]:
    """Scores of one mask; NaN where a score is undefined, which does not count in a mean.

    Where both masks are empty there was nothing to find and nothing was found: overlaps are 1. Where the truth alone is
    empty, IoU, Dice and precision are 0 and sensitivity is undefined; where the prediction is, precision is. Where one
    of the two is empty, surface Dice is 0 and the distance undefined, since it needs two surfaces; so are both where
    both are.

    Args:
        prediction: predicted mask ``(H, W[, D])``, boolean.
        truth: true mask of the same shape.
        spacing: side of a pixel along each axis in mm; without it distances are in pixels, and there is no surface
            Dice.
        tolerance: how far apart surfaces may be to count as equal, in mm.

    Returns:
        ``iou``, ``dice``, ``precision`` and ``sensitivity`` of pixels, ``hausdorff95`` (the larger of the two directed
        95th percentiles of surface distances) and ``surface_dice`` (Nikolov et al. 2018).

    Raises:
        ValueError: if the masks are not boolean and of one shape, or the spacing does not fit.
    """
    check_masks(prediction, truth)
    if spacing is not None and (len(spacing) != truth.ndim or not all(math.isfinite(s) and s > 0 for s in spacing)):
        raise ValueError(f"spacing must be {truth.ndim} lengths above 0 in mm, got {list(spacing)}.")
    hits, predicted, true = (int(np.count_nonzero(mask)) for mask in (prediction & truth, prediction, truth))
    precision, sensitivity, dice = ratios(hits, predicted, hits, true)
    scores = {"iou": hits / (predicted + true - hits) if predicted or true else 1.0, "dice": dice}
    missed = math.nan if spacing is None or bool(predicted) == bool(true) else 0.0
    scores |= {"precision": precision, "sensitivity": sensitivity, "hausdorff95": math.nan, "surface_dice": missed}
    if predicted and true:
        pair = [torch.from_numpy(mask)[None, None] for mask in (prediction, truth)]
        sides = None if spacing is None else [float(side) for side in spacing]
        distance = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=sides)
        scores["hausdorff95"] = float(distance)
        if sides is not None:
            same = compute_surface_dice(*pair, [tolerance], include_background=True, spacing=sides)
            scores["surface_dice"] = float(same)
    return scores


def ratios(right: int, predicted: int, detected: int, true: int) -> tuple[float, float, float]:
    """Precision right / predicted, sensitivity detected / true, and their harmonic mean; 1 where both are empty."""
    if not predicted and not true:
        return 1.0, 1.0, 1.0
    precision = right / predicted if predicted else math.nan
    sensitivity = detected / true if true else math.nan
    # of pixels, the harmonic mean is Dice: 2 hits / (predicted + true)
    mean = 2 * precision * sensitivity / (precision + sensitivity) if right and detected else 0.0
    return precision, sensitivity, mean


def check_masks(prediction: np.ndarray, truth: np.ndarray) -> None:
    """Refuses what are not two boolean masks of one shape."""
    for name, mask in (("prediction", prediction), ("truth", truth)):
        if mask.dtype != bool or mask.ndim not in (2, 3):
            raise ValueError(
                f"{name} must be a boolean mask of 2 or 3 axes, got {mask.dtype} of shape {mask.shape}. "
                "Take one channel and compare it with a threshold."
            )
    if prediction.shape != truth.shape:
        raise ValueError(
            f"prediction and truth must have one shape, got {prediction.shape} and {truth.shape}. "
            "Bring both into the space of the image."
        )
