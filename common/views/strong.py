"""The strong view of a batch of images: RandAugment and CutOut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.values import Values
from common.views import intensity
from common.views.boxes import CutOut
from common.views.change import BACKGROUND
from common.views.matrices import identity, rotation, shear, translation
from common.views.view import Chain, Geometry, Intensity, Motion, View, Viewed, group_numbers, kept

GEOMETRY = ("rotate", "shear", "translate")


class Operation(NamedTuple):
    """An operation on intensities.

    Attributes:
        amounts: from strengths in [-1, 1], ``B``, what it works with, ``B`` or ``B T``; on the host.
        change: what it does to images with these amounts.
    """

    amounts: Callable[[np.ndarray, Values, Sequence[int]], np.ndarray]
    change: Callable[[Tensor, Tensor, Values, np.random.Generator], Tensor]


def filtered(image: Tensor, amounts: Tensor, values: Values, draw: np.random.Generator) -> Tensor:
    """Blurred or sharpened, which one pass over the images does."""
    return intensity.sharpened(image, amounts[:, 0], amounts[:, 1])


INTENSITY = {
    "autocontrast": Operation(lambda s, v, size: s, lambda x, a, v, draw: intensity.stretched(x, v)),
    "brightness": Operation(lambda s, v, size: 0.4 * v.unit * s, lambda x, a, v, draw: intensity.brightened(x, a)),
    "contrast": Operation(lambda s, v, size: 1 + 0.9 * s, lambda x, a, v, draw: intensity.contrasted(x, a, v)),
    "gamma": Operation(lambda s, v, size: 3.0**s, lambda x, a, v, draw: intensity.gamma_corrected(x, a, v)),
    "sharpness": Operation(lambda s, v, size: np.stack([4 * np.abs(s), np.ones_like(s)], 1), filtered),
    "blur": Operation(lambda s, v, size: np.stack([-np.ones_like(s), np.abs(s) * max(size) / 48], 1), filtered),
    "noise": Operation(lambda s, v, size: 0.15 * v.unit * np.abs(s), lambda x, a, v, draw: intensity.noisy(x, a, draw)),
}
NAMES = ("identity", *INTENSITY, *GEOMETRY)
ONE_SIDED = ("sharpness", "blur", "noise")  # whatever the sign of their strength
WITHOUT_STRENGTH = ("identity", "autocontrast")


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
        operations: number of operations for each image, or the least and the largest number, drawn for each image.
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
        operations: int | Sequence[int] = 2,
        magnitude: float = 1.0,
        geometry: bool = True,
        cutout: float = 0.5,
        cutout_label: str = BACKGROUND,
        names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        numbers = (operations, operations) if isinstance(operations, int) else tuple(operations)
        if len(numbers) != 2 or not 0 <= numbers[0] <= numbers[1]:
            raise ValueError(
                f"operations must not be negative, or be the least and the largest number, got {operations}."
            )
        if not 0 <= magnitude <= 1:
            raise ValueError(f"magnitude must be in [0, 1], got {magnitude}.")
        known = [name for name in NAMES if geometry or name not in GEOMETRY]
        unknown = [name for name in names or () if name not in known]
        if unknown:
            raise ValueError(f"names must be of {', '.join(known)}, got {', '.join(unknown)}.")
        self.operations, self.magnitude, self.geometry = operations, magnitude, geometry
        self.numbers = numbers
        self.cutout, self.cutout_label, self.names = cutout, cutout_label, names
        self.drawn_from = list(names or known)
        self.box = [CutOut(cutout, cutout_label)] if cutout else []

    def forward(self, image, draw, values=None, groups=None, step=None) -> Viewed:
        groups = group_numbers(groups, len(image))
        names = self.chosen(groups.max() + 1, draw)
        views = views_of(names, self.strengths(names, draw), groups)
        return Chain([*views, *self.box])(image, draw, values, groups, step)

    def chosen(self, number: int, draw: np.random.Generator) -> np.ndarray:
        """Names of the operations for so many groups of images, ``operations G``."""
        least, most = self.numbers
        names = draw.choice(self.drawn_from, (most, number)).astype(object)
        if least < most:
            names[np.arange(most)[:, None] >= draw.integers(least, most + 1, number)] = "identity"
        return names

    def strengths(self, names: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """Strengths of chosen operations in [-magnitude, magnitude], ``operations G``."""
        return draw.choice((-1, 1), names.shape) * self.magnitude * draw.random(names.shape)


def views_of(names: np.ndarray, strengths: np.ndarray, groups: np.ndarray) -> list[View]:
    """The views that do what was chosen for each group, ``operations G``, to the groups' images, ``B``."""
    moves = [Moves(names, strengths)] if np.isin(names, GEOMETRY).any() else []
    return [Chosen(names[:, groups], strengths[:, groups]), *moves]


class Chosen(Intensity):
    """The operations on intensities that were chosen for each image, ``operations B``, one after the other."""

    def __init__(self, names: np.ndarray, strengths: np.ndarray) -> None:
        super().__init__()
        self.names, self.strengths = names, strengths

    def changed(self, image: Tensor, draw: np.random.Generator, values: Values) -> Tensor:
        for names, strengths in zip(self.names, self.strengths, strict=True):
            before = image
            for change in dict.fromkeys(operation.change for operation in INTENSITY.values()):
                found = [(names == name, op) for name, op in INTENSITY.items() if op.change is change]
                rows = np.logical_or.reduce([chosen for chosen, _ in found])
                amounts = found[0][1].amounts(strengths, values, image.shape[2:])
                for chosen, operation in found[1:]:
                    amounts[chosen] = operation.amounts(strengths, values, image.shape[2:])[chosen]

                def done(x: Tensor, a: Tensor, change: Callable = change) -> Tensor:
                    return change(x, a, values, draw)

                image = intensity.on_rows(image, rows, done, amounts)
            image = kept(before, image, values)
        return image


class Moves(Geometry):
    """The operations on geometry that were chosen for each group of images, as one movement."""

    def __init__(self, names: np.ndarray, strengths: np.ndarray) -> None:
        super().__init__()
        self.names, self.strengths = names, strengths

    def motion(self, number: int, size: Sequence[int], draw: np.random.Generator, device: torch.device) -> Motion:
        matrices = identity(number, len(size))
        for index in range(number):
            for name, strength in zip(self.names[:, index], self.strengths[:, index], strict=True):
                if name in GEOMETRY:
                    matrices[index] = matrices[index] @ movement(name, strength, size, draw)
        return matrices, None


def movement(name: str, strength: float, size: Sequence[int], draw: np.random.Generator) -> np.ndarray:
    """The matrix of one operation on geometry, along or about a random axis."""
    n = len(size)
    if name == "rotate":
        axis, angle = draw.integers(3), strength * np.pi / 6
        return rotation(np.array([[angle]]) if n == 2 else np.eye(3)[[axis]] * angle)[0]
    if name == "shear":
        coefficients = np.zeros((1, n * (n - 1)))
        coefficients[0, draw.integers(n * (n - 1))] = 0.3 * strength
        return shear(coefficients)[0]
    axis = draw.integers(n)
    return translation(np.eye(n)[[axis]] * 0.3 * strength * size[axis])[0]
