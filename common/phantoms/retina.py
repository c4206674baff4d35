"""Invented retinas with fluid: where each layer of a patient's macula is, and where fluid has gathered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from common.phantoms.brain import smooth_noise

FIELD = 6.0  # mm along a B-scan, and across the B-scans
IRF, SRF, PED = 1, 2, 3  # values of the label map: intraretinal, subretinal fluid, pigment epithelial detachment
# From the vitreous to the choroid: thickness in mm beside the fovea, and the share of it that is left in the fovea.
LAYERS = {
    "nerve fibres": (0.034, 0.0),
    "ganglion cells": (0.090, 0.05),
    "inner nuclear": (0.042, 0.08),
    "outer plexiform": (0.030, 0.35),
    "outer nuclear": (0.078, 1.35),
    "inner segments": (0.024, 1.0),
    "ellipsoid zone": (0.024, 1.1),
    "outer segments": (0.026, 1.2),
    "subretinal fluid": (0.0, 0.0),
    "pigment epithelium": (0.034, 1.0),
    "detachment": (0.0, 0.0),
    "Bruch's membrane": (0.009, 1.0),
}
INNER = tuple(LAYERS)[:5]  # those above the photoreceptors' segments
SWOLLEN = {"inner nuclear": 0.4, "outer plexiform": 0.1, "outer nuclear": 0.5}  # shares of a swelling
MARGIN = 0.1  # mm of vitreous, at least


@dataclass(frozen=True)
class Lens:
    """A body over an ellipse of the retina: centre, semi-axes along and across B-scans, height; in mm."""

    x: float
    z: float
    along: float
    across: float
    height: float

    def inside(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """1 at the centre, 0 at the ellipse's border and outside."""
        return np.maximum(0, 1 - ((x - self.x) / self.along) ** 2 - ((z - self.z) / self.across) ** 2)


@dataclass(frozen=True)
class Retina:
    """A patient's macula; lengths in mm.

    Args:
        middle: depth of Bruch's membrane in the field's middle, as a share of the field.
        tilt: slope of the retina along and across B-scans.
        curvature: how much the retina bends towards its ends, in 1/mm.
        pit: radius of the foveal pit.
        fovea: where it is.
        nasal: side on which the nerve fibres are thicker, 1 or -1.
        thickness: factor on all layers.
        swelling: where the retina is swollen, and by how much.
        cysts: intraretinal fluid: a lens and its middle, both the latter and its height as shares of the depth from
            the inner nuclear layer's top to the outer nuclear layer's bottom.
        subretinal, detachments: fluid under the photoreceptors, and under the pigment epithelium.
    """

    middle: float
    tilt: np.ndarray
    curvature: float
    pit: float
    fovea: np.ndarray
    nasal: int
    thickness: float
    swelling: tuple[Lens, ...]
    cysts: tuple[tuple[Lens, float], ...]
    subretinal: tuple[Lens, ...]
    detachments: tuple[Lens, ...]


def make_retina(rng: np.random.Generator, fluids: str) -> Retina:
    """A patient with the fluids that the letters name: I for IRF, S for SRF, P for PED."""
    fovea = rng.uniform(-0.35, 0.35, 2)
    home = fovea + rng.uniform(-0.7, 0.7, 2) * (1.0, 0.5)  # of the disease
    beside = home + rng.uniform(-0.7, 0.7, 2) * (1.0, 0.4)
    swelling, cysts = _cysts(rng, fovea + rng.uniform(-0.8, 0.8, 2) * (1.0, 0.4)) if "I" in fluids else ((), ())
    return Retina(
        middle=rng.uniform(0.52, 0.7),
        tilt=rng.uniform(-1, 1, 2) * (0.06, 0.03),
        curvature=rng.uniform(-0.005, 0.03),
        pit=rng.uniform(0.38, 0.55),
        fovea=fovea,
        nasal=int(rng.choice((-1, 1))),
        thickness=rng.uniform(0.9, 1.12),
        swelling=swelling,
        cysts=cysts,
        subretinal=_domes(rng, beside, (0.6, 1.1), (0.1, 0.26), 1) if "S" in fluids else (),
        detachments=_domes(rng, home, (0.45, 0.85), (0.12, 0.3), 3) if "P" in fluids else (),
    )


