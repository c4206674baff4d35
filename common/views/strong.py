"""The strong view of a batch of images: RandAugment and CutOut."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from monai.transforms.utils import create_rotate, create_shear, create_translate
from torch import Tensor

from common.values import Values
from common.views import intensity
from common.views.boxes import CutOut
from common.views.change import BACKGROUND
from common.views.view import Chain, Geometry, Intensity, Motion, View, Viewed, group_numbers

GEOMETRY = ("rotate", "shear", "translate")

# What an operation does to images at strengths in [-1, 1], B.
Operation = Callable[[Tensor, Tensor, Values, np.random.Generator], Tensor]
INTENSITY: dict[str, Operation] = {
    "identity": lambda x, s, v, draw: x,
    "autocontrast": lambda x, s, v, draw: intensity.stretched(x, v),
    "brightness": lambda x, s, v, draw: intensity.brightened(x, 0.4 * v.unit * s),
    "contrast": lambda x, s, v, draw: intensity.contrasted(x, 1 + 0.9 * s, v),
    "gamma": lambda x, s, v, draw: intensity.gamma_corrected(x, 3.0**s, v),
    "sharpness": lambda x, s, v, draw: intensity.sharpened(x, 4.0 * s.abs()),
    "blur": lambda x, s, v, draw: intensity.blurred(x, s.abs() * max(x.shape[2:]) / 48),
    "noise": lambda x, s, v, draw: intensity.noisy(x, 0.15 * v.unit * s.abs(), draw),
}


class Strong(View):
    """Strongly augmented images.

    RandAugment (Cubuk et al. 2020) in the form of FixMatch (Sohn et al. 2020): each image gets ``operations`` of the
    operations below, drawn at random, each with a strength drawn anew up to ``magnitude``; then CutOut (DeVries and
    Taylor 2017) sets one box to grey. Images of one group get the same operations. Amounts of intensity are shares of
    the values' range (see :class:`~common.values.Values`).

    ==============  ============================================================================================
    operation       at magnitude 1
    ==============  ============================================================================================
    identity        nothing
    autocontrast    intensities stretched over the range
    brightness      shifted by up to 0.4 in either direction
    contrast        scaled about the mean by 0.1 to 1.9
    gamma           exponents of 1/3 to 3
    sharpness       up to 4 times what a Gaussian of one pixel takes away, added
    blur            Gaussian of up to 1/48 of the image's longest side
    noise           Gaussian, standard deviation up to 0.15
    rotate          up to 30 degrees about the centre, in 3D about a random axis
    shear           up to 0.3 along a random axis
    translate       up to 0.3 of the image's size along a random axis
    ==============  ============================================================================================

    Colours, solarising and posterising are left out, which mean little in grey images; so are flips, which would make
    a right lung of a left one.

    Args:
        operations: number of operations for each image.
        magnitude: strength of the operations, 1 as in the table; at 0 only autocontrast does anything.
        geometry: also rotate, shear and translate.
        cutout: largest side of the box relative to the image's; 0 for no box.
        cutout_label: what the pseudo-label becomes in the box: ``"background"`` as in RPG+ (Seibold et al. 2022), or
            ``"ignore"``.
        names: the operations to draw from; all of the table where not given.

    Raises:
        ValueError: when a setting is out of range, or an operation is unknown.
    """

    def __init__(
        self,
        operations: int = 2,
        magnitude: float = 1.0,
        geometry: bool = True,
        cutout: float = 0.5,
        cutout_label: str = BACKGROUND,
        names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if operations < 0:
            raise ValueError(f"operations must not be negative, got {operations}.")
        if not 0 <= magnitude <= 1:
            raise ValueError(f"magnitude must be in [0, 1], got {magnitude}.")
        known = [*INTENSITY, *(GEOMETRY if geometry else ())]
        unknown = [name for name in names or () if name not in known]
        if unknown:
            raise ValueError(f"names must be of {', '.join(known)}, got {', '.join(unknown)}.")
        self.operations, self.magnitude, self.geometry = operations, magnitude, geometry
        self.cutout, self.cutout_label, self.names = cutout, cutout_label, names
        self.drawn_from = list(names or known)
        self.box = CutOut(cutout, cutout_label)

    def forward(self, image, draw, values=None, groups=None, step=None) -> Viewed:
        groups = group_numbers(groups, len(image))
        chosen = draw.choice(self.drawn_from, (self.operations, groups.max() + 1))
        strengths = draw.choice((-1, 1), chosen.shape) * self.magnitude * draw.random(chosen.shape)
        chain = Chain([Chosen(chosen[:, groups], strengths[:, groups]), Moves(chosen, strengths), self.box])
        return chain(image, draw, values, groups, step)


class Chosen(Intensity):
    """The operations on intensities that were chosen for each image, ``operations B``, one after the other."""

    def __init__(self, names: np.ndarray, strengths: np.ndarray) -> None:
        super().__init__()
        self.names, self.strengths = names, strengths

    def changed(self, image: Tensor, draw: np.random.Generator, values: Values) -> Tensor:
        for names, strengths in zip(self.names, self.strengths, strict=True):
            for name, operation in INTENSITY.items():

                def done(x: Tensor, s: Tensor, operation: Operation = operation) -> Tensor:
                    return operation(x, s, values, draw)

                if name != "identity":
                    image = intensity.on_rows(image, names == name, done, strengths, values)
        return image


class Moves(Geometry):
    """The operations on geometry that were chosen for each group of images, as one movement."""

    def __init__(self, names: np.ndarray, strengths: np.ndarray) -> None:
        super().__init__()
        self.names, self.strengths = names, strengths

    def motion(self, number: int, size: Sequence[int], draw: np.random.Generator, device: torch.device) -> Motion:
        matrices = np.stack([np.eye(len(size) + 1)] * number)
        for index in range(number):
            for name, strength in zip(self.names[:, index], self.strengths[:, index], strict=True):
                if name in GEOMETRY:
                    matrices[index] = matrices[index] @ movement(name, strength, size, draw)
        return matrices, None


def movement(name: str, strength: float, size: Sequence[int], draw: np.random.Generator) -> np.ndarray:
    """The matrix of one operation on geometry, along or about a random axis."""
    n = len(size)
    if name == "rotate":
        axis = draw.integers(3)
        angle = strength * np.pi / 6
        return create_rotate(n, angle if n == 2 else np.eye(3)[axis] * angle)
    if name == "shear":
        coefficients = np.zeros(n * (n - 1))
        coefficients[draw.integers(len(coefficients))] = 0.3 * strength
        return create_shear(n, coefficients)
    axis = draw.integers(n)
    return create_translate(n, np.eye(n)[axis] * 0.3 * strength * size[axis])
