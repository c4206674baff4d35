"""Fine classes of an invented chest: lobes, heart chambers, great vessels, airways, single vertebrae and ribs.

They are projections, as an annotator sees them in one frontal radiograph, and overlap as the organs do:

- lobes are the parts of SCR's lung field between the projected fissures; the lower lobes reach up behind the upper
  ones, and the middle lobe lies before the lower one;
- chambers are the usual zones of the heart's outline: right atrium at the right border, left ventricle at the left
  one, right ventricle in front below, left atrium behind above;
- great vessels are tubes within what is drawn of heart and mediastinum;
- airways, vertebral bodies, shoulder blades and ribs are the shapes that the picture is drawn with, and the regions
  below the diaphragm lie between its domes and the frame.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from common.phantoms.anatomy import SIDES, Anatomy, mirrored
from common.phantoms.bones import rib_half_width, ribs, scapula, vertebra
from common.phantoms.canvas import Canvas, ellipse, smooth_curve, tube
from common.phantoms.chest import AIRWAYS, Chest

RIBS, FRONT_RIBS = 10, 8  # posterior and anterior arcs; below them ribs are stubs, or below many a frame
VERTEBRAE, FIRST_VERTEBRA = 12, 3
_FAR = 3.0  # beyond any frame
Limits = list[tuple[np.ndarray, str]]  # curves, and on which side of each

FINE_OF_ORGAN = {
    "right_lung": ("right_upper_lobe", "right_middle_lobe", "right_lower_lobe"),
    "left_lung": ("left_upper_lobe", "left_lower_lobe"),
    "heart": ("right_atrium", "right_ventricle", "left_atrium", "left_ventricle"),
    "right_clavicle": ("right_clavicle",),
    "left_clavicle": ("left_clavicle",),
}
VESSELS = ("ascending_aorta", "aortic_arch", "descending_aorta", "superior_vena_cava", "pulmonary_trunk")


def fine_masks(chest: Chest, window: tuple[slice, slice]) -> dict[str, np.ndarray]:
    """Masks {class: (H, W) bool} of all `FINE_CLASSES`, nothing outside the window (rows, columns).

    The union of the classes in `FINE_OF_ORGAN` is the organ's own mask, pixel by pixel.
    """
    canvas, fine = chest.canvas, {name: chest.masks[name] for name in ("right_clavicle", "left_clavicle")}
    for name, outline in _outlines(chest.anatomy):
        fine[name] = canvas.fill(outline) > 0.5
    for name, limits in _lobes(chest.anatomy):
        fine[name] = chest.masks[f"{name.split('_')[0]}_lung"] & _within(canvas, limits)
    for name, limits in _chambers(chest.anatomy):
        fine[name] = chest.masks["heart"] & _within(canvas, limits)
    drawn = np.maximum(chest.heart, chest.mediastinum) > 0.5
    for name, outline in _vessels(chest.anatomy):
        fine[name] = drawn & (canvas.fill(outline) > 0.5)
    shown = np.zeros_like(drawn)
    shown[window] = True
    return {name: fine[name] & shown for name in FINE_CLASSES}


def _within(canvas: Canvas, limits: Limits) -> np.ndarray:
    """The pixels that lie above, below, left of or right of curves; what is not above is below."""
    inside = np.ones((canvas.size, canvas.size), dtype=bool)
    for curve, where in limits:
        ends = curve[[-1, 0]].copy()
        ends[:, 1 if where in ("above", "below") else 0] = -_FAR
        before = canvas.fill(np.vstack([curve, ends])) > 0.5
        inside &= before if where in ("above", "left of") else ~before
    return inside


def _outlines(anatomy: Anatomy) -> Iterator[tuple[str, np.ndarray]]:
    """What is drawn as one outline, or lies between the diaphragm and the frame."""
    for name, (curve, half_width, _) in AIRWAYS.items():
        yield name, tube(np.array(curve), half_width)
    for number in range(VERTEBRAE):
        yield f"vertebra_t{number + 1:02d}", vertebra(anatomy, FIRST_VERTEBRA + number)
    for side in SIDES:
        floor = anatomy.floor(side)
        below = np.vstack([floor, [(0.0, floor[-1, 1]), (0.0, _FAR), (floor[0, 0], _FAR)]])
        yield f"{side}_sub_diaphragm", mirrored(below, side)
        yield f"{side}_scapula", scapula(anatomy, side)
        for level, arcs in enumerate(ribs(anatomy, side)):
            for part, arc, last in zip(("posterior", "anterior"), arcs, (RIBS, FRONT_RIBS), strict=True):
                if level < last:
                    yield f"{side}_{part}_rib_{level + 1:02d}", tube(arc, rib_half_width(anatomy, arc))


def _lobes(anatomy: Anatomy) -> Iterator[tuple[str, Limits]]:
    """Each lobe by what limits it; the fissures' heights are shares of the lung's, from the apex."""
    for side in SIDES:
        width, apex = anatomy.size["half_width"], anatomy.wall(side)[0, 1]
        height = anatomy.dome_top(side) - apex

        def fissure(*shares, width=width, apex=apex, height=height) -> np.ndarray:
            """A curve from the midline (and beyond) to the chest wall (and beyond)."""
            return smooth_curve([(u * width, apex + share * height) for u, share in shares])

        behind = fissure((-0.3, 0.27), (0.4, 0.31), (0.8, 0.42), (1.3, 0.51))  # top of the oblique one
        before = fissure((-0.3, 1.50), (0.35, 1.22), (0.6, 0.98), (0.85, 0.72), (1.3, 0.60))  # its lower end
        across = fissure((-0.3, 0.53), (0.4, 0.54), (1.3, 0.57))  # the horizontal one, on the right alone
        behind, before, across = (mirrored(curve, side) for curve in (behind, before, across))
        yield f"{side}_lower_lobe", [(behind, "below")]
        if side == "left":
            yield "left_upper_lobe", [(before, "above")]
        else:
            yield "right_upper_lobe", [(across, "above")]
            yield "right_middle_lobe", [(across, "below"), (before, "above")]


def _chambers(anatomy: Anatomy) -> Iterator[tuple[str, Limits]]:
    """Each chamber by what limits it, in shares of the box around the heart."""
    outline = anatomy.heart()
    low, high = outline.min(axis=0), outline.max(axis=0)

    def line(*shares) -> np.ndarray:
        return smooth_curve(low + np.array(shares) * (high - low))

    atrium = line((0.46, -0.5), (0.37, 0.2), (0.28, 0.6), (0.30, 1.5))
    ventricle = line((0.86, -0.5), (0.72, 0.2), (0.58, 0.6), (0.52, 1.5))
    yield "right_atrium", [(atrium, "left of")]
    yield "left_ventricle", [(ventricle, "right of")]
    valve = line((-0.5, 0.75), (0.2, 0.56), (0.5, 0.45), (0.8, 0.42), (1.5, 0.6))
    inflow, septum = line((0.22, -0.5), (0.20, 1.5)), line((0.86, -0.5), (0.80, 0.4), (0.68, 1.0), (0.64, 1.5))
    yield "right_ventricle", [(valve, "below"), (inflow, "right of"), (septum, "left of")]
    floor = line((-0.5, 0.62), (0.5, 0.60), (1.5, 0.62))
    veins, ear = line((0.22, -0.5), (0.22, 1.5)), line((0.92, -0.5), (0.76, 0.3), (0.72, 1.5))
    yield "left_atrium", [(floor, "above"), (veins, "right of"), (ear, "left of")]


def _vessels(anatomy: Anatomy) -> Iterator[tuple[str, np.ndarray]]:
    """Outlines that follow the mediastinum's: its knob is the aortic arch, the bulge below it the pulmonary trunk."""
    size = anatomy.size
    width, arch, shift = size["mediastinum"], size["apex"] + 0.44, np.array([0.4 * size["turn"], 0.0])
    knob = 0.98 * width + size["aorta"] - 0.055
    root = max(anatomy.heart()[:, 1].min() + 0.10, arch + 0.30)
    bottom = anatomy.dome_top("left") + 0.12
    rise, crown = (-0.45 * width, arch + 0.12), (0.10 * width, arch - 0.02)
    yield "ascending_aorta", tube(smooth_curve([(-0.05 * width, root), (-0.35 * width, arch + 0.24), rise]), 0.055)
    yield "aortic_arch", tube(smooth_curve([rise, crown, (knob, arch + 0.01)]) + shift, 0.055)
    fall = [(knob, arch + 0.01), (0.85 * width, arch + 0.25), (0.6 * width, arch + 0.6), (0.45 * width, bottom)]
    yield "descending_aorta", tube(smooth_curve(fall) + shift, 0.048)
    cava = [(-0.62 * width, arch - 0.22), (-0.72 * width, arch + 0.05), (-0.80 * width, arch + 0.36)]
    yield "superior_vena_cava", tube(smooth_curve(cava) + shift, 0.036)
    yield "pulmonary_trunk", ellipse((1.1 * width, arch + 0.36), (0.09, 0.13), -0.3) + shift


_BONES = [f"vertebra_t{number + 1:02d}" for number in range(VERTEBRAE)]
_BONES += [
    f"{side}_{part}_rib_{number + 1:02d}"
    for side in SIDES
    for part, last in (("posterior", RIBS), ("anterior", FRONT_RIBS))
    for number in range(last)
]
_BONES += [f"{side}_scapula" for side in SIDES]
FINE_CLASSES = tuple(
    sorted(
        [name for names in FINE_OF_ORGAN.values() for name in names]
        + [*VESSELS, *AIRWAYS, *_BONES, "right_sub_diaphragm", "left_sub_diaphragm"]
    )
)
