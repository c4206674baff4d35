"""Invented OCT devices: what each makes of a retina, layer by layer, with shadows and speckle."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import ndimage

from common.phantoms.brain import smooth_noise, step
from common.phantoms.retina import FIELD, IRF, LAYERS, PED, SRF, Retina, cyst_walls, layer_tops

RANGE = 32.0  # dB from black to white
# brightness of the layers, which is their reflectivity in dB as a share of the range
BRIGHTNESS = {
    "nerve fibres": 0.76,
    "ganglion cells": 0.52,
    "inner nuclear": 0.31,
    "outer plexiform": 0.53,
    "outer nuclear": 0.22,
    "inner segments": 0.42,
    "ellipsoid zone": 0.80,
    "outer segments": 0.50,
    "pigment epithelium": 0.95,
    "Bruch's membrane": 0.72,
}
CHOROID, SCLERA = 0.62, 0.16  # below Bruch's membrane, and far below it


@dataclass(frozen=True)
class Vendor:
    """A device and its files.

    Args:
        first: number of its first volume in RETOUCH's training set.
        depth: of the field in mm.
        looks: B-scans that are averaged: the more, the less speckle.
        floor: noise of the detector, as a brightness.
        contrast, brightness: of the file's values, as factor and shift.
        blur: standard deviation of its smoothing in mm along a B-scan.
        dtype: of the file's values, which are 0 to 255 in each.
    """

    first: int
    depth: float
    looks: float
    floor: float
    contrast: float
    brightness: float
    blur: float
    dtype: str


VENDORS = {
    "Spectralis": Vendor(25, 1.92, 14.0, 0.02, 1.05, -0.06, 0.012, "uint16"),
    "Cirrus": Vendor(1, 2.0, 1.6, 0.22, 0.85, 0.06, 0.006, "uint8"),
    "Topcon": Vendor(49, 2.3, 4.0, 0.12, 0.95, 0.0, 0.010, "uint8"),
}


@dataclass
class Drawn:
    """A volume ``X Y Z``, Y being depth: the signal without speckle, 0 to 1, the fluids, and where the layers begin.

    The last are the depths of :func:`common.phantoms.retina.layer_tops`.
    """

    signal: np.ndarray
    label: np.ndarray
    tops: dict[str, np.ndarray]


def draw(retina: Retina, depth: float, size: int, slices: int, rng: np.random.Generator) -> Drawn:
    """The retina in a field of 6 mm x ``depth`` x 6 mm, as ``size`` x ``size`` x ``slices`` voxels.

    A voxel belongs to the fluid that fills at least half of its depth.
    """
    x, z = (((np.arange(n) + 0.5) / n - 0.5) * FIELD for n in (size, slices))
    x, z, voxel = x[:, None], z[None], depth / size
    tops = layer_tops(retina, x, z, depth, rng)
    jitter = rng.normal(0, 0.003, slices)  # the eye moves between B-scans
    tops = {name: top + jitter for name, top in tops.items()}
    y = ((np.arange(size, dtype=np.float32) + 0.5) * voxel)[None, :, None]
    content = _content(rng)
    signal = _background(y, tops, content["vitreous"], voxel, rng)
    label = np.zeros(signal.shape, np.uint8)
    swollen = sum(lens.inside(x, z) for lens in retina.swelling)
    bottoms = {upper: tops[lower] for upper, lower in pairwise(tops)}
    for name in LAYERS:
        share = between(y, tops[name], bottoms[name], voxel)
        level = np.asarray(content.get(name, BRIGHTNESS.get(name)))
        if name in ("inner nuclear", "outer nuclear"):
            level = level + 0.1 * np.asarray(swollen)  # tissue between cysts is brighter than these layers are
        level = level + 0.03 * smooth_noise(rng, (size, slices), (FIELD / size, FIELD / slices), 0.5)
        signal += share * level[:, None]
        label[share >= 0.5] = {"subretinal fluid": SRF, "detachment": PED}.get(name, 0)
    for roof, floor in cyst_walls(retina, tops, x, z):
        share = between(y, roof, floor, voxel)
        signal += share * (content["cyst"] - signal)
        label[share >= 0.5] = IRF
    return Drawn(_vessels(signal, y, tops, x, z, voxel, rng), label, tops)


def between(y: np.ndarray, top: np.ndarray, bottom: np.ndarray, voxel: float) -> np.ndarray:
    """The share, ``X Y Z``, of each voxel's depth that lies between two surfaces ``X Z``."""
    top, bottom = top[:, None].astype(np.float32), bottom[:, None].astype(np.float32)
    return np.clip((np.minimum(bottom, y + voxel / 2) - np.maximum(top, y - voxel / 2)) / np.float32(voxel), 0, 1)


