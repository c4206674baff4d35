"""A brain mask by classical means, for images that come without one."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_multiotsu

GRID_MM = 2.0  # the mask is found on a grid this coarse
# What parts brain and scalp is dark and a few mm thick: what is left after so much erosion is not connected through it.
EROSION_MM = (4.0, 6.0, 8.0)
BRAIN_ML = (700.0, 1900.0)  # what an adult's brain has
POSSIBLE_ML = (300.0, 2500.0)  # beyond that it is something else, or not a whole head
HEIGHT_MM = 165.0  # below the vertex; farther down is neck


def is_brain_extracted(image: np.ndarray) -> bool:
    """Whether the outside of the brain has been set to 0: most of the border and a fifth of the image are exactly 0."""
    border = np.concatenate([np.take(image, i, axis).ravel() for axis in range(3) for i in (0, -1)])
    return bool((border == 0).mean() > 0.9 and (image == 0).mean() > 0.2)


def nonzero_mask(image: np.ndarray) -> np.ndarray:
    """The mask of a brain-extracted image: its largest part that is not 0, with holes filled."""
    return ndimage.binary_fill_holes(largest_part(image != 0))


def largest_part(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a mask of any number of axes, or nothing of an empty one."""
    parts, count = ndimage.label(mask)
    return parts == 1 + np.argmax(np.bincount(parts.ravel())[1:]) if count > 1 else mask


def brain_mask(image: np.ndarray, voxel: float) -> np.ndarray:
    """A rough mask of the brain on a FLAIR or T1-weighted image of a head in RAS.

    Brain tissue is brighter than cerebrospinal fluid, bone and air around it, and the scalp lies beyond these. So:
    voxels that are neither dark nor as bright as fat; the largest part that stays connected after an erosion; grown
    back by as much within those voxels; closed, holes filled. Of three erosions the first that leaves a brain's volume
    is taken. Eyes, sinuses or meninges may remain in it and thin gyri may be lost: a dedicated tool is better.

    Args:
        image: ``X Y Z``.
        voxel: side of its isotropic voxels in mm.

    Returns:
        A mask ``X Y Z``.

    Raises:
        ValueError: when nothing like a brain is found.
    """
    factor = voxel / GRID_MM
    coarse = ndimage.zoom(ndimage.gaussian_filter(image, 0.5 / factor), factor, order=1)
    head = ndimage.binary_fill_holes(largest_part(coarse > 0.5 * threshold_multiotsu(coarse, 2)[0]))
    tops = np.flatnonzero(head.any(axis=(0, 1)))
    if not len(tops):
        raise ValueError("nothing brighter than the background was found")
    head[:, :, : max(0, tops[-1] - round(HEIGHT_MM / GRID_MM))] = False
    dark, bright = threshold_multiotsu(coarse[head], 3)
    middle = np.median(coarse[head & (coarse > dark) & (coarse < bright)])
    tissue = head & (coarse > 0.5 * (dark + 0.6 * middle)) & (coarse < 1.9 * max(middle, bright / 1.3))
    found = None
    for depth in EROSION_MM:
        core = largest_part(_eroded(tissue, depth))
        if not core.any():
            continue
        grown = (ndimage.distance_transform_edt(~core) * GRID_MM <= depth + 1.0) & tissue
        mask = largest_part(_opened(grown, 2.0))
        mask = _smoothed(ndimage.binary_fill_holes(_closed(mask, 8.0)))
        volume = mask.sum() * GRID_MM**3 / 1000
        if found is None or BRAIN_ML[0] < volume:
            found = mask
        if BRAIN_ML[0] < volume < BRAIN_ML[1]:
            break
    volume = 0.0 if found is None else found.sum() * GRID_MM**3 / 1000
    if not POSSIBLE_ML[0] < volume < POSSIBLE_ML[1]:
        raise ValueError(f"the part that looks most like one has {volume:.0f} ml")
    fine = ndimage.zoom(found.astype(np.float32), np.array(image.shape) / found.shape, order=1) > 0.5
    return fine & (image > 0)


def _eroded(mask: np.ndarray, depth_mm: float) -> np.ndarray:
    return ndimage.distance_transform_edt(mask) * GRID_MM > depth_mm


def _opened(mask: np.ndarray, depth_mm: float) -> np.ndarray:
    core = _eroded(mask, depth_mm)
    return ndimage.distance_transform_edt(~core) * GRID_MM <= depth_mm


def _closed(mask: np.ndarray, depth_mm: float) -> np.ndarray:
    pad = int(depth_mm / GRID_MM) + 2
    mask = np.pad(mask, pad)
    grown = ndimage.distance_transform_edt(~mask) * GRID_MM <= depth_mm
    return _eroded(grown, depth_mm)[pad:-pad, pad:-pad, pad:-pad]


def _smoothed(mask: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(mask.astype(np.float32), 1.0) > 0.5
