"""Invented heads in axial slices: scalp, skull, face and brain, before any scanner has looked at them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.phantoms.brain import NUCLEI, SEMI_AXES, ellipsoid, smooth_noise, step, ventricles_of

FIELD = 240.0  # mm along a row and a column
LOWEST, HIGHEST = -76.0, 72.0  # mm from the brain's middle, of the first and the last slice


@dataclass
class Head:
    """A head on a grid ``rows columns slices``, from the front to the back and from below upwards.

    Args:
        place: ``x y z`` of each voxel in mm from the brain's middle, to a side, the front and the top.
        voxel: sides of a voxel in mm.
        layers: tissues with their shares in each voxel, each one painted over those before it.
        inside: about the distance in mm below the brain's surface.
        wall: about the distance in mm outside the ventricles.
    """

    place: np.ndarray
    voxel: tuple[float, float, float]
    layers: list[tuple[str, np.ndarray]]
    inside: np.ndarray
    wall: np.ndarray


def make_head(rng: np.random.Generator, size: int, slices: int) -> Head:
    """A patient's head; some are turned a little, narrow, long or shrunken."""
    voxel = (FIELD / size, FIELD / size, (HIGHEST - LOWEST) / max(1, slices - 1))
    shape = (size, size, slices)
    y, x, z = np.meshgrid(
        *[-(np.arange(size) - (size - 1) / 2) * FIELD / size] * 2, np.linspace(LOWEST, HIGHEST, slices), indexing="ij"
    )
    warp = np.stack([smooth_noise(rng, shape, voxel, 40.0) for _ in range(3)])
    place = _placed(rng, np.stack([x, y, z]).astype(np.float32)) + 1.2 * warp
    folds, fine = smooth_noise(rng, shape, voxel, 9.0), smooth_noise(rng, shape, voxel, 9.0)
    cerebrum, brain = _brain(place)
    outer = np.maximum.reduce([cerebrum + rng.uniform(10, 13), brain + 10, _face(place)])
    layers = [("fat", step(outer, 0.8)), ("muscle", step(outer - rng.uniform(3, 5), 1.0))]
    layers += _face_parts(rng, place, outer, fine)
    bone = brain + rng.uniform(5, 7)
    layers += [("bone", step(bone, 0.8)), ("marrow", 0.6 * step(1.2 - np.abs(bone - 3.5), 0.8) * step(fine, 0.7))]
    ventricles = ventricles_of(rng, place, warp)
    csf = _fluid(rng, place, brain, ventricles, folds, fine, warp)
    nuclei = np.maximum.reduce([_pair(place, *nucleus) for nucleus in NUCLEI])
    grey = np.maximum(step(5.0 + 4.0 * np.abs(folds) + 1.5 * fine - brain, 1.0), step(nuclei, 1.0))
    layers += [("white", step(brain, 0.8)), ("grey", grey * step(brain, 0.8))]
    bait = _bait(rng, place, brain, -ventricles, fine)
    layers += [("gliosis", bait * step(brain - 3, 1.0)), ("csf", csf)]
    layers.append(("vessel", _vessels(rng, place, brain, fine)))
    return Head(place, voxel, layers, brain, -ventricles)


def _pair(place: np.ndarray, centre: tuple, semi_axes: tuple) -> np.ndarray:
    """About the distance in mm below the surface of an ellipsoid or of its mirror image on the other side."""
    x, *others = centre
    return np.maximum(ellipsoid(place, (-x, *others), semi_axes), ellipsoid(place, (x, *others), semi_axes))


def _placed(rng: np.random.Generator, place: np.ndarray) -> np.ndarray:
    """The grid in a patient's own axes."""
    angle, shift = np.deg2rad(rng.normal(0, 4)), rng.normal(0, 3, 2)
    x, y = place[0] - shift[0], place[1] - shift[1]
    turned = np.stack([np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y, place[2]])
    return (turned * rng.uniform(0.93, 1.06, 3)[:, None, None, None]).astype(np.float32)


