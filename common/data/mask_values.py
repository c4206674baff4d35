"""Whether the values of a file are those of one class's mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np

GREY = 0.1  # share of a mask that may be neither low nor high: borders are smoothed
SMOOTH = 4  # pixels that a smoothed border may be wide outside of what is high
NOISE = 0.01  # share of the pixels farther outside from which on faint ones are noise,
LEVELS = 3  # if they are of so many levels, and
REGIONS = 0.1  # no more than this share of them has neighbours of its own level alone


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
    """The values of a mask that holds no noise: many faint levels, side by side and apart from what is high.

    Borders that were smoothed or resized are faint, but near; regions with numbers of their own are of one level each.

    Raises:
        ValueError: naming the file, for noise as a JPEG leaves it.
    """
    top = values.max()
    faint = (values > 0) & (values < top / 4)
    if not faint.any():
        return values
    from scipy import ndimage  # takes a while

    near = ndimage.binary_dilation(values >= top / 2, np.ones((3, 3)), iterations=SMOOTH)
    stray = faint & ~near
    number, levels = int(stray.sum()), np.unique(values[stray])
    even = ndimage.minimum_filter(values, 3) == ndimage.maximum_filter(values, 3)  # within a region
    regions = number > 0 and even[stray].mean() > REGIONS
    if number > NOISE * (~near).sum() and len(levels) >= LEVELS and not regions:
        raise ValueError(
            f"{path}: a mask must be 0 outside and high inside, got {len(np.unique(values))} grey levels, and {number} "
            f"faint pixels that lie apart, as a JPEG leaves them. All of them would be inside: set what is below "
            f"{top / 2:g} to 0, the others to 255, and store it as PNG."
        )
    return values
