"""Views that move images: affine, flips and quarter turns, elastic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from common.views.matrices import identity, rotation, scaling, shear, translation
from common.views.view import Geometry, Motion

INTERPOLATION = {2: "bilinear", 3: "trilinear"}


class Affine(Geometry):
    """Turns, scales, shears and shifts each image by amounts drawn evenly from both directions.

    Args:
        rotate: largest angle in degrees; in 3D about each axis.
        scale: largest relative change of scale along each axis: 0.15 for factors of 0.85 to 1.15, of which those over 1
            make the image smaller, as in MONAI.
        shear: largest shear along each axis.
        translate: largest shift as a share of the image's size along each axis.
        prob: probability that an image is moved.

    Raises:
        ValueError: when a number is out of its range.
    """

    def __init__(
        self, rotate: float = 0.0, scale: float = 0.0, shear: float = 0.0, translate: float = 0.0, prob: float = 1.0
    ) -> None:
        super().__init__()
        if min(rotate, scale, shear, translate) < 0 or scale >= 1:
            raise ValueError(
                f"rotate, shear and translate must not be negative and scale must be in [0, 1), got {rotate}, {shear}, "
                f"{translate} and {scale}."
            )
        self.rotate, self.scale, self.shear, self.translate = rotate, scale, shear, translate
        self.prob = probability(prob)

    def motion(self, number: int, size: Sequence[int], draw: np.random.Generator, device: torch.device) -> Motion:
        n = len(size)
        angles = np.deg2rad(draw.uniform(-self.rotate, self.rotate, (number, 1 if n == 2 else 3)))
        factors = 1 + draw.uniform(-self.scale, self.scale, (number, n))
        shears = draw.uniform(-self.shear, self.shear, (number, n * (n - 1)))
        shifts = draw.uniform(-self.translate, self.translate, (number, n)) * np.array(size)
        moves = draw.random(number) < self.prob
        moved = rotation(angles) @ shear(shears) @ translation(shifts) @ scaling(factors)
        matrices = np.where(moves[:, None, None], moved, np.eye(n + 1))
        return matrices, None


class Flip(Geometry):
    """Mirrors each image along each of some axes with a probability.

    A class keeps its name and moves with its pixels: a mirrored right lung lies where left ones do. No classes are
    swapped, so that a network that is to tell sides apart is better off without mirrored images.

    Args:
        axes: the axes, 0 for the first of H, W, D.
        prob: probability for each axis.

    Raises:
        ValueError: when there is no such axis.
    """

    def __init__(self, axes: Sequence[int] = (0,), prob: float = 0.5) -> None:
        super().__init__()
        if any(axis not in (0, 1, 2) for axis in axes) or len(set(axes)) != len(axes):
            raise ValueError(f"axes must be different ones of 0, 1 and 2, got {list(axes)}.")
        self.axes, self.prob = tuple(axes), probability(prob)

    def motion(self, number: int, size: Sequence[int], draw: np.random.Generator, device: torch.device) -> Motion:
        if max(self.axes, default=0) >= len(size):
            raise ValueError(f"axes must be below {len(size)}, the number of an image's axes, got {list(self.axes)}.")
        matrices = identity(number, len(size))
        for axis in self.axes:
            matrices[draw.random(number) < self.prob, axis, axis] = -1
        return matrices, None


class QuarterTurn(Geometry):
    """Turns each image by 0, 90, 180 or 270 degrees in the plane of its first two axes, which must be of one size.

    Args:
        prob: probability that an image is turned by any of the four.
    """

    def __init__(self, prob: float = 0.5) -> None:
        super().__init__()
        self.prob = probability(prob)

    def motion(self, number: int, size: Sequence[int], draw: np.random.Generator, device: torch.device) -> Motion:
        if size[0] != size[1]:
            raise ValueError(f"images to be turned by 90 degrees must be square, got {' x '.join(map(str, size))}.")
        turns = draw.integers(4, size=number) * (draw.random(number) < self.prob)
        matrices = identity(number, len(size))
        cosines, sines = np.array([1, 0, -1, 0])[turns], np.array([0, 1, 0, -1])[turns]
        matrices[:, 0, 0] = matrices[:, 1, 1] = cosines
        matrices[:, 0, 1], matrices[:, 1, 0] = -sines, sines
        return matrices, None


class Elastic(Geometry):
    """Deforms each image smoothly: random displacements on a coarse grid, interpolated linearly between.

    The grid's corners are the image's; its points lie ``spacing`` pixels apart or a little more, such that there is a
    whole number of them, and in an image smaller than that at its corners alone.

    Args:
        displacement: largest displacement along an axis, in pixels.
        spacing: distance of the grid's points, in pixels; at least twice the displacement, so that no two of them
            along an axis change places in an image that is longer than that.

    Raises:
        ValueError: when images would be folded.
    """

    elastic = True

    def __init__(self, displacement: float = 4.0, spacing: float = 16.0) -> None:
        super().__init__()
        if displacement < 0:
            raise ValueError(f"displacement must not be negative, got {displacement}.")
        if spacing < max(1, 2 * displacement):
            raise ValueError(
                f"spacing must be at least 1 and twice the displacement of {displacement} pixels, got {spacing}: the "
                f"images would be folded."
            )
        self.displacement, self.spacing = displacement, spacing

    def motion(self, number: int, size: Sequence[int], draw: np.random.Generator, device: torch.device) -> Motion:
        points = [max(2, int((side - 1) // self.spacing) + 1) for side in size]
        coarse = draw.uniform(-self.displacement, self.displacement, (number, len(size), *points)).astype(np.float32)
        coarse = torch.from_numpy(coarse).to(device, non_blocking=True)
        field = F.interpolate(coarse, tuple(size), mode=INTERPOLATION[len(size)], align_corners=True)
        return identity(number, len(size)), field


def probability(value: float, name: str = "prob") -> float:
    """The value, where it is one.

    Raises:
        ValueError: when it is not in [0, 1].
    """
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be a probability in [0, 1], got {value}.")
    return value
