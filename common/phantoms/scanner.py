"""Invented MRI scanners: what each makes of a brain's tissues on a FLAIR image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from common.phantoms.brain import Brain, smooth_noise

# Signal of cerebrospinal fluid and white matter; everything else is measured from white matter.
CSF, WHITE = 0.12, 0.5


@dataclass(frozen=True)
class Scanner:
    """Contrast and quality of an image.

    Args:
        grey: signal of grey matter above white matter.
        lesion: signal of a lesion above white matter.
        gamma: exponent of the signal.
        bias: strength of the bias field.
        noise: standard deviation of the Rician noise.
        slice_mm: thickness of the slices along z in millimetres.
        blur_mm: standard deviation of the in-plane blur in millimetres.
        sharpen: edge enhancement, as a factor on what a blur takes away.
        scale: value of the signal 1 in the file.
    """

    grey: float
    lesion: float
    gamma: float
    bias: float
    noise: float
    slice_mm: float
    blur_mm: float
    sharpen: float
    scale: float


# The first is the one of the labelled images; each is farther from it than the one before.
SCANNERS = (
    Scanner(0.10, 0.36, 1.0, 0.08, 0.015, 1.0, 0.0, 0.0, 1000.0),
    Scanner(0.12, 0.32, 1.2, 0.15, 0.020, 2.5, 0.4, 0.0, 400.0),
    Scanner(0.14, 0.30, 1.45, 0.22, 0.030, 3.5, 0.5, 0.6, 2500.0),
    Scanner(0.16, 0.28, 1.7, 0.30, 0.040, 5.0, 0.7, 1.0, 180.0),
)
SPREAD = 0.3  # how far an image's settings lie from its scanner's, in steps to the next one


def settings_at(position: float) -> Scanner:
    """A scanner between two of :data:`SCANNERS`, or beyond the ends at an end."""
    position = float(np.clip(position, 0, len(SCANNERS) - 1))
    first = min(int(position), len(SCANNERS) - 2)
    share = position - first
    one, other = SCANNERS[first], SCANNERS[first + 1]
    mixed = {name: (1 - share) * getattr(one, name) + share * getattr(other, name) for name in vars(one)}
    return Scanner(**mixed)


def scan(brain: Brain, scanner: int, seed: int, patient: int) -> np.ndarray:
    """The FLAIR image ``X Y Z`` that a scanner makes of a brain, brain extracted: 0 outside.

    Each image has settings of its own near its scanner's, so that neighbours overlap a little.
    """
    rng = np.random.default_rng([seed, patient, scanner, 32])
    settings = settings_at(scanner + rng.uniform(-SPREAD, SPREAD))
    signal = np.full(brain.inside.shape, WHITE, np.float32)
    signal += settings.grey * brain.grey + settings.lesion * brain.bait
    signal += settings.lesion * brain.brightness * brain.lesion
    signal = signal * (1 - brain.csf) + CSF * brain.csf + settings.lesion * brain.bait * brain.csf * 0.5
    signal = np.clip(signal, 0.02, None) ** settings.gamma
    signal = _resolve(signal * brain.inside, brain.voxel, settings)
    field = smooth_noise(rng, signal.shape, brain.voxel, 70.0)
    signal = signal * np.exp(settings.bias * np.clip(field, -2, 2))
    real, imaginary = rng.normal(0, settings.noise, (2, *signal.shape)).astype(np.float32)
    image = np.sqrt((signal + real) ** 2 + imaginary**2) * settings.scale
    # what is 0 is outside: no voxel of the brain may be
    return np.where(brain.inside, np.maximum(image, 1e-3 * settings.scale), 0).astype(np.float32)


def _resolve(signal: np.ndarray, voxel: float, settings: Scanner) -> np.ndarray:
    """Thick slices, blur in the plane, and the vendor's sharpening."""
    sigma = settings.blur_mm / voxel
    signal = ndimage.gaussian_filter(signal, (sigma, sigma, 0)) if sigma > 0.05 else signal
    thick = settings.slice_mm / voxel
    if thick > 1.2:
        size = signal.shape[2]
        edges = np.linspace(0, size, max(2, round(size / thick)) + 1)
        middles = (edges[1:] + edges[:-1]) / 2 - 0.5
        total = np.concatenate([np.zeros((*signal.shape[:2], 1), np.float32), signal.cumsum(2)], axis=2)
        at = ndimage.map_coordinates(total, _along_z(signal.shape, edges), order=1)
        slices = np.diff(at, axis=2) / np.diff(edges)
        wanted = np.interp(np.arange(size), middles, np.arange(len(middles)))
        signal = ndimage.map_coordinates(slices, _along_z(signal.shape, wanted), order=1)
    if settings.sharpen > 0:
        signal = signal + settings.sharpen * (signal - ndimage.gaussian_filter(signal, (1.0, 1.0, 0)))
    return np.maximum(signal, 0)


def _along_z(shape: tuple[int, ...], places: np.ndarray) -> list[np.ndarray]:
    return np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), places, indexing="ij")
