"""Operations on the intensities of a batch, ``B C H W [D]`` in 2D and 3D alike, with a strength for each image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from common.draws import normal, on_device
from common.values import Values
from common.views.view import Intensity, kept

TRUNCATED = 4.0  # standard deviations at which a Gaussian is cut off


def each(strength: Tensor, image: Tensor) -> Tensor:
    """A number for each image, ``B``, in a shape that works on all its pixels."""
    return strength.view(-1, *[1] * (image.ndim - 1))


def pixels_of(image: Tensor) -> tuple[int, ...]:
    """The dimensions over which an image's pixels and channels lie."""
    return tuple(range(1, image.ndim))


def inside_of(image: Tensor, values: Values) -> Tensor:
    """1 where there is an image and not background, in the image's shape."""
    return torch.ones_like(image) if values.background is None else (image != values.background).to(image.dtype)


def mean_and_spread(image: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each image's pixels inside, ``B 1 1 1 [1]``."""
    dims = pixels_of(image)
    number = inside.sum(dims, keepdim=True).clamp(min=1)
    mean = (image * inside).sum(dims, keepdim=True) / number
    return mean, ((image - mean).square() * inside).sum(dims, keepdim=True).div(number).sqrt().clamp(min=1e-6)


def brightened(image: Tensor, shift: Tensor) -> Tensor:
    """x + shift."""
    return image + each(shift, image)


def contrasted(image: Tensor, factor: Tensor, values: Values) -> Tensor:
    """m + factor (x - m), with m the image's mean."""
    if values.background is None:
        mean = image.mean(pixels_of(image), keepdim=True)
    else:
        mean, _ = mean_and_spread(image, inside_of(image, values))
    return torch.lerp(mean, image, each(factor, image))


def gamma_corrected(image: Tensor, exponent: Tensor, values: Values) -> Tensor:
    """low + (high - low) ((x - low) / (high - low))^exponent.

    Low and high are those of the values' range; of images without one, each image's own smallest and largest value, and
    mean and standard deviation stay what they were, since such images are normalised after whatever a scanner does.
    """
    if values.clamp:
        share = ((image - values.low) / values.unit).clamp(0, 1)
        return values.low + values.unit * share ** each(exponent, image)
    inside, dims = inside_of(image, values), pixels_of(image)
    low = torch.where(inside > 0, image, math.inf).amin(dims, keepdim=True)
    high = torch.where(inside > 0, image, -math.inf).amax(dims, keepdim=True)
    share = ((image - low) / (high - low).clamp(min=1e-6)).nan_to_num(0, 0, 0).clamp(0, 1)
    return renormalised(share ** each(exponent, image), image, inside)


def renormalised(changed: Tensor, image: Tensor, inside: Tensor) -> Tensor:
    """``changed`` with the mean and the standard deviation that the image has inside."""
    (mean, spread), (old_mean, old_spread) = (mean_and_spread(each_one, inside) for each_one in (changed, image))
    return (changed - mean) / spread * old_spread + old_mean


def stretched(image: Tensor, values: Values) -> Tensor:
    """Each image over the whole range; without one, with mean 0 and standard deviation 1."""
    if not values.clamp:
        mean, spread = mean_and_spread(image, inside_of(image, values))
        return (image - mean) / spread
    low, high = (each(extreme, image) for extreme in image.flatten(1).aminmax(dim=1))
    return values.low + values.unit * (image - low) / (high - low).clamp(min=1e-6)


def along(image: Tensor, axis: int, weights: Tensor) -> Tensor:
    """Sums along a spatial axis with weights for each image ``B N N``: out_j = sum_i weights_ji x_i."""
    lines = image.movedim(2 + axis, -1)
    mixed = torch.bmm(lines.flatten(1, -2), weights.transpose(1, 2)).view(lines.shape)
    return mixed.movedim(-1, 2 + axis)


def blurred(image: Tensor, sigma: Tensor) -> Tensor:
    """A Gaussian of ``sigma`` pixels, ``B``, integrated over pixels and cut off at four sigma; 0 for no blur.

    At the border the kernel's part within the image counts, so that a constant image stays constant.
    """
    sigma = sigma.clamp(min=1e-3).view(-1, 1, 1, 1)
    reach = torch.ceil(TRUNCATED * sigma) + 0.5
    weights: dict[int, Tensor] = {}
    for axis, size in enumerate(image.shape[2:]):
        if size not in weights:
            faces = torch.clamp(faces_of_pixels(size, image.dtype, image.device), -reach, reach)
            near, far = torch.erf(faces / (sigma * math.sqrt(2))).unbind(1)
            weights[size] = (far - near) / (far - near).sum(2, keepdim=True)
        image = along(image, axis, weights[size])
    return image


@lru_cache(maxsize=32)
def faces_of_pixels(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Where pixels along a line begin and end as seen from each pixel's centre, ``2 N N``."""
    distance = np.arange(size) - np.arange(size)[:, None]
    return torch.from_numpy(np.stack([distance - 0.5, distance + 0.5])).to(dtype).to(device)


def sharpened(image: Tensor, amount: Tensor, sigma: Tensor | None = None) -> Tensor:
    """x + amount (x - blurred(x)), as scanners' filters do. (MONAI's GaussianSharpen blurs first.)

    Args:
        image: ``B C H W [D]``.
        amount: ``B``; at -1 images are blurred.
        sigma: of the Gaussian, ``B``, in pixels; 1 where not given.
    """
    return image + each(amount, image) * (image - blurred(image, torch.ones_like(amount) if sigma is None else sigma))


def noisy(image: Tensor, spread: Tensor, draw: np.random.Generator) -> Tensor:
    """x + spread n, with n normal; one image of noise for each."""
    return image + each(spread, image) * normal(tuple(image.shape), draw, image.device)


def thickened(image: Tensor, axis: int, factor: Tensor) -> Tensor:
    """Slices ``factor`` pixels thick along an axis: means over them, and linear interpolation between their centres.

    Slices are those of ``adaptive_avg_pool1d`` to round(N / factor) of them.
    """
    size = image.shape[2 + axis]
    place = torch.arange(size, device=image.device)
    slices = torch.round(size / factor).clamp(1, size).long().view(-1, 1, 1)
    slice_, pixel = place.view(1, -1, 1), place.view(1, 1, -1)
    first = torch.div(slice_ * size, slices, rounding_mode="floor")
    last = torch.div((slice_ + 1) * size + slices - 1, slices, rounding_mode="floor")
    means = ((pixel >= first) & (pixel < last) & (slice_ < slices)).to(image.dtype)
    means = means / means.sum(2, keepdim=True).clamp(min=1)
    centre = ((place.view(1, -1, 1) + 0.5) * slices / size - 0.5).clamp(min=0).minimum(slices - 1.0)
    between = (1 - (centre - place.view(1, 1, -1)).abs()).clamp(min=0).to(image.dtype)
    return along(image, axis, between @ means)


def field_terms(dimensions: int, degree: int) -> list[tuple[int, ...]]:
    """Degrees along each axis of the Legendre polynomials of a bias field, of at most this degree in all."""
    powers = np.stack(np.meshgrid(*[np.arange(degree + 1)] * dimensions, indexing="ij"), -1).reshape(-1, dimensions)
    return [tuple(map(int, row)) for row in powers if 0 < row.sum() <= degree]


def biased(image: Tensor, coefficients: Tensor, degree: int = 3) -> Tensor:
    """The image times exp of a smooth field, as an uneven coil makes it.

    Args:
        image: ``B C H W [D]`` of values that are not negative.
        coefficients: of the Legendre polynomials of :func:`field_terms`, ``B T``.
        degree: highest degree of a polynomial.
    """
    size = image.shape[2:]
    shape = (degree + 1,) * len(size)
    places = np.ravel_multi_index(np.array(field_terms(len(size), degree)).T, shape)
    field = coefficients.new_zeros(len(image), int(np.prod(shape)))
    field = field.index_copy(1, on_device(places, image), coefficients).view(-1, *shape)
    for number in size:  # each axis of degrees becomes the image's, in turn
        field = torch.tensordot(field, legendre(number, degree, image.dtype, image.device), dims=([1], [0]))
    return image * torch.exp(field).unsqueeze(1)


@lru_cache(maxsize=32)
def legendre(number: int, degree: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Legendre polynomials up to a degree at so many pixels, ``degree+1 N``, from -1 to 1."""
    values = np.polynomial.legendre.legvander(np.linspace(-1, 1, number), degree).T
    return torch.from_numpy(np.ascontiguousarray(values)).to(dtype).to(device)


def all_at_once(image: Tensor) -> bool:
    """Whether an operation on some images is done to all, and some of the results are taken."""
    return image.is_cuda


def on_rows(
    image: Tensor,
    rows: np.ndarray,
    operation: Callable[[Tensor, Tensor], Tensor],
    strength: np.ndarray,
    values: Values | None = None,
) -> Tensor:
    """The batch with ``operation(images, strengths)`` done to some of its images.

    Args:
        image: ``B C H W [D]``.
        rows: which images, as booleans ``B``.
        operation: what is done. A GPU, which starts an operation more slowly than it does it, does it to all images.
        strength: a number for each image of the batch ``B``, or several ``B T``.
        values: what the images' values mean: the range is kept, and their background left alone.
    """
    if not rows.any():
        return image
    if rows.all() or all_at_once(image):
        after = operation(image, on_device(strength, image))
        after = after if values is None else kept(image, after, values)
        return after if rows.all() else torch.where(each(on_device(rows, image), image), after, image)
    index = on_device(np.flatnonzero(rows), image)
    some = image[index]
    after = operation(some, on_device(strength[rows], image))
    return image.index_copy(0, index, after if values is None else kept(some, after, values))


class IntensityJitter(Intensity):
    """What differs between exposures: gamma, contrast, brightness and noise, each with a probability of its own.

    Args:
        gamma: range of the exponent, drawn evenly; (1, 1) for none.
        contrast: largest relative change of the contrast about the image's mean.
        brightness: largest shift, as a share of the values' range.
        noise: largest standard deviation of the noise, as a share of the values' range; drawn evenly up to it.
        prob: probability of each of the four.

    Raises:
        ValueError: when a number is out of its range.
    """

    def __init__(
        self,
        gamma: Sequence[float] = (0.7, 1.4),
        contrast: float = 0.2,
        brightness: float = 0.1,
        noise: float = 0.05,
        prob: float = 0.5,
    ) -> None:
        super().__init__()
        if len(gamma) != 2 or not 0 < gamma[0] <= gamma[1]:
            raise ValueError(f"gamma must be a range of positive exponents, got {list(gamma)}.")
        if min(contrast, brightness, noise) < 0 or not 0 <= prob <= 1:
            raise ValueError(
                f"contrast, brightness and noise must not be negative and prob must be in [0, 1], got {contrast}, "
                f"{brightness}, {noise} and {prob}."
            )
        self.gamma, self.contrast, self.brightness, self.noise = tuple(gamma), contrast, brightness, noise
        self.prob = prob

    def changed(self, image: Tensor, draw: np.random.Generator, values: Values) -> Tensor:
        number = len(image)
        happens = draw.random((4, number)) < self.prob
        exponent = draw.uniform(*self.gamma, number)
        factor = 1 + draw.uniform(-self.contrast, self.contrast, number)
        shift = draw.uniform(-self.brightness, self.brightness, number) * values.unit
        spread = draw.uniform(0, self.noise, number) * values.unit
        image = on_rows(image, happens[0], lambda x, s: gamma_corrected(x, s, values), exponent, values)
        image = on_rows(image, happens[1], lambda x, s: contrasted(x, s, values), factor, values)
        image = on_rows(image, happens[2], brightened, shift, values)
        return on_rows(image, happens[3], lambda x, s: noisy(x, s, draw), spread, values)
