"""Image-quality augmentation: what differs between scanners, acquisitions and reconstructions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    GaussianSmooth,
    MapTransform,
    OneOf,
    RandAdjustContrast,
    RandBiasField,
    RandGaussianNoise,
    RandGaussianSmooth,
    Randomizable,
    RandomizableTransform,
)
from torch import Tensor


class RandLowResolutionAxis(RandomizableTransform):
    """Down-samples an image along one axis, drawn anew, and interpolates back: thick slices.

    Args:
        factor: range of the down-sampling factor (slice thickness in voxels).
        prob: probability that it happens.

    Raises:
        ValueError: when the factors are not at least 1 and in order.
    """

    def __init__(self, factor: tuple[float, float] = (2.0, 4.0), prob: float = 1.0) -> None:
        super().__init__(prob)
        if not 1 <= factor[0] <= factor[1]:
            raise ValueError(f"factor must be a range of numbers of at least 1, got {factor}.")
        self.factor = factor

    def __call__(self, image: Tensor) -> Tensor:
        self.randomize(None)
        if not self._do_transform:
            return image
        axis, factor = self.R.randint(1, image.ndim), self.R.uniform(*self.factor)
        lines = image.movedim(axis, -1)
        size = lines.shape[-1]
        # area means are what a thick slice measures
        thick = F.adaptive_avg_pool1d(lines.reshape(1, -1, size), max(1, round(size / factor)))
        return F.interpolate(thick, size, mode="linear").reshape(lines.shape).movedim(-1, axis)


class RandEdgeEnhancement(RandomizableTransform):
    """Adds a part of what a blur takes away, x + a (x - blur(x)), as scanners' filters do.

    MONAI's ``GaussianSharpen`` blurs first, and makes most images smoother.

    Args:
        amount: range of the factor a.
        sigma: standard deviation of the blur in voxels.
        prob: probability that it happens.
    """

    def __init__(self, amount: tuple[float, float] = (0.3, 1.5), sigma: float = 1.0, prob: float = 1.0) -> None:
        super().__init__(prob)
        self.amount, self.blur = amount, GaussianSmooth(sigma)

    def __call__(self, image: Tensor) -> Tensor:
        self.randomize(None)
        if not self._do_transform:
            return image
        return image + self.R.uniform(*self.amount) * (image - self.blur(image))


class ImageQualityd(MapTransform, Randomizable):
    """Degrades an image's quality, not its shape (Kamraoui et al. 2020, as used in section 3.3 of POPCORN).

    Two steps, each with its own probability: one of {blur, edge enhancement, thick slices along an axis}, and one of
    {noise, bias field, contrast}. Voxels that are exactly 0 (outside of an extracted brain) stay 0.

    Args:
        keys: keys of the images, ``C H W [D]``, with mean 0 and standard deviation 1 in the brain.
        resolution_prob: probability of the first step.
        intensity_prob: probability of the second step.
        strength: factor on all magnitudes; 0 leaves images as they are.
        allow_missing_keys: whether an item may lack a key.

    Raises:
        ValueError: when the strength is negative.
    """

    def __init__(
        self,
        keys: str | tuple[str, ...] = "image",
        resolution_prob: float = 0.5,
        intensity_prob: float = 0.7,
        strength: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        if strength < 0:
            raise ValueError(f"strength must not be negative, got {strength}.")
        self.probabilities, self.strength, s = (resolution_prob, intensity_prob), strength, strength
        blur = ((0.3, 0.3 + 0.9 * s),) * 3
        self.resolution = OneOf(
            [
                RandGaussianSmooth(*blur, prob=1.0),
                RandEdgeEnhancement((0.3 * s, 1.5 * s)),
                RandLowResolutionAxis((1 + s, 1 + 3 * s)),
            ]
        )
        self.intensity = OneOf(
            [
                RandGaussianNoise(std=0.25 * s, prob=1.0, sample_std=True),
                Contrast(RandBiasField(degree=3, coeff_range=(0.0, 0.1 * s), prob=1.0)),
                Contrast(RandAdjustContrast(gamma=(1 / (1 + 0.6 * s), 1 + 0.6 * s), prob=1.0)),
            ]
        )
        self.steps = Compose([self.resolution, self.intensity])

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> ImageQualityd:
        Randomizable.set_random_state(self, seed, state)
        self.steps.set_random_state(seed=int(self.R.randint(2**31)))
        return self

    def __call__(self, data: dict) -> dict:
        data = dict(data)
        for key in self.key_iterator(data):
            image = data[key].as_subclass(Tensor)
            changed = image
            for step, probability in zip((self.resolution, self.intensity), self.probabilities, strict=True):
                if self.R.rand() < probability * (self.strength > 0):
                    changed = step(changed)
            changed = torch.where(image == 0, image, changed.as_subclass(Tensor).to(image.dtype))
            data[key] = MetaTensor(changed, meta=data[key].meta) if isinstance(data[key], MetaTensor) else changed
        return data


class Contrast(Randomizable):
    """Lets a transform for positive values act on an image with mean 0: on its values above the smallest.

    Mean and standard deviation of the voxels that are not 0 are what they were, since images are normalised after
    whatever a scanner did to them.

    Args:
        transform: the random transform.
    """

    def __init__(self, transform: Callable) -> None:
        self.transform = transform

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> Contrast:
        self.transform.set_random_state(seed, state)
        return self

    def __call__(self, image: Tensor) -> Tensor:
        inside = image != 0
        if int(inside.sum()) < 2:
            return image
        before = image[inside]
        changed = torch.where(inside, image - before.min(), 0.0)
        changed = torch.as_tensor(self.transform(changed)).as_subclass(Tensor)
        after = changed[inside]
        spread = after.std().clamp(min=1e-6)
        return torch.where(inside, (changed - after.mean()) / spread * before.std() + before.mean(), image)
