"""Invented brains with lesions of multiple sclerosis: where each tissue is, before any scanner has looked at it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

# Field of view in millimetres along x (left to right), y (back to front) and z (feet to head).
FIELD = (144.0, 180.0, 144.0)
SEMI_AXES = np.array([64.0, 82.0, 60.0])  # of the brain
# Deep grey matter on the right side: centre and semi-axes in millimetres from the brain's middle.
NUCLEI = (((15, 14, 8), (5, 15, 7)), ((12, -8, 2), (8, 13, 8)), ((27, 6, 0), (6, 16, 9)))
LOAD = (0.3, 50.0)  # lesion load in ml
KINDS, SHARES = ("periventricular", "deep", "juxtacortical"), (0.5, 0.3, 0.2)


@dataclass
class Brain:
    """Shares of the tissues in each voxel and what is bright without being a lesion, all ``X Y Z``.

    ``lesion`` is a voxel's share of lesion, ``brightness`` how much brighter a whole one is, in units of the usual
    contrast to white matter; ``bait`` is added brightness of what is no lesion.
    """

    inside: np.ndarray
    csf: np.ndarray
    grey: np.ndarray
    lesion: np.ndarray
    brightness: np.ndarray
    bait: np.ndarray
    voxel: float

    @property
    def truth(self) -> np.ndarray:
        """The mask of the lesions: voxels that are lesion by more than half."""
        return self.lesion > 0.5

    @property
    def lesion_ml(self) -> float:
        return float(self.truth.sum() * self.voxel**3 / 1000)


def make_brain(seed: int, patient: int, size: int) -> Brain:
    """The brain of a patient on a grid of ``180 / size`` mm; the same numbers give the same brain."""
    rng = np.random.default_rng([seed, patient, 31])
    voxel = 180.0 / size
    shape = tuple(round(side / voxel) for side in FIELD)
    place = np.stack(np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * voxel for n in shape], indexing="ij"))
    place = place.astype(np.float32)
    warp = np.stack([smooth_noise(rng, shape, voxel, 35.0) for _ in range(3)])
    place = place * rng.uniform(0.94, 1.06, 3)[:, None, None, None].astype(np.float32) + 2.0 * warp

    radius = np.sqrt(((place / SEMI_AXES[:, None, None, None]) ** 2).sum(0))
    folds, fine = smooth_noise(rng, shape, voxel, 9.0), smooth_noise(rng, shape, voxel, 5.0)
    depth = (1 - radius) * 62  # about mm below the surface
    head = depth + 1.5 * smooth_noise(rng, shape, voxel, 20.0)
    inside = (head > 0) & (place[2] > -46 + 4 * warp[0])
    soft = np.float32(0.8)
    ventricles = ventricles_of(rng, place, warp)
    # sulci are sheets between folds near the surface; the fissure parts the hemispheres
    sulci = step(1.2 - np.abs(folds) * 9, soft) * step(13 + 4 * fine - depth, 2.0)
    fissure = step(1.6 - np.abs(place[0] + warp[1]), soft) * step(depth - 60, 5.0, below=True) * (place[2] > 12)
    rim = step(2.0 - depth, soft)
    csf = np.maximum.reduce([step(ventricles, soft), sulci, fissure, rim])
    cortex = step(6.5 + 4.5 * np.abs(folds) - 2 + 1.5 * fine - depth, soft)
    nuclei = np.maximum.reduce([ellipsoid(place, (side * c[0], *c[1:]), a) for c, a in NUCLEI for side in (-1, 1)])
    grey = np.maximum(cortex, step(nuclei, soft)) * (1 - csf)

    white = inside & (csf < 0.3) & (grey < 0.4)
    wall = ndimage.distance_transform_edt(ventricles < 0, sampling=voxel).astype(np.float32)
    lesion, brightness = _lesions(rng, place, white, wall, cortex, voxel, fine)
    lesion *= (1 - csf) * inside
    bait = _bait(rng, place, wall, csf, grey, folds, fine)
    return Brain(inside, csf * inside, grey * inside, lesion, brightness, bait * inside, voxel)


def smooth_noise(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    voxel: float | tuple[float, ...],
    scale: float | tuple[float, ...],
) -> np.ndarray:
    """Noise with mean 0 and standard deviation 1 that changes over ``scale`` mm; both sizes may differ by axis."""
    sizes = [np.broadcast_to(size, len(shape)).tolist() for size in (voxel, scale)]
    axes = list(zip(shape, *sizes, strict=True))
    coarse = rng.normal(size=[int(n * side / length) + 4 for n, side, length in axes]).astype(np.float32)
    places = [1 + np.arange(n, dtype=np.float32) * side / length for n, side, length in axes]
    grid = np.meshgrid(*places, indexing="ij")
    noise = ndimage.map_coordinates(coarse, grid, order=3, mode="nearest")
    return (noise - noise.mean()) / noise.std()


def step(distance: np.ndarray, softness: float, below: bool = False) -> np.ndarray:
    """0 to 1 where a distance in mm goes from negative to positive; 1 to 0 with ``below``."""
    share = 1 / (1 + np.exp(-np.clip((-distance if below else distance) / softness * 2, -30, 30)))
    return share.astype(np.float32)


def ellipsoid(place: np.ndarray, centre: tuple, semi_axes: tuple) -> np.ndarray:
    """About the distance in mm below the surface of an ellipsoid."""
    relative = [(place[i] - centre[i]) / semi_axes[i] for i in range(3)]
    return (1 - np.sqrt(sum(r * r for r in relative))) * min(semi_axes)


def ventricles_of(rng: np.random.Generator, place: np.ndarray, warp: np.ndarray) -> np.ndarray:
    """About the distance in mm below the wall of the lateral and third ventricles; wider in some patients."""
    wide = rng.uniform(0.7, 1.7)
    parts = [ellipsoid(place, (0, -2, -4), (2.5 * wide, 12, 10))]
    for side in (-1, 1):
        bend = 6 + 0.0035 * (place[1] - 4) ** 2 * 1.2  # horns part to the front and the back
        bent = np.stack([place[0] - side * bend, place[1], place[2] - 12 + 0.004 * place[1] ** 2])
        parts.append(ellipsoid(bent, (0, -2, 0), (4.5 * wide, 38, 6.5 * wide**0.5)))
        parts.append(ellipsoid(bent, (side * 14, -30, -16), (4 * wide, 14, 5)))
    return np.maximum.reduce(parts) + 0.8 * warp[2]


def _lesions(
    rng: np.random.Generator,
    place: np.ndarray,
    white: np.ndarray,
    wall: np.ndarray,
    cortex: np.ndarray,
    voxel: float,
    fine: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Shares and brightness of lesions until the patient's load is reached."""
    load = float(np.exp(rng.uniform(*np.log(LOAD))))
    lesion, brightness = np.zeros(white.shape, np.float32), np.ones(white.shape, np.float32)
    near_cortex = ndimage.distance_transform_edt(cortex < 0.5, sampling=voxel)
    masks = {
        "periventricular": white & (wall > 0.5) & (wall < 9),
        "juxtacortical": white & (near_cortex < 4) & (wall > 10),
        "deep": white & (wall > 6) & (near_cortex > 3),
    }
    sites = {kind: np.flatnonzero(mask) for kind, mask in masks.items()}
    sites = {kind: found if len(found) else np.flatnonzero(white) for kind, found in sites.items()}
    slope = np.stack(np.gradient(wall, voxel))
    contrast = rng.uniform(0.75, 1.15)
    for _ in range(400):
        if (lesion > 0.5).sum() * voxel**3 / 1000 >= load:
            break
        kind = rng.choice(KINDS, p=SHARES)
        index = np.unravel_index(sites[kind][rng.integers(len(sites[kind]))], white.shape)
        volume = min(float(np.exp(rng.normal(np.log(0.12), 1.1))) * (1 + load / 20), load / 2, 8.0)
        _add_lesion(rng, kind, place, index, volume, slope, voxel, fine, lesion, brightness, contrast)
    return lesion * step(wall, 0.6), brightness


