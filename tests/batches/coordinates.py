"""Images that say where each of their pixels lies, so that a window of them tells where it was taken."""

from __future__ import annotations

import numpy as np
from torch import Tensor


def coordinates(shape: tuple[int, ...], number: int = 1, border: int = 2) -> np.ndarray:
    """Channels with each pixel's place along each axis, counted from 1, and ``number``; a border of zeros.

    The border is one pixel wider along each axis than along the one before.
    """
    image = np.stack([*(np.indices(shape) + 1), np.full(shape, number)])
    inside = tuple(slice(border + k, n - border - k) if border else slice(None) for k, n in enumerate(shape))
    image[:, ~_mask(shape, inside)] = 0
    return image


def _mask(shape: tuple[int, ...], inside: tuple[slice, ...]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[inside] = True
    return mask


def number_of(window: Tensor) -> int:
    """The number of the image that a window is of."""
    return round(float(window[-1].max()))


def first_of(window: Tensor) -> list[int]:
    """The place in its image of a window's first pixel, where it is not mirrored."""
    place = window[-1].nonzero()[0].tolist()
    return [round(float(window[(axis, *place)])) - 1 - at for axis, at in enumerate(place)]


def direction_of(window: Tensor) -> int:
    """1 where a window's first axis runs as its image's does, -1 where it is mirrored."""
    inside = window[-1] != 0
    both = inside[1:] & inside[:-1]
    steps = (window[0][1:] - window[0][:-1])[both].round().unique().tolist()
    assert steps in ([1.0], [-1.0])
    return int(steps[0])
