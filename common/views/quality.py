"""Image quality: what differs between scanners, acquisitions and reconstructions."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from common.values import Values
from common.views import intensity
from common.views.geometry import probability
from common.views.intensity import on_rows
from common.views.view import Intensity

DEGREE = 3  # of the bias field's polynomials


class ImageQuality(Intensity):
    """Degrades an image's quality, not its shape (Kamraoui et al. 2020, as used in section 3.3 of POPCORN).

    Two steps, each with its own probability: one of {blur, edge enhancement, thick slices along an axis}, and one of
    {noise, bias field, gamma}. Of images with mean 0 and standard deviation 1, a bias field and a gamma leave both as
    they were, since images are normalised after whatever a scanner did to them.

    ================  =========================================================================
    operation         at strength 1
    ================  =========================================================================
    blur              Gaussian of 0.3 to 1.2 pixels
    edge enhancement  0.3 to 1.5 times what a Gaussian of one pixel takes away, added
    thick slices      2 to 4 pixels thick
    noise             standard deviation up to 0.05 of the values' range (0.25 for MR)
    bias field        exp of Legendre polynomials of up to degree 3, coefficients up to 0.1
    gamma             exponents of 1 / 1.6 to 1.6
    ================  =========================================================================

    Args:
        resolution_prob: probability of the first step.
        intensity_prob: probability of the second step.
        strength: factor on all magnitudes but the narrowest Gaussian, of 0.3 pixels; 0 leaves images as they are.

    Raises:
        ValueError: when the strength is negative, or a probability is none.
    """

    def __init__(self, resolution_prob: float = 0.5, intensity_prob: float = 0.7, strength: float = 1.0) -> None:
        super().__init__()
        if strength < 0:
            raise ValueError(f"strength must not be negative, got {strength}.")
        self.resolution_prob = probability(resolution_prob, "resolution_prob")
        self.intensity_prob = probability(intensity_prob, "intensity_prob")
        self.strength = strength

    def changed(self, image: Tensor, draw: np.random.Generator, values: Values) -> Tensor:
        number, n, strong = len(image), image.ndim - 2, self.strength
        if strong == 0:
            return image
        first = np.where(draw.random(number) < self.resolution_prob, draw.integers(3, size=number), -1)
        second = np.where(draw.random(number) < self.intensity_prob, draw.integers(3, size=number), -1)
        sigma = draw.uniform(0.3, 0.3 + 0.9 * strong, number)
        amount = draw.uniform(0.3 * strong, 1.5 * strong, number)
        axes, factor = draw.integers(n, size=number), draw.uniform(1 + strong, 1 + 3 * strong, number)
        spread = draw.uniform(0, 0.05 * strong * values.unit, number)
        coefficients = draw.uniform(0, 0.1 * strong, (number, len(intensity.field_terms(n, DEGREE))))
        exponent = np.exp(draw.uniform(-1, 1, number) * np.log(1 + 0.6 * strong))

        image = on_rows(image, first == 0, intensity.blurred, sigma, values)
        image = on_rows(image, first == 1, intensity.sharpened, amount, values)
        for axis in range(n):
            thick = (first == 2) & (axes == axis)
            image = on_rows(image, thick, lambda x, s, a=axis: intensity.thickened(x, a, s), factor, values)
        image = on_rows(image, second == 0, lambda x, s: intensity.noisy(x, s, draw), spread, values)
        image = on_rows(image, second == 1, lambda x, s: with_bias(x, s, values), coefficients, values)
        return on_rows(image, second == 2, lambda x, s: intensity.gamma_corrected(x, s, values), exponent, values)


def with_bias(image: Tensor, coefficients: Tensor, values: Values) -> Tensor:
    """A bias field over what an image is above its lowest value; see :func:`~common.views.intensity.biased`."""
    inside = intensity.inside_of(image, values)
    if values.clamp:
        return values.low + intensity.biased(image - values.low, coefficients, DEGREE)
    low = image.amin(intensity.pixels_of(image), keepdim=True)
    return intensity.renormalised(intensity.biased(image - low, coefficients, DEGREE), image, inside)
