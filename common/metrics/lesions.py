"""Scores of a segmentation of lesions, lesion by lesion."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from common.metrics.mask import check_masks, ratios

# of a voxel, counted as neighbours: those that share a face; an edge too; a corner too
CONNECTIVITIES = {6: 1, 18: 2, 26: 3}


def lesion_scores(
    prediction: np.ndarray, truth: np.ndarray, min_overlap: int = 1, connectivity: int = 26
) -> dict[str, float | int]:
    """Scores of one mask; a lesion is a connected component of it.

    A true lesion is detected, and a predicted lesion is right, if it shares ``min_overlap`` voxels with the other mask
    (a smaller lesion: all its voxels). Lesion-wise sensitivity S is the share of true lesions that are detected,
    precision P the share of predicted lesions that are right, F1 = 2 P S / (P + S).

    Where the truth or the prediction is empty:

    - both: nothing to find and nothing found, so precision, sensitivity and F1 are 1;
    - the truth: all that is predicted is wrong: precision and F1 are 0, sensitivity is undefined (NaN);
    - the prediction: all is missed: sensitivity and F1 are 0, precision is undefined (NaN).

    NaN does not count in a mean, and is an empty cell in a table.

    Args:
        prediction: predicted mask ``(H, W[, D])``, boolean.
        truth: true mask of the same shape.
        min_overlap: number of voxels.
        connectivity: number of a voxel's neighbours, 6, 18 or 26; those that share a face, an edge or a corner.

    Returns:
        ``lesion_f1``, ``lesion_precision``, ``lesion_sensitivity``, ``truth_lesions`` and ``predicted_lesions``
        (numbers).

    Raises:
        ValueError: if the masks are not boolean and of one shape, or a number is not possible.
    """
    check_masks(prediction, truth)
    if min_overlap < 1:
        raise ValueError(f"min_overlap must be at least 1 voxel, got {min_overlap}.")
    if connectivity not in CONNECTIVITIES:
        raise ValueError(f"connectivity must be 6, 18 or 26 neighbours of a voxel, got {connectivity}.")
    right, predicted = overlapping(prediction, truth, min_overlap, connectivity)
    detected, true = overlapping(truth, prediction, min_overlap, connectivity)
    precision, sensitivity, f1 = ratios(right, predicted, detected, true)
    return {
        "lesion_f1": f1,
        "lesion_precision": precision,
        "lesion_sensitivity": sensitivity,
        "truth_lesions": true,
        "predicted_lesions": predicted,
    }


def overlapping(mask: np.ndarray, other: np.ndarray, min_overlap: int, connectivity: int) -> tuple[int, int]:
    """How many of the mask's lesions share enough voxels with the other mask, and how many there are."""
    structure = ndimage.generate_binary_structure(mask.ndim, min(CONNECTIVITIES[connectivity], mask.ndim))
    lesions, number = ndimage.label(mask, structure)
    sizes = np.bincount(lesions[mask], minlength=number + 1)[1:]
    shared = np.bincount(lesions[mask & other], minlength=number + 1)[1:]
    return int((shared >= np.minimum(min_overlap, sizes)).sum()), number
