"""What differs from patient to patient beside anatomy: build, gas, breasts, disease, tubes, a nodule."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.phantoms.anatomy import SIDES, Anatomy
from common.phantoms.canvas import ellipse, smooth_curve


@dataclass
class Shade:
    """One opacity in a lung: center, radii and angle in the body, attenuation in a full lung."""

    center: tuple[float, float]
    radii: tuple[float, float]
    angle: float
    strength: float
    sharp: bool


@dataclass
class Findings:
    """Everything about one patient that is not the shape of an organ. Strengths are relative to 1."""

    girth: float  # thickness of the trunk
    bone: float  # density of bone
    markings: float  # strength of vessels and texture
    breasts: float  # size, 0 = no shadow
    gas: float  # size of the stomach bubble
    effusion: tuple[str, float]  # side and height of fluid, 0 = none
    opacities: list[Shade]
    lines: list[tuple[np.ndarray, float, float]]  # curve, width, strength

    @classmethod
    def draw(cls, rng: np.random.Generator, anatomy: Anatomy, nodule: bool, variation: float = 1.0) -> Findings:
        spread = np.clip(rng.standard_normal(3), -2.0, 2.0) * variation
        girth, bone, markings = 1.0 + np.array([0.07, 0.16, 0.22]) * spread
        breasts = float(rng.uniform(0.2, 0.36)) if rng.random() < 0.45 else 0.0
        gas = float(rng.uniform(0.06, 0.19)) if rng.random() < 0.7 else 0.0
        side = "right" if rng.random() < 0.5 else "left"
        height = float(rng.uniform(0.08, 0.28)) if rng.random() < 0.22 * variation else 0.0
        opacities = []
        if rng.random() < 0.42 * variation:
            opacities = [_cloud_shade(rng, anatomy) for _ in range(rng.integers(1, 5))]
        lines = _tubes(rng, anatomy) if rng.random() < 0.3 else []
        if nodule:
            opacities.append(_nodule(rng, anatomy))
        return cls(float(girth), float(bone), float(markings), breasts, gas, (side, height), opacities, lines)

    def soft_shadows(self, anatomy: Anatomy) -> list[np.ndarray]:
        """The lower halves of the breasts, which lie over the lung bases."""
        if self.breasts == 0.0:
            return []
        u = 0.55 * anatomy.size["half_width"]
        v = anatomy.size["diaphragm"] - 0.25
        return [ellipse((sign * u, v), (1.1 * self.breasts, 1.3 * self.breasts), 0.2 * sign) for sign in (-1.0, 1.0)]

    def stomach_gas(self, anatomy: Anatomy) -> list[np.ndarray]:
        """A bubble under the left dome."""
        if self.gas == 0.0:
            return []
        center = (0.42 * anatomy.size["half_width"], anatomy.dome_top("left") + 0.06 + 0.75 * self.gas)
        return [ellipse(center, (1.4 * self.gas, 0.7 * self.gas), 0.1)]


def _place(rng: np.random.Generator, anatomy: Anatomy) -> tuple[float, float]:
    """A point well inside a lung field."""
    sign = SIDES["right" if rng.random() < 0.5 else "left"]
    top, bottom = anatomy.size["apex"] + 0.25, anatomy.size["diaphragm"] - 0.08
    return float(sign * rng.uniform(0.40, 0.78) * anatomy.size["half_width"]), float(rng.uniform(top, bottom))


def _nodule(rng: np.random.Generator, anatomy: Anatomy) -> Shade:
    radius = float(rng.uniform(0.025, 0.075))
    squash = float(rng.uniform(0.75, 1.0))
    strength = float(rng.uniform(0.25, 0.6))
    return Shade(_place(rng, anatomy), (radius, squash * radius), float(rng.uniform(0, np.pi)), strength, True)


def _cloud_shade(rng: np.random.Generator, anatomy: Anatomy) -> Shade:
    radii = (float(rng.uniform(0.10, 0.34)), float(rng.uniform(0.10, 0.34)))
    return Shade(_place(rng, anatomy), radii, float(rng.uniform(0, np.pi)), float(rng.uniform(0.4, 1.5)), False)


def _tubes(rng: np.random.Generator, anatomy: Anatomy) -> list[tuple[np.ndarray, float, float]]:
    """A central line and two leads across the chest."""
    sign = -1.0 if rng.random() < 0.6 else 1.0
    medial = anatomy.size["clavicle_medial"]
    line = smooth_curve(
        [(sign * 0.30, -1.3), (sign * 0.24, medial - 0.1), (-0.08, medial + 0.2), (-0.09, medial + 0.6)]
    )
    lines = [(line, 0.012, 0.7)]
    for _ in range(rng.integers(0, 3)):
        start, end = rng.uniform(-1.0, 1.0, 2), rng.uniform(-0.5, 0.5, 2)
        middle = rng.uniform(-0.6, 0.6, 2)
        lines.append((smooth_curve([(start[0], -1.2), middle, (end[0], end[1] + 0.2)]), 0.014, 0.6))
        lines.append((ellipse((end[0], end[1] + 0.2), (0.02, 0.02)), 0.018, 0.9))
    return lines
