"""Invented hearts in short-axis slices: where each tissue is, and what a scanner makes of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from common.phantoms.brain import smooth_noise, step

FIELD = 288.0  # mm along a row
SLICE = 10.0  # mm between two slices
RIGHT, WALL, LEFT = 1, 2, 3  # values of the label map: right ventricle, myocardium, left ventricle


@dataclass(frozen=True)
class Heart:
    """A patient's heart at the end of diastole; lengths in mm.

    Args:
        centre: of the left ventricle, from the field's middle.
        turn: angle from the left to the right ventricle.
        radius: of the left ventricle's cavity at its widest.
        wall: thickness of the myocardium.
        right: how wide the right ventricle is, as a share of the left one.
        squash: ratio of the cavity's axes.
        ejection: share of the radius that is lost until the end of systole.
        lean: shift of the long axis from slice to slice.
    """

    centre: np.ndarray
    turn: float
    radius: float
    wall: float
    right: float
    squash: float
    ejection: float
    lean: np.ndarray


def make_heart(rng: np.random.Generator) -> Heart:
    """A patient: healthy, dilated, thick-walled, weak, or with a large right ventricle."""
    kind = rng.integers(5)
    return Heart(
        centre=rng.uniform(-16, 16, 2) + np.array([-6, 8]),
        turn=np.deg2rad(rng.uniform(160, 235)),
        radius=rng.uniform(22, 27) * (1.3 if kind == 1 else 0.85 if kind == 2 else 1),
        wall=rng.uniform(7.5, 10) * (1.6 if kind == 2 else 1),
        right=rng.uniform(0.85, 1.1) * (1.4 if kind == 4 else 1),
        squash=rng.uniform(0.88, 1.0),
        ejection=rng.uniform(0.28, 0.38) if kind not in (1, 3) else rng.uniform(0.08, 0.16),
        lean=rng.uniform(-2.0, 2.0, 2),
    )


def make_frame(
    heart: Heart, systole: bool, size: int, slices: int, seed: int, patient: int
) -> tuple[np.ndarray, np.ndarray]:
    """Image and label map ``X Y Z`` of one frame, slices from base to apex."""
    shape_rng, scan_rng = (np.random.default_rng([seed, patient, part]) for part in (41, 43 + systole))
    voxel = FIELD / size
    x, y = np.meshgrid(*[(np.arange(size) - (size - 1) / 2) * voxel] * 2, indexing="ij")
    warp = [smooth_noise(shape_rng, (size, size), voxel, 40.0) for _ in range(2)]
    x, y = x + 2.5 * warp[0], y + 2.5 * warp[1]
    body = background(shape_rng, x, y)
    muscle, blood = scan_rng.uniform(0.2, 0.36), scan_rng.uniform(0.62, 0.9)
    signals, labels = [], []
    for index in range(slices):
        height = 1 - (index + 0.5) / slices  # 1 at the base, 0 at the apex
        signal, label = one_slice(heart, systole, height, index, x, y, body.copy(), muscle, blood, shape_rng)
        signals.append(signal)
        labels.append(label)
    return scanned(np.stack(signals, -1), voxel, scan_rng), np.stack(labels, -1)


def background(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The thorax without the heart: fat, muscle, lungs, spine and aorta."""
    outer = 1 - np.hypot(x / rng.uniform(128, 140), y / rng.uniform(96, 112))
    signal = 0.85 * step(outer * 100, 2.0)
    signal = np.where(outer * 100 > 8, 0.33, signal)
    for side in (-1, 1):
        lung = 1 - np.hypot((x - side * 66) / rng.uniform(48, 58), (y + 8) / rng.uniform(62, 74))
        signal = np.where(lung > 0, 0.06, signal)
    spine = np.hypot(x + 4, y + 78) < 17
    aorta = np.hypot(x - rng.uniform(14, 24), y + rng.uniform(48, 58)) < rng.uniform(8, 11)
    signal = np.where(spine, 0.45, signal)
    return np.where(aorta, rng.uniform(0.6, 0.85), signal)


def one_slice(
    heart: Heart,
    systole: bool,
    height: float,
    index: int,
    x: np.ndarray,
    y: np.ndarray,
    signal: np.ndarray,
    muscle: float,
    blood: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Signal and label map of a slice at a height between apex (0) and base (1)."""
    size = np.sqrt(max(0.0, 1 - (1 - height) ** 2.2)) * (0.96 if height > 0.9 else 1)
    squeeze = 1 - heart.ejection * systole
    radius, wall = heart.radius * size * squeeze, heart.wall * (0.7 + 0.3 * size) * (1 + 0.9 * (1 - squeeze))
    place = heart.centre + heart.lean * index
    along = np.array([np.cos(heart.turn), np.sin(heart.turn)])
    u = (x - place[0]) * along[0] + (y - place[1]) * along[1]  # towards the right ventricle
    v = -(x - place[0]) * along[1] + (y - place[1]) * along[0]
    distance = np.hypot(u / heart.squash, v)
    cavity, outside = distance < radius, distance < radius + wall
    reach, width = (radius + wall) * heart.right, radius * heart.right
    right_height = max(0.0, (height - 0.18) / 0.82)  # it ends before the apex
    right = np.hypot((u - 0.95 * reach) / max(1e-3, width * 0.95), v / max(1e-3, 1.35 * reach)) < np.sqrt(right_height)
    right &= ~outside & (u > 0.1 * radius)
    free_wall = ndimage.binary_dilation(right, iterations=1) & ~right & ~outside
    fat = (distance < radius + wall + 7) & ~outside & ~right
    liver = (np.hypot((x + 40) / 60, (y + 26) / 46) < 1) & (height < 0.35)
    signal = np.where(liver, 0.38, signal)
    signal = np.where(fat, 0.7, signal)
    signal = np.where(free_wall, muscle, signal)
    signal = np.where(right, blood * 0.97, signal)
    signal = np.where(outside, muscle, signal)
    signal = np.where(cavity, blood, signal)
    if height > 0.85:  # the right atrium, which is of no class
        atrium = (np.hypot(u - 1.7 * reach, v + 0.9 * reach) < 0.8 * radius) & ~right & ~outside
        signal = np.where(atrium, blood * 0.95, signal)
    for angle in (0.7, 2.3):  # papillary muscles belong to the cavity
        muscle_at = np.hypot(u - 0.55 * radius * np.cos(angle + np.pi / 2), v - 0.55 * radius * np.sin(angle))
        signal = np.where((muscle_at < 0.16 * radius) & (height < 0.75), muscle, signal)
    return signal, np.where(cavity, LEFT, np.where(outside, WALL, np.where(right, RIGHT, 0))).astype(np.uint8)


def scanned(signal: np.ndarray, voxel: float, rng: np.random.Generator) -> np.ndarray:
    """What a scanner makes of a signal: blur, an uneven coil, Rician noise, any scale."""
    sigma = rng.uniform(0.7, 1.5) / voxel
    signal = ndimage.gaussian_filter(signal.astype(np.float32), (sigma, sigma, 0.0))
    field = smooth_noise(rng, signal.shape[:2], voxel, 110.0)[..., None]
    signal = signal ** rng.uniform(0.8, 1.25) * np.exp(rng.uniform(0.05, 0.3) * np.clip(field, -2, 2))
    real, imaginary = rng.normal(0, rng.uniform(0.015, 0.045), (2, *signal.shape))
    return (np.sqrt((signal + real) ** 2 + imaginary**2) * rng.uniform(180, 900)).astype(np.float32)
