"""What the ray meets: attenuation of an invented chest, summed along the ray, and the masks of its organs."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from common.data.brain_mask import largest_part
from common.phantoms.anatomy import SIDES, Anatomy
from common.phantoms.bones import add_bones, clavicle
from common.phantoms.canvas import Canvas, bends, cloud, depth, ellipse, resized, smooth_curve, tube
from common.phantoms.findings import Findings

_COARSE = 160  # pixels of the grid for smooth thicknesses, the same at every image size ...
_REACH = 1.25  # ... and what it covers, so that no body part ends at the frame
_TISSUE, _AIR = (
    3.1,
    2.45,
)  # attenuation of a whole trunk of soft tissue, and what a whole lung of air takes away

AIRWAYS = {  # curve, half width, attenuation
    "trachea": ([(0.0, -1.2), (0.01, -0.6), (0.02, -0.32)], 0.038, -0.40),
    "right_main_bronchus": ([(0.02, -0.34), (-0.13, -0.17)], 0.024, -0.22),
    "left_main_bronchus": ([(0.02, -0.34), (0.16, -0.15)], 0.024, -0.22),
}


class Chest:
    """Draws one patient: `attenuation` (H, W) in nepers, `masks` {organ: (H, W) bool}.

    Fine detail (vessels, texture) comes from `rng`, in body coordinates, the same at every size.
    """

    def __init__(self, anatomy: Anatomy, findings: Findings, canvas: Canvas, rng: np.random.Generator):
        self.anatomy, self.findings, self.canvas, self.rng = anatomy, findings, canvas, rng
        self.coarse = Canvas(_COARSE, canvas.pose, _REACH)
        self.outlines = {side: anatomy.hemithorax(side) for side in SIDES}
        self.cavity = {side: canvas.fill(outline) for side, outline in self.outlines.items()}
        self.heart = canvas.fill(anatomy.heart())
        self.mediastinum = canvas.fill(anatomy.mediastinum())
        self.effusion = self._effusion()
        self.masks = self._masks()
        self.attenuation = self._attenuation()

    def _thickness(self, outline: np.ndarray, radius: float, floor: float = 0.0) -> np.ndarray:
        """Rounded thickness 0..1 within an outline, full at `radius` (half frames) from the edge."""
        inside = self.coarse.fill(outline)
        rounded = depth(inside, radius * _COARSE / (2.0 * _REACH))
        # grown past the edge by its own values: the crisp cover cuts it off there, and no dark rim is left
        weight = gaussian_filter(inside, 1.5)
        grown = np.where(inside > 0.5, rounded, gaussian_filter(rounded, 1.5) / np.maximum(weight, 0.05))
        return np.clip(resized(np.maximum(grown, floor), self.canvas.size, 1.0 / _REACH), 0.0, 1.0)

    def _down(self) -> np.ndarray:
        """Body coordinate v of each row and column, near enough for slow changes."""
        pose, size = self.canvas.pose, self.canvas.size
        return (((np.arange(size, dtype=np.float32) + 0.5) * 2 / size - 1 - pose.shift[1]) / pose.scale[1])[:, None]

    def _effusion(self) -> np.ndarray:
        """Fluid in the costophrenic angle: a meniscus that rises toward the chest wall."""
        side, height = self.findings.effusion
        if height <= 0.0:
            return np.zeros_like(self.heart)
        wall = self.anatomy.wall(side)
        corner_u, corner = wall[-1]
        surface = smooth_curve([(0.0, corner), (0.55 * corner_u, corner - 0.55 * height), (1.2, corner - 1.5 * height)])
        outline = np.vstack([surface, [(1.2, 1.5), (0.0, 1.5)]]) * np.array([SIDES[side], 1.0])
        return self.canvas.fill(outline) * self.cavity[side]

    def _masks(self) -> dict[str, np.ndarray]:
        """Masks as SCR draws them: lungs end at heart and mediastinum, clavicles at the rib cage."""
        masks = {}
        inner_heart = self.canvas.fill(_scaled(self.anatomy.heart(), 0.96))
        cage = np.zeros_like(self.heart)
        for side in SIDES:
            field = (self.cavity[side] > 0.5) & (inner_heart <= 0.5)
            field &= (self.mediastinum <= 0.5) & (self.effusion <= 0.5)
            masks[f"{side}_lung"] = largest_part(field)  # what heart or fluid cut off at a corner is none
            cage = np.maximum(cage, self.canvas.fill(_scaled(self.outlines[side], 1.22)))
        masks["heart"] = self.heart > 0.5
        for side in SIDES:
            bone = self.canvas.fill(tube(*clavicle(self.anatomy, side)))
            masks[f"{side}_clavicle"] = largest_part((bone > 0.5) & ((cage > 0.5) | (self.mediastinum > 0.5)))
        return masks

    def _attenuation(self) -> np.ndarray:
        total = self._soft_tissue()
        air = self._air()
        total -= _AIR * air
        for curve in self.findings.soft_shadows(self.anatomy):
            self.canvas.add(total, curve, 0.16)
        total += air * (self._vessels() + 0.05 * self.findings.markings * cloud(self.rng, self.canvas.size, 24, 3))
        for shade in self.findings.opacities:
            total += air * self._opacity(shade)
        add_bones(self.canvas, total, self.anatomy, self.findings.bone)
        self._add_lines(total)
        return np.maximum(total, 0.0)

    def _soft_tissue(self) -> np.ndarray:
        outline = self.anatomy.body()
        rounded = self._thickness(outline, 0.55)
        v = self._down()
        profile = np.interp(v, [-1.1, -0.8, -0.3, 0.4, 1.0], [0.62, 0.66, 0.84, 1.0, 1.05]).astype(np.float32)
        body = self.canvas.fill(outline)
        total = _TISSUE * self.findings.girth * profile * (0.25 + 0.75 * rounded) * body
        total += 0.35 * self._thickness(self.anatomy.heart(), 0.35) * self.heart
        total += 0.22 * self.mediastinum * np.clip(1.0 - 0.3 * np.abs(v), 0, 1)
        # windpipe, and the gas under the left dome
        for curve, half_width, strength in AIRWAYS.values():
            self.canvas.add(total, tube(np.array(curve), half_width), strength)
        for bubble in self.findings.stomach_gas(self.anatomy):
            total -= 0.6 * self._thickness(bubble, 0.1) * self.canvas.fill(bubble)
        return total + 0.35 * self.findings.markings * self._hila()

    def _hila(self) -> np.ndarray:
        """The soft shadow of the vessels' roots, from the image's middle outward."""
        blur = np.zeros((128, 128), np.float32)
        small = Canvas(128, self.canvas.pose)
        for side, sign in SIDES.items():
            u, v = sign * (self.anatomy.size["mediastinum"] + 0.05), self.anatomy.dome_top(side) - 0.53
            small.add(blur, ellipse((u, v), (0.075, 0.14), 0.3 * sign))
        return resized(gaussian_filter(blur, 2.5), self.canvas.size)

    def _air(self) -> np.ndarray:
        """Depth of air 0..1: the lungs less what lies before them, and a little behind the domes."""
        v = self._down()
        air = np.zeros_like(self.heart)
        for side in SIDES:
            air += (0.22 + 0.78 * self._thickness(self.outlines[side], 0.26)) * self.cavity[side]
        air *= np.clip(0.86 + 0.25 * (v + 0.5), 0.68, 1.0)
        heart = self._thickness(self.anatomy.heart(), 0.25) * self.heart
        air *= 1.0 - self.heart * 0.35 - 0.45 * heart
        air *= 1.0 - 0.88 * self.mediastinum
        return air * (1.0 - 0.85 * self.effusion)

    def _vessels(self) -> np.ndarray:
        """Branching vessels from both hila, thick and dense near them."""
        joints, widths, strengths = [], [], []
        for side, sign in SIDES.items():
            hilum = np.array([sign * (self.anatomy.size["mediastinum"] + 0.05), self.anatomy.dome_top(side) - 0.55])
            angles = np.linspace(-1.5, 1.6, 11) + 0.12 * self.rng.standard_normal(11)
            for angle, width in zip(angles, self.rng.uniform(0.012, 0.026, 11), strict=True):
                growing = [(hilum + 0.04 * self.rng.standard_normal(2), float(angle), float(width), 0)]
                while growing:
                    start, heading, width, order = growing.pop()
                    length = (0.15 - 0.012 * order) * self.rng.uniform(0.6, 1.2)
                    bend = heading + 0.3 * self.rng.standard_normal()
                    middle = start + 0.5 * length * np.array([sign * np.cos(heading), np.sin(heading)])
                    end = middle + 0.5 * length * np.array([sign * np.cos(bend), np.sin(bend)])
                    joints.append((start, middle, end))
                    widths.append(width)
                    strengths.append(min(1.0, 0.22 + 22.0 * width))
                    if order < 5:
                        spread = self.rng.uniform(0.2, 0.6)
                        growing.append((end, bend + 0.4 * spread, 0.74 * width, order + 1))
                        if order % 2 == 0 or self.rng.random() < 0.4:
                            growing.append((end, bend - spread, 0.62 * width, order + 1))
        layer = self.canvas.strokes(bends(np.array(joints)), widths, strengths)
        return 0.40 * self.findings.markings * layer

    def _opacity(self, shade) -> np.ndarray:
        """A soft cloud in the lung; a nodule is a small sharp one."""
        fill = self._thickness(ellipse(shade.center, shade.radii, shade.angle), 0.8 * min(shade.radii))
        fill = fill * self.canvas.fill(ellipse(shade.center, shade.radii, shade.angle))
        if shade.sharp:
            return shade.strength * fill
        soft = resized(gaussian_filter(resized(fill, 128), 3.0), self.canvas.size)
        return shade.strength * soft * np.clip(1.0 + 0.35 * cloud(self.rng, self.canvas.size, 16, 3), 0.0, 2.0)

    def _add_lines(self, total: np.ndarray) -> None:
        lines = self.findings.lines
        if lines:
            curves, widths, strengths = zip(*lines, strict=True)
            total += 0.6 * self.canvas.strokes(curves, widths, strengths)


def _scaled(outline: np.ndarray, factor: float) -> np.ndarray:
    center = 0.5 * (outline.min(axis=0) + outline.max(axis=0))
    return center + factor * (outline - center)
