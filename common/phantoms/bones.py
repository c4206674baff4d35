"""The bones of an invented chest: clavicles, ribs, shoulder blades, upper arms and spine."""

from __future__ import annotations

import numpy as np

from common.phantoms.anatomy import SIDES, Anatomy, mirrored
from common.phantoms.canvas import Canvas, ellipse, smooth_curve, tube


def clavicle(anatomy: Anatomy, side: str) -> tuple[np.ndarray, np.ndarray]:
    """Centre line (n, 2) and half width (n,): S-shaped, thick at the breast bone, flat at the shoulder."""
    size = anatomy.size
    medial = size["clavicle_medial"] + anatomy.own("clavicle", side)
    rise = size["clavicle_rise"] + anatomy.own("rise", side)
    share = np.linspace(0.0, 1.0, 60)
    outward = 0.075 + share * (1.12 * size["half_width"] - 0.03)
    height = medial - rise * share**0.9 - size["clavicle_bend"] * np.sin(2.0 * np.pi * share) * (1.0 - 0.3 * share)
    half_width = size["clavicle_thickness"] * (
        1.15 - 0.55 * share + 0.45 * share**3 + 0.25 * np.exp(-((share / 0.08) ** 2))
    )
    curve = mirrored(np.stack([outward, height], axis=1), side)
    return curve + np.array([1.5 * size["turn"], 0.0]), half_width


def ribs(anatomy: Anatomy, side: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Posterior and anterior arc of each rib: half a tilted ring around the chest, from the front."""
    size = anatomy.size
    wall = smooth_curve(anatomy.wall(side), samples=60)
    pairs = []
    for level in range(11):
        start = size["apex"] - 0.04 + level * size["rib_spacing"]
        tilt = size["rib_tilt"] * min(1.0, 0.35 + 0.13 * level)
        reach = np.interp(start + 0.5 * tilt, wall[:, 1], wall[:, 0]) + 0.015
        around = np.linspace(0.07, 0.80, 72) * np.pi
        u = reach * np.sin(around) ** 0.85
        v = start + tilt * (1.0 - np.cos(around)) / 2.0 - 0.035 * np.sin(around) * np.cos(around)
        ring = mirrored(np.stack([u, v], axis=1), side)
        end = 72 if level < 6 else 58 if level < 8 else 46
        shift = size["turn"] * np.array([[1.0, 0.0]]) * -np.cos(around)[:, None]
        pairs.append(((ring + shift)[:46], (ring + shift)[40:end]))
    return pairs


def scapula(anatomy: Anatomy, side: str) -> np.ndarray:
    """The shoulder blade, which looks out beside the upper lung."""
    width, top = anatomy.size["half_width"], anatomy.size["clavicle_medial"]
    blade = [
        (1.22, top - 0.10),
        (1.0, top - 0.02),
        (0.88, top + 0.1),
        (0.93, top + 0.42),
        (1.04, top + 0.68),
    ]
    blade += [(1.12, top + 0.45), (1.22, top + 0.2)]
    return mirrored(smooth_curve([(u * width, v) for u, v in blade], closed=True), side)


def humerus(anatomy: Anatomy, side: str) -> list[np.ndarray]:
    """Head and shaft of the upper arm, often at the edge of the frame."""
    u, v = 1.10 + anatomy.size["body_margin"] * 0.3, anatomy.size["clavicle_medial"] + 0.06
    shaft = tube(np.array([(u + 0.02, v), (u + 0.09, v + 0.5), (u + 0.12, v + 1.2)]), 0.06)
    return [mirrored(ellipse((u, v), (0.10, 0.11)), side), mirrored(shaft, side)]


def rib_half_width(anatomy: Anatomy, arc: np.ndarray) -> np.ndarray:
    """Half width (n,) along an arc of a rib."""
    return anatomy.size["rib_thickness"] * np.linspace(1.0, 0.75, len(arc))


def vertebra(anatomy: Anatomy, level: int) -> np.ndarray:
    """Outline of a vertebral body; level 3 is the first thoracic one, at the lungs' apices."""
    half, tall = 0.062 + 0.0018 * level, 0.057
    corners = [
        (-half, -tall),
        (-0.88 * half, 0.0),
        (-half, tall),
        (half, tall),
        (0.88 * half, 0.0),
        (half, -tall),
    ]
    return np.array(corners) + np.array(_vertebra_center(anatomy, level))


def _vertebra_center(anatomy: Anatomy, level: int) -> tuple[float, float]:
    return -0.5 * anatomy.size["turn"], -1.15 + 0.138 * level


def add_bones(canvas: Canvas, total: np.ndarray, anatomy: Anatomy, density: float) -> None:
    """Add the attenuation of all bones; `density` is relative to 1."""
    add = canvas.add
    _add_spine(canvas, total, anatomy, density)
    strength = 0.27 * density
    for side in SIDES:
        for level, (posterior, anterior) in enumerate(ribs(anatomy, side)):
            behind = 1.0 if level < 8 else 0.5  # lower ribs fade behind the belly
            for arc, share in ((posterior, behind), (anterior, 0.6 * behind)):
                # a dense rim around a lighter core, as cortex around marrow
                half = rib_half_width(anatomy, arc)
                add(total, tube(arc, half), share * strength)
                add(total, tube(arc, 0.62 * half), -0.4 * share * strength)
        add(total, scapula(anatomy, side), 0.6 * strength)
        add(total, tube(scapula(anatomy, side)[8:40], 0.014), 0.5 * strength)
        for part in humerus(anatomy, side):
            add(total, part, 1.3 * strength)
        curve, half_width = clavicle(anatomy, side)
        add(total, tube(curve, half_width), 2.7 * strength)
        add(total, tube(curve, 0.55 * half_width), -0.5 * strength)


def _add_spine(canvas: Canvas, total: np.ndarray, anatomy: Anatomy, strength: float) -> None:
    """Vertebral bodies with discs between them, pedicles and spinous processes."""
    add = canvas.add
    for level in range(17):
        shift, v = _vertebra_center(anatomy, level)
        half = 0.062 + 0.0018 * level
        add(total, vertebra(anatomy, level), 0.17 * strength)
        add(total, ellipse((shift, v + 0.03), (0.012, 0.03)), 0.12 * strength)
        for sign in (-1.0, 1.0):
            add(total, ellipse((shift + sign * 0.7 * half, v - 0.01), (0.014, 0.024)), 0.10 * strength)
