"""What the ray meets: attenuation of an invented chest, summed along the ray, and the masks of its organs."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, label

from common.data.phantom_anatomy import SIDES, Anatomy
from common.data.phantom_canvas import Canvas, cloud, depth, ellipse, resized, smooth_curve, tube
from common.data.phantom_findings import Findings

_COARSE = 160  # pixels of the grid for smooth thicknesses, the same at every image size ...
_REACH = 1.25  # ... and what it covers, so that no body part ends at the frame
_TISSUE, _AIR = (
    3.1,
    2.45,
)  # attenuation of a whole trunk of soft tissue, and what a whole lung of air takes away


class Chest:
    """Draws one patient: `attenuation` (H, W) in nepers, `masks` {organ: (H, W) bool}.

    Fine detail (vessels, texture) comes from `rng`, in body coordinates, so that it is the same at every size.
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
        """Rounded thickness 0..1 of a body with this outline, reached `radius` (half frames) from its edge."""
        inside = self.coarse.fill(outline)
        rounded = depth(inside, radius * _COARSE / (2.0 * _REACH))
        # grown past the edge by its own values: the crisp cover cuts it off there, and no dark rim is left
        weight = gaussian_filter(inside, 1.5)
        grown = np.where(inside > 0.5, rounded, gaussian_filter(rounded, 1.5) / np.maximum(weight, 0.05))
        return np.clip(resized(np.maximum(grown, floor), self.canvas.size, 1.0 / _REACH), 0.0, 1.0)

    def _down(self) -> np.ndarray:
        """Body coordinate v of each row and column, near enough for slow changes."""
        pose, size = self.canvas.pose, self.canvas.size
        return (((np.arange(size, dtype=np.float32) + 0.5) * 2 / size - 1 - pose.shift[1]) / pose.scale[1])[
            :, None
        ]

    def _effusion(self) -> np.ndarray:
        """Fluid in the costophrenic angle: a meniscus that rises toward the chest wall."""
        side, height = self.findings.effusion
        if height <= 0.0:
            return np.zeros_like(self.heart)
        wall = self.anatomy.wall(side)
        corner_u, corner = wall[-1]
        surface = smooth_curve(
            [(0.0, corner), (0.55 * corner_u, corner - 0.55 * height), (1.2, corner - 1.5 * height)]
        )
        outline = np.vstack([surface, [(1.2, 1.5), (0.0, 1.5)]]) * np.array([SIDES[side], 1.0])
        return self.canvas.fill(outline) * self.cavity[side]

    def _masks(self) -> dict[str, np.ndarray]:
        """Masks as SCR draws them: lung fields end at the heart and mediastinum, clavicles at the rib cage."""
        masks = {}
        inner_heart = self.canvas.fill(_shrunk(self.anatomy.heart(), 0.96))
        cage = np.zeros_like(self.heart)
        for side in SIDES:
            field = (self.cavity[side] > 0.5) & (inner_heart <= 0.5)
            field &= (self.mediastinum <= 0.5) & (self.effusion <= 0.5)
            masks[f"{side}_lung"] = _largest_part(field)
            cage = np.maximum(cage, self.canvas.fill(_shrunk(self.outlines[side], 1.1)))
        masks["heart"] = self.heart > 0.5
        for side in SIDES:
            bone = self.canvas.fill(tube(*self.anatomy.clavicle(side)))
            masks[f"{side}_clavicle"] = _largest_part(
                (bone > 0.5) & ((cage > 0.5) | (self.mediastinum > 0.5))
            )
        return masks

    def _attenuation(self) -> np.ndarray:
        total = self._soft_tissue()
        air = self._air()
        total -= _AIR * air
        for curve in self.findings.soft_shadows(self.anatomy):
            self.canvas.add(total, curve, 0.16)
        total += air * (
            self._vessels() + 0.05 * self.findings.markings * cloud(self.rng, self.canvas.size, 24, 3)
        )
        for shade in self.findings.opacities:
            total += air * self._opacity(shade)
        self._add_bones(total)
        self._add_lines(total)
        return np.maximum(total, 0.0)

    def _soft_tissue(self) -> np.ndarray:
        outline = self.anatomy.body()
        rounded = self._thickness(outline, 0.55)
        v = self._down()
        profile = np.interp(v, [-1.1, -0.8, -0.3, 0.4, 1.0], [0.62, 0.66, 0.84, 1.0, 1.05]).astype(np.float32)
        body = self.canvas.fill(outline)
        total = _TISSUE * self.findings.girth * profile * (0.25 + 0.75 * rounded) * body
        total += 0.45 * self._thickness(self.anatomy.heart(), 0.3) * self.heart
        total += 0.40 * self.mediastinum * np.clip(1.0 - 0.3 * np.abs(v), 0, 1)
        # windpipe, and the gas under the left dome
        trachea = tube(np.array([(0.0, -1.2), (0.01, -0.6), (0.02, -0.32)]), 0.038)
        self.canvas.add(total, trachea, -0.40)
        for end in ((-0.13, -0.17), (0.16, -0.15)):
            self.canvas.add(total, tube(np.array([(0.02, -0.34), end]), 0.024), -0.22)
        for bubble in self.findings.stomach_gas(self.anatomy):
            total -= 0.6 * self._thickness(bubble, 0.1) * self.canvas.fill(bubble)
        return total

    def _air(self) -> np.ndarray:
        """Depth of air 0..1: the lungs less what lies before them, and a little behind the domes."""
        v = self._down()
        air = np.zeros_like(self.heart)
        for side in SIDES:
            air += (0.35 + 0.65 * self._thickness(self.outlines[side], 0.22)) * self.cavity[side]
        air *= np.clip(0.86 + 0.25 * (v + 0.5), 0.68, 1.0)
        heart = self._thickness(self.anatomy.heart(), 0.25) * self.heart
        air *= 1.0 - self.heart * 0.35 - 0.45 * heart
        air *= 1.0 - 0.88 * self.mediastinum
        return air * (1.0 - 0.85 * self.effusion)

    def _vessels(self) -> np.ndarray:
        """Branching vessels from both hila, thick and dense near them."""
        curves, widths, strengths = [], [], []
        for side, sign in SIDES.items():
            hilum = np.array(
                [sign * (self.anatomy.size["mediastinum"] + 0.05), self.anatomy.dome_top(side) - 0.52]
            )
            for angle in np.linspace(-1.45, 1.5, 10) + 0.12 * self.rng.standard_normal(10):
                growing = [(hilum + 0.03 * self.rng.standard_normal(2), angle, 0.030, 0)]
                while growing:
                    start, heading, width, order = growing.pop()
                    length = (0.17 - 0.014 * order) * self.rng.uniform(0.7, 1.2)
                    bend = heading + 0.22 * self.rng.standard_normal()
                    step = np.array(
                        [[np.cos(heading) * sign, np.sin(heading)], [np.cos(bend) * sign, np.sin(bend)]]
                    )
                    end = start + 0.5 * length * step.sum(axis=0)
                    curves.append(smooth_curve([start, start + 0.5 * length * step[0], end], 7))
                    widths.append(width)
                    strengths.append(min(1.0, 0.35 + 16.0 * width))
                    if order < 5:
                        spread = self.rng.uniform(0.2, 0.55)
                        growing.append((end, bend + 0.4 * spread, 0.74 * width, order + 1))
                        if order % 2 == 0 or self.rng.random() < 0.4:
                            growing.append((end, bend - spread, 0.62 * width, order + 1))
        order = np.argsort(widths)  # thin ones first, so that thick ones lie on top
        layer = self.canvas.strokes(*([values[i] for i in order] for values in (curves, widths, strengths)))
        return 0.42 * self.findings.markings * layer

    def _opacity(self, shade) -> np.ndarray:
        """A soft cloud in the lung; a nodule is a small sharp one."""
        fill = self._thickness(ellipse(shade.center, shade.radii, shade.angle), 0.8 * min(shade.radii))
        fill = fill * self.canvas.fill(ellipse(shade.center, shade.radii, shade.angle))
        if shade.sharp:
            return shade.strength * fill
        soft = resized(gaussian_filter(resized(fill, 128), 3.0), self.canvas.size)
        return (
            shade.strength * soft * np.clip(1.0 + 0.35 * cloud(self.rng, self.canvas.size, 16, 3), 0.0, 2.0)
        )

    def _add_bones(self, total: np.ndarray) -> None:
        add, anatomy = self.canvas.add, self.anatomy
        self._add_spine(total)
        rib = anatomy.size["rib_thickness"]
        strength = 0.20 * self.findings.bone
        for side in SIDES:
            for posterior, anterior in anatomy.ribs(side):
                for arc, share in ((posterior, 1.0), (anterior, 0.75)):
                    # a dense rim around a lighter core, as cortex around marrow
                    add(total, tube(arc, rib), share * strength)
                    add(total, tube(arc, 0.6 * rib), -0.3 * share * strength)
            add(total, anatomy.scapula(side), 0.8 * strength)
            for part in anatomy.humerus(side):
                add(total, part, 2.4 * strength)
            curve, half_width = anatomy.clavicle(side)
            add(total, tube(curve, half_width), 1.75 * strength)
            add(total, tube(curve, 0.55 * half_width), -0.35 * strength)

    def _add_spine(self, total: np.ndarray) -> None:
        add, strength = self.canvas.add, self.findings.bone
        shift = -0.5 * self.anatomy.size["turn"]
        for level in range(17):
            v = -1.15 + 0.138 * level
            half, tall = 0.062 + 0.0018 * level, 0.057
            corners = [
                (-half, -tall),
                (-0.88 * half, 0.0),
                (-half, tall),
                (half, tall),
                (0.88 * half, 0.0),
                (half, -tall),
            ]
            add(total, np.array(corners) + np.array([shift, v]), 0.30 * strength)
            add(total, ellipse((shift, v + 0.03), (0.014, 0.035)), 0.12 * strength)
            for sign in (-1.0, 1.0):
                add(total, ellipse((shift + sign * 0.7 * half, v - 0.01), (0.014, 0.024)), 0.10 * strength)

    def _add_lines(self, total: np.ndarray) -> None:
        lines = self.findings.lines
        if lines:
            curves, widths, strengths = zip(*lines, strict=True)
            total += 0.6 * self.canvas.strokes(curves, widths, strengths)


def _shrunk(outline: np.ndarray, factor: float) -> np.ndarray:
    center = 0.5 * (outline.min(axis=0) + outline.max(axis=0))
    return center + factor * (outline - center)


def _largest_part(mask: np.ndarray) -> np.ndarray:
    """The largest connected part: what the heart or fluid cuts off at a corner belongs to no lung field."""
    parts, count = label(mask)
    if count < 2:
        return mask
    return parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
