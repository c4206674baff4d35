"""Whether the values of a file are those of one class's mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np

GREY = 0.1  # share of a mask that may be neither low nor high: borders are smoothed
SMOOTH = 2  # pixels that a smoothed border may be wide outside of what is high


def two_sided(path: Path, values: np.ndarray) -> np.ndarray:
    """The values of a mask, which are low or high but for its border.

    Raises:
        ValueError: naming the file, for those of an image or of several classes.
    """
    top = values.max()
    grey = float(np.mean((values > 0.25 * top) & (values < 0.75 * top)))
    several = top < 16 and bool(((values > 0) & (values != top)).any())  # numbers of classes
    if grey > GREY or several:
        levels = np.unique(values)
        found = f"the values {', '.join(map(str, levels[:6]))}"
        found = f"{len(levels)} grey levels, values between in {grey:.0%} of it" if grey > GREY else found
        raise ValueError(
            f"{path}: a mask must be 0 outside and high inside, got {found}. Is this the "
            "image, or are there several classes in it? Give each class a mask of its own, or a label map by labels=."
        )
    return values


def without_noise(path: Path, values: np.ndarray) -> np.ndarray:
    """The values of a mask of which none is faint but along the border of what is high, as a smoothed one is.

    Raises:
        ValueError: naming the file, for others.
    """
    half = values.max() / 2
    faint = (values > 0) & (values < half)
    if not faint.any():
        return values
    from scipy import ndimage  # takes a while

    near = ndimage.binary_dilation(values >= half, np.ones((3, 3)), iterations=SMOOTH)
    stray = int((faint & ~near).sum())
    if stray:
        raise ValueError(
            f"{path}: a mask must be 0 outside and high inside, got {len(np.unique(values))} grey levels, and {stray} "
            f"faint pixels that lie apart, as a JPEG leaves them. All of them would be inside: set what is below "
            f"{half:g} to 0, the others to 255, and store it as PNG."
        )
    return values