def layer_tops(retina: Retina, x: np.ndarray, z: np.ndarray, depth: float, rng: np.random.Generator) -> dict:
    """The depth in mm, ``X Z``, at which each of :data:`LAYERS` begins, and "choroid", where the last one ends.

    Args:
        retina: the patient.
        x, z: places along and across B-scans, from the field's middle, ``X 1`` and ``1 Z``.
        depth: of the field.
        rng: of the unevenness.
    """
    shape, spacing = (x.size, z.size), (FIELD / x.size, FIELD / z.size)
    detached = _height(retina.detachments, x, z, 0.85)
    lifted = _height(retina.subretinal, x, z, 1.0)
    swollen = sum(lens.height * lens.inside(x, z) ** 1.5 for lens in retina.swelling)
    distance = np.hypot(x - retina.fovea[0], z - retina.fovea[1])
    pit = np.exp(-((distance / retina.pit) ** 2))
    rim = 0.25 * np.exp(-(((distance - 1.1) / 0.5) ** 2))  # the retina is thickest around the fovea
    bulge = detached + lifted
    bulge = bulge - ndimage.gaussian_filter(bulge, [0.35 / side for side in spacing])
    pressed = 1 - np.clip(bulge / 0.3, -0.25, 0.4)  # the inner retina evens out what lies beneath it
    pit *= 1 - 0.5 * np.minimum(1, swollen / 0.2)  # and fills its pit when it swells
    top = depth * retina.middle + retina.tilt[0] * x + retina.tilt[1] * z
    top = top - retina.curvature * (x**2 + z**2) / 2 + 0.008 * smooth_noise(rng, shape, spacing, 1.5)
    tops = {"choroid": top}
    for name, (thickness, share) in reversed(LAYERS.items()):
        here = retina.thickness * thickness * (1 + (share - 1) * pit)
        if name in INNER:
            here = here * pressed * (1 + rim + 0.06 * smooth_noise(rng, shape, spacing, 1.0))
        if name == "nerve fibres":
            here = here * (1 + 0.25 * retina.nasal * x)
        here = here + SWOLLEN.get(name, 0) * swollen
        tops[name] = top = top - {"detachment": detached, "subretinal fluid": lifted}.get(name, here)
    down = max(0.0, MARGIN - top.min())
    return {name: tops[name] + down for name in reversed(tops)}


def cyst_walls(retina: Retina, tops: dict, x: np.ndarray, z: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The upper and lower walls of each cyst, ``X Z`` in mm, the same where it is not."""
    roof, room = tops["inner nuclear"], tops["inner segments"] - tops["inner nuclear"]
    walls = []
    for lens, middle in retina.cysts:
        half = lens.height * np.sqrt(lens.inside(x, z))
        walls.append((roof + (middle - half) * room, roof + (middle + half) * room))
    return walls


def _height(lenses: tuple[Lens, ...], x: np.ndarray, z: np.ndarray, power: float) -> np.ndarray:
    """How high the highest lens is; the lower the power, the steeper its border."""
    flat = np.zeros(np.broadcast_shapes(x.shape, z.shape))
    return np.maximum.reduce([flat, *(lens.height * lens.inside(x, z) ** power for lens in lenses)])


def _domes(rng: np.random.Generator, home: np.ndarray, along: tuple, height: tuple, more: int) -> tuple[Lens, ...]:
    """A large lens at home, and up to so many more smaller ones around it."""
    width = rng.uniform(*along)
    domes = [Lens(*home, width, rng.uniform(1.0, 1.5), rng.uniform(*height))]
    for _ in range(rng.integers(more + 1)):
        place, share = home + rng.uniform(-1, 1, 2) * (1.6, 2.0), rng.uniform(0.25, 0.6)
        domes.append(Lens(*place, share * width, rng.uniform(0.35, 0.7), rng.uniform(0.5, 0.9) * height[0]))
    return tuple(domes)


def _cysts(rng: np.random.Generator, home: np.ndarray) -> tuple[tuple[Lens, ...], tuple[tuple[Lens, float], ...]]:
    """A swelling with cysts in two rows, of which none overlaps another of its row."""
    spread = rng.uniform(0.4, 0.7)
    swelling = Lens(*home, 3.2 * spread, rng.uniform(1.8, 2.6), rng.uniform(0.14, 0.32))
    found = [(Lens(*home, rng.uniform(0.2, 0.35), rng.uniform(0.7, 1.0), rng.uniform(0.24, 0.32)), 0.66)]
    for _ in range(rng.integers(24, 60)):
        outer, place = rng.random() < 0.55, home + rng.normal(0, 1, 2) * (spread, 0.75)
        along = rng.uniform(0.1, 0.32) if outer else rng.uniform(0.08, 0.2)
        height, row = (rng.uniform(0.14, 0.27), 0.66) if outer else (rng.uniform(0.09, 0.16), 0.2)
        cyst = Lens(*place, along, along * rng.uniform(1.0, 1.8), height)
        apart = [
            np.hypot((cyst.x - other.x) / (cyst.along + other.along), (cyst.z - other.z) / (cyst.across + other.across))
            for other, at in found
            if at == row
        ]
        if min(apart, default=2.0) > 1.05 and swelling.inside(*place) > 0.25:
            found.append((cyst, row))
    return (swelling,), tuple(found)