def _add_lesion(rng, kind, place, index, volume, slope, voxel, fine, lesion, brightness, contrast) -> None:
    """One ellipsoid with a rough border; at the ventricles it is a finger that points away from the wall."""
    radius = (volume * 1000 * 3 / 4 / np.pi) ** (1 / 3)
    reach = int(np.ceil(2.2 * radius / voxel)) + 2
    window = tuple(slice(max(0, i - reach), i + reach + 1) for i in index)
    relative = place[(slice(None), *window)] - place[(slice(None), *index)][:, None, None, None]
    along = slope[(slice(None), *index)] if kind == "periventricular" else rng.normal(size=3)
    along = along / (np.linalg.norm(along) + 1e-6)
    stretch = rng.uniform(1.4, 2.0) if kind == "periventricular" else rng.uniform(1.0, 1.4)
    parallel = np.tensordot(along, relative, 1)
    across = (relative**2).sum(0) - parallel**2
    distance = np.sqrt(np.maximum(parallel**2 / stretch**2 + across * stretch, 0))
    share = step(radius * (1 + 0.18 * fine[window]) - distance, min(0.9, 0.5 * radius))
    brighter = share > lesion[window]
    brightness[window] = np.where(brighter, contrast * rng.uniform(0.75, 1.1), brightness[window])
    np.maximum(lesion[window], share, out=lesion[window])


def _bait(rng, place, wall, csf, grey, folds, fine) -> np.ndarray:
    """What is bright without being a lesion: rims and caps of the ventricles, cortex, plexus, dirty white matter."""
    tissue = 1 - csf
    rim = step(2.2 - wall, 0.8) * tissue * rng.uniform(0.15, 0.4)
    caps = step(4.5 - wall, 1.2) * step(np.abs(place[1]) - 28, 3.0) * tissue * rng.uniform(0.1, 0.45)
    spots = grey * step(fine - 1.6, 0.3) * rng.uniform(0.2, 0.5)
    insula = grey * step(9 - np.abs(np.abs(place[0]) - 38), 2.0) * step(14 - np.abs(place[2]), 4.0) * 0.25
    plexus = step(-wall + 0.5, 0.3) * step(fine - 1.2, 0.3) * 0.5
    dirty = tissue * (1 - grey) * np.clip(folds, -1.5, 1.5) * 0.04
    return (np.maximum.reduce([rim, caps, spots, insula, plexus]) + dirty).astype(np.float32)
