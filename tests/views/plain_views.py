"""Images to look at, and plain forms of what views do to them: float64, one image and one pixel after the other."""

from __future__ import annotations

import math

import numpy as np
import torch
from monai.transforms.utils import create_rotate, create_shear, create_translate
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.stats import norm
from torch import Tensor

from common.views import Values

BRAIN = Values.of(None)


def smooth(shape: tuple[int, ...], seed: int = 0, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Smooth images ``B C H W [D]`` that reach from low to high, float32."""
    rng = np.random.default_rng(seed)
    images = np.empty(shape)
    for index in np.ndindex(shape[:2]):
        image = gaussian_filter(rng.normal(size=shape[2:]), 1.5)
        images[index] = low + (high - low) * (image - image.min()) / (image.max() - image.min())
    return torch.from_numpy(images.astype(np.float32))


def brains(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Images with mean 0 and standard deviation 1 in an ellipse, and zeros around it."""
    images = smooth(shape, seed).double()
    axes = torch.meshgrid(*[torch.linspace(-1.3, 1.3, side) for side in shape[2:]], indexing="ij")
    inside = sum(axis.square() for axis in axes) < 1
    for image in images.flatten(0, 1):
        values = image[inside]
        image[inside] = (values - values.mean()) / values.std(correction=0)
        image[~inside] = 0
    return images.float()


def draws(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


class Recorded:
    """Random numbers, with a note of those drawn evenly, by their range."""

    def __init__(self, seed: int = 0) -> None:
        self.draw, self.drawn = np.random.default_rng(seed), {}

    def uniform(self, low, high, size):
        self.drawn[low, high] = self.draw.uniform(low, high, size)
        return self.drawn[low, high]

    def __getattr__(self, name):
        return getattr(self.draw, name)


class Largest:
    """Draws the largest number each time, and lets everything happen."""

    def uniform(self, low, high, size):
        return np.full(size, float(high))

    def random(self, size):
        return np.zeros(size)


def random_matrix(dimensions: int, seed: int = 0) -> np.ndarray:
    """Turns, shears and shifts a little."""
    rng = np.random.default_rng(seed)
    angles = rng.uniform(-0.5, 0.5, 1 if dimensions == 2 else 3)
    shear = rng.uniform(-0.2, 0.2, dimensions * (dimensions - 1))
    shift = rng.uniform(-1.5, 1.5, dimensions)
    return (
        create_rotate(dimensions, angles if dimensions == 3 else angles[0])
        @ create_shear(dimensions, shear)
        @ create_translate(dimensions, shift)
    )


def places(matrix: np.ndarray, size: tuple[int, ...], displacement: np.ndarray | None = None) -> np.ndarray:
    """Where each pixel comes from, ``H W [D] n``, in pixels of the original image: M (y + u), or M y without u."""
    centre = (np.array(size) - 1) / 2
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in size], indexing="ij"), axis=-1) - centre
    if displacement is not None:
        grid = grid + np.moveaxis(displacement.astype(np.float64), 0, -1)
    return grid @ matrix[:-1, :-1].T + matrix[:-1, -1] + centre


def taken(image: Tensor, where: np.ndarray) -> np.ndarray:
    """One image ``C H W [D]`` at places, interpolated linearly, by SciPy."""
    where = np.moveaxis(where, -1, 0)
    return np.stack([map_coordinates(channel.double().numpy(), where, order=1, mode="nearest") for channel in image])


def evenly(amounts, low: float, high: float, atol: float | None = None) -> None:
    """Whether numbers are drawn evenly from a range."""
    amounts, width = np.asarray(amounts, dtype=np.float64), high - low
    atol = 0.01 * width if atol is None else atol
    np.testing.assert_allclose([amounts.min(), amounts.max()], [low, high], atol=atol)
    np.testing.assert_allclose(amounts.mean(), (low + high) / 2, atol=0.04 * width)
    np.testing.assert_allclose(amounts.std(), width / np.sqrt(12), rtol=0.06)


# ---- operations on one image C H W [D], in float64


def plain_contrast(image, factor: float, inside: np.ndarray | None = None) -> np.ndarray:
    image = np.asarray(image, np.float64)
    mean = image.mean() if inside is None else image[inside].mean()
    return mean + factor * (image - mean)


def plain_gamma(image, exponent: float, low: float, high: float) -> np.ndarray:
    return low + (high - low) * ((np.asarray(image, np.float64) - low) / (high - low)) ** exponent


def plain_blur(image, sigma: float) -> np.ndarray:
    """Each pixel is the mean of those of its line at most four sigma away, weighted by a Gaussian over each of them."""
    image = np.asarray(image, np.float64)
    for axis in range(1, image.ndim):
        lines = np.moveaxis(image, axis, 0)
        mixed = np.zeros_like(lines)
        for to in range(len(lines)):
            whole = 0.0
            for start in range(len(lines)):
                if abs(to - start) <= math.ceil(4 * sigma):
                    weight = norm.cdf(to - start + 0.5, scale=sigma) - norm.cdf(to - start - 0.5, scale=sigma)
                    mixed[to] += weight * lines[start]
                    whole += weight
            mixed[to] /= whole
        image = np.moveaxis(mixed, 0, axis)
    return image


def plain_sharpening(image, amount: float) -> np.ndarray:
    image = np.asarray(image, np.float64)
    return image + amount * (image - plain_blur(image, 1.0))


def plain_thick_slices(image, axis: int, factor: float) -> np.ndarray:
    """Means over slices, and linear interpolation between their centres; slices may share a pixel."""
    lines = np.moveaxis(np.asarray(image, np.float64), 1 + axis, 0)
    size = len(lines)
    number = max(1, round(size / factor))
    means = [lines[i * size // number : -(-(i + 1) * size // number)].mean(0) for i in range(number)]
    thick = np.empty_like(lines)
    for pixel in range(size):
        place = min(max((pixel + 0.5) * number / size - 0.5, 0), number - 1)
        before = min(int(place), number - 1)
        after = min(before + 1, number - 1)
        thick[pixel] = means[before] * (1 - (place - before)) + means[after] * (place - before)
    return np.moveaxis(thick, 0, 1 + axis)


def plain_bias(image, terms: dict[tuple[int, ...], float]) -> np.ndarray:
    """The image times exp of Legendre polynomials, whose degrees along the axes say how much each counts."""
    image = np.asarray(image, np.float64)
    field = np.zeros(image.shape[1:])
    for pixel in np.ndindex(field.shape):
        x = [2 * p / (side - 1) - 1 for p, side in zip(pixel, field.shape, strict=True)]
        field[pixel] = sum(
            factor * math.prod(LEGENDRE[degree](value) for degree, value in zip(degrees, x, strict=True))
            for degrees, factor in terms.items()
        )
    return image * np.exp(field)


LEGENDRE = (lambda x: 1.0, lambda x: x, lambda x: (3 * x**2 - 1) / 2, lambda x: (5 * x**3 - 3 * x) / 2)
