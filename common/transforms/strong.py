"""The strong view of a batch of images: RandAugment and CutOut, with the same change for their labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from monai.transforms import (
    AdjustContrast,
    GaussianSharpen,
    GaussianSmooth,
    Identity,
    RandGaussianNoise,
    Randomizable,
    ScaleIntensity,
    ScaleIntensityFixedMean,
    ShiftIntensity,
    Transform,
)
from monai.transforms.utils import create_rotate, create_shear, create_translate
from torch import Tensor

from common.ranks import rank
from common.transforms.change import BACKGROUND, IGNORE, Change

GEOMETRY = ("rotate", "shear", "translate")
GREY = 0.5  # of what is cut out


# What an operation does to an image at a strength in [-1, 1]; `size` is the longest side in pixels.
INTENSITY: dict[str, Callable[[float, int], Transform]] = {
    "identity": lambda strength, size: Identity(),
    "autocontrast": lambda strength, size: ScaleIntensity(0.0, 1.0),
    "brightness": lambda strength, size: ShiftIntensity(0.4 * strength),
    "contrast": lambda strength, size: ScaleIntensityFixedMean(0.9 * strength),
    "gamma": lambda strength, size: AdjustContrast(3.0**strength),
    "sharpness": lambda strength, size: GaussianSharpen(0.5, 1.0, alpha=4.0 * abs(strength)),
    "blur": lambda strength, size: GaussianSmooth(abs(strength) * size / 48),
    "noise": lambda strength, size: RandGaussianNoise(prob=1.0, std=0.15 * abs(strength), sample_std=False),
}


class StrongView(Randomizable):
    """Strongly augmented images of a batch, and the :class:`Change` that makes their labels fit.

    RandAugment (Cubuk et al. 2020) in the form of FixMatch (Sohn et al. 2020): each image gets ``operations`` of the
    operations below, drawn at random, each with a strength drawn anew up to ``magnitude``; then CutOut (DeVries and
    Taylor 2017) sets one box to grey. Images are expected in [0, 1]; what lies outside is cut off.

    ==============  ============================================================================================
    operation       at magnitude 1
    ==============  ============================================================================================
    identity        nothing
    autocontrast    intensities stretched to [0, 1]
    brightness      shifted by up to 0.4 in either direction
    contrast        scaled about the mean by 0.1 to 1.9
    gamma           exponents of 1/3 to 3
    sharpness       Gaussian unsharp mask on a slightly smoothed image, which is all that is left of it at 0
    blur            Gaussian of up to 1/48 of the image's longest side
    noise           Gaussian, standard deviation up to 0.15
    rotate          up to 30 degrees about the centre, in 3D about a random axis
    shear           up to 0.3 along a random axis
    translate       up to 0.3 of the image's size along a random axis
    ==============  ============================================================================================

    Colours, solarising and posterising are left out, which mean little in grey images; so are flips, which would make
    a right lung of a left one. What an image gets depends on ``seed``, the iteration, the process and its place in the
    batch alone, so that a resumed run sees the same views. Operations run on the images' device in float32, whatever
    the training's precision; random numbers, for noise a whole image of them, are drawn on the host.

    Args:
        operations: number of operations for each image.
        magnitude: strength of the operations, 1 as in the table; at 0 only autocontrast and sharpness do
            anything.
        geometry: also rotate, shear and translate.
        cutout: largest side of the box relative to the image's; 0 for no box.
        cutout_label: what the pseudo-label becomes in the box: ``"background"`` as in RPG+ (Seibold et al. 2022), or
            ``"ignore"``.
        seed: seed of all draws; torch's own (the bundle's ``seed``) where not given.

    Raises:
        ValueError: when a setting is out of range.
    """

    def __init__(
        self,
        operations: int = 2,
        magnitude: float = 1.0,
        geometry: bool = True,
        cutout: float = 0.5,
        cutout_label: str = BACKGROUND,
        seed: int | None = None,
    ) -> None:
        if operations < 0:
            raise ValueError(f"operations must not be negative, got {operations}.")
        for name, value in (("magnitude", magnitude), ("cutout", cutout)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {value}.")
        if cutout_label not in (BACKGROUND, IGNORE):
            raise ValueError(f"cutout_label must be {BACKGROUND!r} or {IGNORE!r}, got {cutout_label!r}.")
        self.operations, self.magnitude = operations, magnitude
        self.cutout, self.cutout_label, self.seed = cutout, cutout_label, seed
        self.names = [*INTENSITY, *(GEOMETRY if geometry else ())]

    @torch.no_grad()
    def __call__(self, image: Tensor, iteration: int) -> tuple[Tensor, Change]:
        """The strong view of a batch ``B C H W [D]``, and how it came about."""
        seed = torch.initial_seed() if self.seed is None else self.seed
        self.set_random_state(seed=int(np.random.SeedSequence([seed, iteration, rank()]).generate_state(1)[0]))
        size = image.shape[2:]
        with torch.autocast(image.device.type, enabled=False):
            images, matrices, boxes = zip(
                *[(*self.augmented(item), self.box(size)) for item in image.float()], strict=True
            )
            matrix, box = (torch.from_numpy(np.stack(values)).to(image.device) for values in (matrices, boxes))
            change = Change(matrix, box, self.cutout_label)
            strong = change.of_image(torch.stack(images)).clamp(0, 1)
            return strong.masked_fill(change.cut(size), GREY).to(image.dtype), change

    def augmented(self, item: Tensor) -> tuple[Tensor, np.ndarray]:
        """An image ``C H W [D]`` after its operations on intensity, and the matrix of those on geometry."""
        matrix = np.eye(item.ndim)
        for name in self.R.choice(self.names, self.operations):
            strength = self.R.choice((-1, 1)) * self.magnitude * self.R.uniform()
            if name in GEOMETRY:
                matrix = matrix @ self.movement(name, strength, item.shape[1:])
                continue
            operation = INTENSITY[name](strength, max(item.shape[1:]))
            if isinstance(operation, Randomizable):
                operation.set_random_state(seed=self.R.randint(2**31))
            item = operation(item).as_subclass(Tensor).clamp(0, 1)
        return item, matrix

    def movement(self, name: str, strength: float, size: Sequence[int]) -> np.ndarray:
        """The matrix of one operation on geometry, along or about a random axis."""
        dimensions = len(size)
        if name == "rotate":
            axis = self.R.randint(3)
            angle = strength * np.pi / 6
            return create_rotate(dimensions, angle if dimensions == 2 else np.eye(3)[axis] * angle)
        if name == "shear":
            coefficients = np.zeros(dimensions * (dimensions - 1))
            coefficients[self.R.randint(len(coefficients))] = 0.3 * strength
            return create_shear(dimensions, coefficients)
        axis = self.R.randint(dimensions)
        return create_translate(dimensions, np.eye(dimensions)[axis] * 0.3 * strength * size[axis])

    def box(self, size: Sequence[int]) -> np.ndarray:
        """First pixel and the one behind the last along each axis of the box that is cut out."""
        share = self.cutout * self.R.uniform()
        sides = np.round(np.multiply(share, size))
        first = np.floor(self.R.uniform(size=len(size)) * (np.array(size) - sides + 1))
        return np.stack([first, first + sides], axis=1).astype(np.int64)