def _brain(place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """About the distances in mm below the surface of the hemispheres, taken as whole, and of the brain.

    The base of the hemispheres rises to the front; below it are temporal lobes, cerebellum and stem.
    """
    x, y, z = place
    cerebrum = (1 - np.sqrt(((place / SEMI_AXES[:, None, None, None]) ** 2).sum(0))) * 62
    base = z + 25 - np.clip(y, -20, 60) * 0.22
    parts = [np.minimum(cerebrum, base)]
    parts += [_pair(place, (40, 12, -26), (23, 36, 24)), _pair(place, (22, -48, -44), (30, 30, 26))]
    parts.append(np.minimum(13 - np.hypot(x, (y + 18) * 0.9), -z))  # the stem
    return cerebrum, np.maximum.reduce(parts).astype(np.float32)


def _face(place: np.ndarray) -> np.ndarray:
    """About the distance in mm below the skin of face and neck."""
    x, y, z = place
    narrow = 1 - 0.003 * np.clip(-30 - z, 0, None)
    face = (1 - np.hypot(x / (72 * narrow), (y - 4) / (96 * narrow))) * 72
    nose = ellipsoid(place, (0, 88, -66), (15, 26, 28))
    return np.maximum(np.minimum(face, -8 - z), nose)


def _face_parts(
    rng: np.random.Generator, place: np.ndarray, outer: np.ndarray, fine: np.ndarray
) -> list[tuple[str, np.ndarray]]:
    """Fat between muscles, air in nose and sinuses, eyes in their fat."""
    z = place[2]
    parts = [("fat", 0.8 * step(fine - 0.7, 0.5) * step(outer - 4, 1.0) * step(-z - 25, 4.0))]
    parts.append(("fat", step(_pair(place, (32, 66, -28), (17, 24, 15)), 1.0)))
    parts.append(("eye", step(_pair(place, (32, 76, -28), (12, 12, 12)), 0.8)))
    air = [_pair(place, (27, 54, -62), (15, 20, 18)) + 2.5 * fine, ellipsoid(place, (0, 62, -48), (9, 28, 24))]
    air += [ellipsoid(place, (0, 24, -42), (14, 10, 9))]
    air += [_pair(place, (58, -24, -50), (9, 12, 12)) + 2 * fine]  # the mastoids
    if rng.random() < 0.6:
        air.append(ellipsoid(place, (0, 82, -14), (18, 6, 12)))  # of the forehead
    parts.append(("air", np.maximum.reduce([step(part, 0.8) for part in air])))
    mucosa = np.maximum.reduce([step(2.5 - np.abs(part), 0.8) for part in air[:2]])
    return [*parts, ("mucosa", 0.7 * mucosa * step(outer - 8, 2.0))]


def _fluid(rng, place, brain, ventricles, folds, fine, warp) -> np.ndarray:
    """Share of cerebrospinal fluid; wide between the folds of a shrunken brain."""
    x, y, z = place
    width = rng.uniform(0.8, 2.2)
    sulci = step(width - np.abs(folds) * 9, 0.9) * step(12 + 4 * fine - brain, 2.0)
    fissure = step(0.6 * width + 0.4 - np.abs(x + warp[1]), 0.9) * step(brain - 60, 5.0, below=True) * (z > 14)
    sylvian = step(2.2 * width - np.abs(z - 2 + 0.3 * y), 1.5) * step(np.abs(x) - 42, 2.0)
    sylvian = sylvian * step(34 - np.abs(y - 8), 4.0) * step(16 - brain, 2.0)
    cistern = step(
        np.maximum(ellipsoid(place, (0, 4, -26), (13, 9, 8)), ellipsoid(place, (0, -34, -30), (16, 5, 9))), 1.0
    )
    fourth = step(ellipsoid(place, (0, -32, -42), (8, 5, 12)), 0.8)
    rim = step(0.8 + width - brain, 0.8)
    share = np.maximum.reduce([step(ventricles, 0.9), sulci, fissure, sylvian, cistern, fourth, rim])
    return share * step(brain + 1, 0.8)


def _bait(rng, place, brain, wall, fine) -> np.ndarray:
    """Share of what is bright on FLAIR in old brains without any tumour: rims and caps of the ventricles, spots."""
    strength = rng.uniform(0.2, 1.0)
    rim = step(2.5 - wall, 1.0) * step(wall + 1, 1.0)
    caps = step(8.0 - wall, 2.5) * step(np.abs(place[1]) - 26, 4.0) * step(16 - np.abs(place[2] - 10), 4.0)
    spots = step(fine - rng.uniform(1.7, 2.6), 0.3) * step(brain - 8, 2.0) * step(place[2] + 10, 4.0)
    return (strength * np.maximum.reduce([0.6 * rim, 0.6 * caps, spots])).astype(np.float32)


def _vessels(rng, place, brain, fine) -> np.ndarray:
    """Share of the sinuses, of vessels at the base and of the dura, which take up contrast."""
    x, y, z = place
    surface = step(2.5 - np.abs(brain + 1), 1.0)
    sinus = surface * step(3.5 - np.abs(x), 1.2) * step(z + 25, 4.0)
    lateral = surface * step(4 - np.abs(z + 30), 2.0) * step(-y - 30, 4.0)
    base = step(3.0 - np.hypot(np.abs(x) - 13, y - 14), 1.0) * step(7 - np.abs(z + 26), 3.0)
    dura = surface * rng.uniform(0.05, 0.3)
    small = step(fine - 2.1, 0.3) * step(14 - np.abs(brain - 8), 3.0) * 0.5
    return np.maximum.reduce([sinus, lateral, base, dura, small])
