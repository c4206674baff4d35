"""Scores of a lesion segmentation: voxel by voxel, lesion by lesion, and of the volume."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

# of a voxel, counted as neighbours: those that share a face; an edge too; a corner too
CONNECTIVITIES = {6: 1, 18: 2, 26: 3}


def lesion_scores(
    prediction: np.ndarray, truth: np.ndarray, voxel_ml: float, min_overlap: int = 1, connectivity: int = 26
) -> dict[str, float | int]:
    """Scores of one volume; a lesion is a connected component of a mask.

    A true lesion is detected, and a predicted lesion is right, if it shares ``min_overlap`` voxels with the other mask
    (a smaller lesion: all its voxels). Lesion-wise sensitivity S is the share of true lesions that are detected,
    precision P the share of predicted lesions that are right, F1 = 2 P S / (P + S).

    Where the truth or the prediction is empty:

    - both: nothing to find and nothing found, so Dice, precision, sensitivity and F1 are 1;
    - the truth: all that is predicted is wrong: Dice, precision and F1 are 0, sensitivity is undefined (NaN);
    - the prediction: all is missed: Dice, sensitivity and F1 are 0, precision is undefined (NaN).

    NaN does not count in a mean, and is an empty cell in a table.

    Args:
        prediction: predicted mask ``(H, W, D)``, boolean.
        truth: true mask of the same shape.
        voxel_ml: volume of a voxel in ml.
        min_overlap: number of voxels.
        connectivity: number of a voxel's neighbours, 6, 18 or 26.

    Returns:
        ``dice``, ``precision``, ``sensitivity`` of voxels, ``lesion_f1``, ``lesion_precision``,
        ``lesion_sensitivity``, ``load_error_ml`` (predicted minus true volume), ``truth_ml``, ``predicted_ml``,
        ``truth_lesions`` and ``predicted_lesions`` (numbers).

    Raises:
        ValueError: if the masks are not boolean volumes of one shape, or a number is not possible.
    """
    check(prediction, truth, voxel_ml, min_overlap, connectivity)
    hits, predicted, true = (int(np.count_nonzero(mask)) for mask in (prediction & truth, prediction, truth))
    precision, sensitivity, dice = ratios(hits, predicted, hits, true)
    right, predicted_lesions = overlapping(prediction, truth, min_overlap, connectivity)
    detected, true_lesions = overlapping(truth, prediction, min_overlap, connectivity)
    lesion_precision, lesion_sensitivity, lesion_f1 = ratios(right, predicted_lesions, detected, true_lesions)
    return {
        "dice": dice,
        "precision": precision,
        "sensitivity": sensitivity,
        "lesion_f1": lesion_f1,
        "lesion_precision": lesion_precision,
        "lesion_sensitivity": lesion_sensitivity,
        "load_error_ml": (predicted - true) * voxel_ml,
        "truth_ml": true * voxel_ml,
        "predicted_ml": predicted * voxel_ml,
        "truth_lesions": true_lesions,
        "predicted_lesions": predicted_lesions,
    }


def overlapping(mask: np.ndarray, other: np.ndarray, min_overlap: int, connectivity: int) -> tuple[int, int]:
    """How many of the mask's lesions share enough voxels with the other mask, and how many there are."""
    structure = ndimage.generate_binary_structure(3, CONNECTIVITIES[connectivity])
    lesions, number = ndimage.label(mask, structure)
    sizes = np.bincount(lesions[mask], minlength=number + 1)[1:]
    shared = np.bincount(lesions[mask & other], minlength=number + 1)[1:]
    return int((shared >= np.minimum(min_overlap, sizes)).sum()), number


def ratios(right: int, predicted: int, detected: int, true: int) -> tuple[float, float, float]:
    """Precision right / predicted, sensitivity detected / true, and their harmonic mean; 1 where both are empty."""
    if not predicted and not true:
        return 1.0, 1.0, 1.0
    precision = right / predicted if predicted else math.nan
    sensitivity = detected / true if true else math.nan
    # of voxels, the harmonic mean is Dice: 2 hits / (predicted + true)
    mean = 2 * precision * sensitivity / (precision + sensitivity) if right and detected else 0.0
    return precision, sensitivity, mean


def check(prediction: np.ndarray, truth: np.ndarray, voxel_ml: float, min_overlap: int, connectivity: int) -> None:
    for name, mask in (("prediction", prediction), ("truth", truth)):
        if mask.ndim != 3 or mask.dtype != bool:
            raise ValueError(
                f"{name} must be a boolean volume (H, W, D), got {mask.dtype} of shape {mask.shape}. "
                "Take one channel and compare it with a threshold."
            )
    if prediction.shape != truth.shape:
        raise ValueError(
            f"prediction and truth must have one shape, got {prediction.shape} and {truth.shape}. "
            "Bring both into the space of the image."
        )
    if not (voxel_ml > 0 and math.isfinite(voxel_ml)):
        raise ValueError(f"voxel_ml must be a volume above 0, got {voxel_ml}. One of 1 mm in all directions is 0.001.")
    if min_overlap < 1:
        raise ValueError(f"min_overlap must be at least 1 voxel, got {min_overlap}.")
    if connectivity not in CONNECTIVITIES:
        raise ValueError(f"connectivity must be 6, 18 or 26 neighbours of a voxel, got {connectivity}.")
