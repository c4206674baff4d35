"""Invented gliomas of low grade in a head: core, cyst, enhancing rim and oedema."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.phantoms.brain import smooth_noise, step
from common.phantoms.head import Head

RADIUS = (16.0, 42.0)  # mm


@dataclass
class Tumour:
    """What is abnormal, all shares of voxels.

    Args:
        layers: tissues with their shares, each one painted over those before it.
        extent: share of tumour and oedema, which together are marked on FLAIR.
    """

    layers: list[tuple[str, np.ndarray]]
    extent: np.ndarray


def make_tumour(rng: np.random.Generator, head: Head) -> Tumour:
    """A glioma in a hemisphere.

    Its border is irregular, ventricles bound it, and it presses sulci shut. Some hold a cyst, some take up contrast at
    their core's rim or in patches, and the oedema around them is wide, narrow or missing.
    """
    radius = float(np.exp(rng.uniform(*np.log(RADIUS))))
    centre = _centre(rng, head, radius)
    relative = head.place - centre[:, None, None, None]
    axes, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    stretch = np.exp(rng.uniform(-0.3, 0.3, 3))
    relative[2] *= 1.35  # they are flatter than wide
    along = np.tensordot(axes / (stretch / np.cbrt(stretch.prod()))[:, None], relative, 1)
    shape = head.inside.shape
    rough = 0.16 * smooth_noise(rng, shape, head.voxel, radius) + 0.07 * smooth_noise(rng, shape, head.voxel, 9.0)
    distance = np.sqrt((along**2).sum(0)) / (1 + np.clip(rough, -0.4, 0.4))
    room = step(head.inside - 1.5, 1.0) * step(head.wall + 1, 1.0)
    side = step(head.place[0] * np.sign(centre[0]) + rng.uniform(-4, 6), 1.5)  # few cross the midline far
    room = room * side
    swelling = rng.choice([1.0, 1.15, 1.5], p=[0.3, 0.4, 0.3])
    core_radius = radius / swelling**0.7
    core = step(core_radius - distance, 1.2) * room
    # oedema runs along the white matter in fingers
    fingers = core_radius * swelling * (1 + 0.22 * smooth_noise(rng, shape, head.voxel, 14.0)) - distance
    oedema = step(fingers - 2.0 * np.clip(6 - head.inside, 0, 4), 1.5) * room
    extent = np.maximum(core, oedema)
    layers = [("oedema", oedema), ("tumour", core)]
    layers += _inner_parts(rng, head, distance, core, core_radius)
    return Tumour(layers, extent.astype(np.float32))


def _centre(rng: np.random.Generator, head: Head, radius: float) -> np.ndarray:
    """A place in a hemisphere with room around it."""
    x, _, z = head.place
    depth = min(0.55 * radius, 18.0)
    fit = (head.inside > depth) & (np.abs(x) > 10 + 0.3 * radius) & (head.wall > 2) & (z > -22) & (z < 46)
    places = np.flatnonzero(fit if fit.any() else (head.inside > 8) & (z > -22))
    index = np.unravel_index(places[rng.integers(len(places))], x.shape)
    return head.place[(slice(None), *index)]


def _inner_parts(rng, head: Head, distance, core, radius: float) -> list[tuple[str, np.ndarray]]:
    """Denser and looser tissue, cyst and what takes up contrast."""
    shape = head.inside.shape
    texture = smooth_noise(rng, shape, head.voxel, 10.0)
    parts = [("dense", core * step(texture - 0.4, 0.6) * rng.uniform(0.2, 0.8))]
    kind = rng.random()
    cyst_radius = radius * rng.uniform(0.5, 0.8) if kind < 0.3 and radius > 12 else 0.0
    if cyst_radius:
        inner = distance * (1 + 0.1 * texture)
        parts.append(("cyst", step(cyst_radius - inner, 1.0) * core))
    if rng.random() < 0.35:
        ring = step(2.5 - np.abs(distance - max(cyst_radius, 0.6 * radius)), 1.2) * step(texture + 0.5, 0.5)
        parts.append(("enhancing", ring * core))
    elif rng.random() < 0.3:
        parts.append(("enhancing", step(texture - 1.2, 0.4) * core))
    return parts