def scan(drawn: Drawn, vendor: Vendor, rng: np.random.Generator) -> np.ndarray:
    """The volume that a device makes of a retina: blur, speckle (gamma), noise, logarithm; whole numbers 0 to 255."""
    size = drawn.signal.shape[0]
    spacing = FIELD / size
    signal = ndimage.gaussian_filter(drawn.signal, (0.015 / spacing, 0.004 / vendor.depth * size, 0))
    signal = signal + rng.normal(0, 0.015, signal.shape[2])  # alignment differs from B-scan to B-scan
    looks = vendor.looks * rng.uniform(0.8, 1.25)
    power = 10 ** (RANGE / 10 * signal) * rng.gamma(looks, 1 / looks, signal.shape)
    power += 10 ** (RANGE / 10 * vendor.floor * rng.uniform(0.9, 1.1)) * rng.gamma(looks, 1 / looks, signal.shape)
    seen = ndimage.gaussian_filter(
        10 * np.log10(power) / RANGE, (vendor.blur / spacing, 0.3 * vendor.blur / spacing, 0)
    )
    seen = seen * vendor.contrast * rng.uniform(0.93, 1.07) + vendor.brightness + rng.normal(0, 0.02)
    return np.clip(np.round(255 * seen), 0, 255).astype(vendor.dtype)


def _content(rng: np.random.Generator) -> dict[str, float]:
    """Brightness of the vitreous and of the fluids, which is about the same."""
    return {
        "vitreous": rng.uniform(0.06, 0.15),
        "cyst": rng.uniform(0.09, 0.2),
        "subretinal fluid": rng.uniform(0.07, 0.19),
        "detachment": rng.uniform(0.12, 0.36),  # from serous to fibrovascular
    }


def _background(y: np.ndarray, tops: dict, vitreous: float, voxel: float, rng: np.random.Generator) -> np.ndarray:
    """Vitreous above the retina, with its back membrane in some eyes; choroid with its vessels, and sclera, below."""
    top, bottom = next(iter(tops.values())), tops["choroid"]
    shape = (top.shape[0], y.size, top.shape[1])
    signal = between(y, np.zeros_like(top) - 1, top, voxel) * vitreous
    spacing = (FIELD / shape[0], voxel, FIELD / shape[2])
    pattern = smooth_noise(rng, shape, spacing, (0.18, 0.07, 0.5))
    deep = y - bottom[:, None]
    lumina = 0.2 * step(pattern - 0.5, 0.8) * step(deep - 0.06, 0.04)  # its large vessels are dark
    choroid = CHOROID + 0.05 * pattern - lumina
    faded = SCLERA + (choroid - SCLERA) * np.exp(-((np.maximum(deep, 0) / rng.uniform(0.25, 0.4)) ** 1.5))
    signal += between(y, bottom, np.full_like(bottom, 99.0), voxel) * faded
    if rng.random() < 0.5:  # the vitreous has come off, all but at its ends
        shape = (shape[0], shape[2])
        gap = rng.uniform(0.05, 0.25) * (1 + 0.5 * smooth_noise(rng, shape, (spacing[0], spacing[2]), 2.5))
        line = np.minimum(top - 0.01, ndimage.gaussian_filter(top, [1.0 / spacing[0], 1.0 / spacing[2]]) - gap)
        signal += between(y, line, line + 0.012, voxel) * (rng.uniform(0.25, 0.45) - vitreous)
    return signal.astype(np.float32)


def _vessels(
    signal: np.ndarray,
    y: np.ndarray,
    tops: dict,
    x: np.ndarray,
    z: np.ndarray,
    voxel: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Adds bright vessels in the inner retina, which run across B-scans, and the shadows beneath them."""
    middle = (tops["nerve fibres"] + tops["ganglion cells"]) / 2
    for _ in range(rng.integers(3, 7)):
        place = rng.choice((-1, 1)) * rng.uniform(0.9, 2.9) + rng.uniform(-0.25, 0.25) * z
        radius = rng.uniform(0.03, 0.07)
        place = place + 0.1 * np.sin(rng.uniform(1, 2) * z + rng.uniform(0, 6))
        near = np.exp(-0.5 * ((x - place) / radius) ** 2)
        half = 0.6 * radius * np.sqrt(np.maximum(0, 1 - ((x - place) / (1.3 * radius)) ** 2))
        signal += between(y, middle - half, middle + half, voxel) * (0.82 - signal)
        signal -= between(y, middle + half, np.full_like(middle, 99.0), voxel) * rng.uniform(0.07, 0.2) * near[:, None]
    return np.clip(signal, 0.02, 1).astype(np.float32)
