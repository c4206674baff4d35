"""One invented patient's sizes and soft outlines: u to the image's right, v down, the frame is -1..1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from common.phantoms.canvas import Pose, smooth_curve

SIDES = {"right": -1.0, "left": 1.0}  # the patient's right lies on the image's left

# mean and standard deviation of each size, in half frames (or radians, or shares where said)
_SIZES = {
    "half_width": (0.76, 0.055),  # of both lungs together, at the base
    "taper": (1.0, 0.08),  # width of the upper lungs against the lower
    "apex": (-0.77, 0.045),
    "apex_u": (0.34, 0.03),
    "diaphragm": (0.44, 0.085),  # top of the right dome: breathing in, and belly
    "dome_difference": (0.05, 0.04),  # the left dome lies lower
    "dome_height": (0.17, 0.045),  # of the dome above the costophrenic angle
    "mediastinum": (0.125, 0.022),
    "aorta": (0.055, 0.025),  # how far the aortic arch stands out
    "heart_ratio": (0.46, 0.06),  # heart's width to the thorax's
    "heart_angle": (0.55, 0.12),
    "heart_shape": (0.76, 0.06),  # short axis to long axis
    "heart_shift": (0.11, 0.035),  # of its centre to the patient's left
    "clavicle_medial": (-0.57, 0.06),
    "clavicle_rise": (0.15, 0.09),  # of the lateral end above the medial one
    "clavicle_bend": (0.055, 0.028),  # of its S
    "clavicle_thickness": (0.040, 0.006),  # half
    "rib_spacing": (0.142, 0.012),
    "rib_tilt": (0.46, 0.08),
    "rib_thickness": (0.030, 0.004),
    "body_margin": (0.17, 0.06),  # chest wall beside the lungs
    "turn": (0.0, 0.035),  # about the body's long axis: shifts what lies in front against the spine
}


@dataclass
class Anatomy:
    """A patient's sizes, the two diaphragm domes' own offsets, and how far left and right differ.

    `Anatomy.draw(rng, variation)` takes every size from its mean by `variation` standard deviations times a
    normal number (cut at 2.2), so `variation=0` is one and the same patient.
    """

    size: dict[str, float]
    asymmetry: dict[str, np.ndarray]

    @classmethod
    def draw(cls, rng: np.random.Generator, variation: float = 1.0) -> Anatomy:
        spread = np.clip(rng.standard_normal(len(_SIZES)), -2.2, 2.2) * variation
        size = {name: mean + deviation * z for (name, (mean, deviation)), z in zip(_SIZES.items(), spread, strict=True)}
        names = ("clavicle", "rise", "apex", "width")
        deviations = np.array([0.028, 0.05, 0.018, 0.02])[:, None]
        asymmetry = dict(zip(names, deviations * variation * rng.uniform(-1.5, 1.5, (4, 2)), strict=True))
        return cls(size, asymmetry)

    def own(self, name: str, side: str) -> float:
        """How far this side is from the mean of both sides."""
        return float(self.asymmetry[name][0 if side == "right" else 1])

    def dome_top(self, side: str) -> float:
        return self.size["diaphragm"] + (self.size["dome_difference"] if side == "left" else 0.0)

    def wall(self, side: str) -> np.ndarray:
        """The inside of the chest wall from the apex down to the costophrenic angle, u > 0 outward."""
        size = self.size
        width = size["half_width"] + self.own("width", side)
        apex = size["apex"] + self.own("apex", side)
        bottom = self.dome_top(side) + size["dome_height"]
        share = np.array([0.0, 0.06, 0.2, 0.42, 0.66, 0.87, 1.0])
        upper = np.clip(1.0 + (size["taper"] - 1.0) * (1.0 - share), 0.7, 1.3)
        reach = np.array([0.43, 0.66, 0.825, 0.93, 0.985, 1.0, 0.975]) * width * upper
        reach[0] = size["apex_u"] * width / 0.76
        return np.stack([reach, apex + share * (bottom - apex)], axis=1)

    def hemithorax(self, side: str) -> np.ndarray:
        """Outline of one pleural cavity, from the midline to the chest wall and down to the diaphragm."""
        wall = self.wall(side)
        apex_u, apex = wall[0]
        outer = smooth_curve(
            [(0.05, apex + 0.34), (0.09, apex + 0.16), (apex_u - 0.15, apex + 0.03), *wall], samples=120
        )
        return mirrored(np.vstack([outer, self.floor(side)]), side)

    def floor(self, side: str) -> np.ndarray:
        """The dome of the diaphragm from the costophrenic angle to the midline, u > 0 outward."""
        corner_u, corner = self.wall(side)[-1]
        top = self.dome_top(side)
        return smooth_curve(
            [
                (corner_u, corner),
                (0.80 * corner_u, top + 0.34 * (corner - top)),
                (0.52 * corner_u, top),
                (0.25 * corner_u, top + 0.03),
                (0.03, top + 0.10),
            ],
            samples=60,
        )

    def heart(self) -> np.ndarray:
        """An egg that leans to the patient's left and rests on the diaphragm."""
        size = self.size
        half = size["heart_ratio"] * size["half_width"]
        long_axis = half / np.sqrt(
            np.cos(size["heart_angle"]) ** 2 + (size["heart_shape"] * np.sin(size["heart_angle"])) ** 2
        )
        short_axis = long_axis * size["heart_shape"]
        turn = np.linspace(0.0, 2.0 * np.pi, 90, endpoint=False)
        radius = 1.0 + 0.06 * np.cos(3.0 * turn + 0.4) + 0.03 * np.cos(2.0 * turn)
        egg = np.stack([long_axis * radius * np.cos(turn), short_axis * radius * np.sin(turn)], axis=1)
        cosine, sine = np.cos(size["heart_angle"]), np.sin(size["heart_angle"])
        egg = egg @ np.array([[cosine, sine], [-sine, cosine]])
        bottom = self.dome_top("left") + 0.07
        return egg + np.array([size["heart_shift"] + size["turn"], bottom - egg[:, 1].max()])

    def mediastinum(self) -> np.ndarray:
        """Great vessels and spine between the lungs, with the aortic arch on the image's right."""
        width, knob, turn = self.size["mediastinum"], self.size["aorta"], self.size["turn"]
        top, bottom = -1.3, 1.2
        arch = self.size["apex"] + 0.44
        left = [(0.8, top), (0.9, arch - 0.25), (0.98 + knob / width, arch), (1.05, arch + 0.16)]
        left += [(1.30, arch + 0.28), (1.75, arch + 0.46), (1.5, arch + 0.62)]
        right = [(0.75, top), (0.85, arch - 0.25), (1.02, arch), (1.0, arch + 0.2), (1.25, arch + 0.42)]
        left = smooth_curve([(u * width, v) for u, v in left] + [(0.85 * width, 0.62), (0.8 * width, bottom)])
        right = smooth_curve([(-u * width, v) for u, v in right] + [(-0.85 * width, 0.5), (-0.8 * width, bottom)])
        return np.vstack([left, right[::-1]]) + np.array([0.4 * turn, 0.0])

    def body(self) -> np.ndarray:
        """Outline of neck, shoulders and trunk; it leaves the frame at the top, the bottom and the arms."""
        size = self.size
        chest = size["half_width"] + size["body_margin"]
        shoulder = size["clavicle_medial"] - 0.22
        half = [(0.26, -2.0), (0.25, shoulder - 0.25), (0.34, shoulder - 0.12), (0.75, shoulder + 0.0)]
        half += [(1.12, shoulder + 0.14), (1.32, shoulder + 0.45), (1.36, shoulder + 1.0)]
        arm = smooth_curve([*half, (1.30, shoulder + 1.1)], samples=80)
        pit = [(chest + 0.16, shoulder + 0.75), (chest + 0.04, shoulder + 0.80), (chest, 0.3)]
        side = np.vstack([arm, smooth_curve([*pit, (chest + 0.02, 1.0), (chest + 0.05, 2.0)], samples=40)])
        return np.vstack([side, (side * np.array([-1.0, 1.0]))[::-1]])


def mirrored(outline: np.ndarray, side: str) -> np.ndarray:
    """An outline with u > 0 outward, on its side of the image."""
    return outline * np.array([SIDES[side], 1.0])


def draw_pose(rng: np.random.Generator, variation: float, zoom: float, wander: float) -> Pose:
    """Position of the patient before the detector; `zoom` and `wander` are the site's."""
    rotation = np.deg2rad(3.0) * np.clip(rng.standard_normal(), -2.2, 2.2) * variation
    stretch = 1.0 + 0.04 * variation * np.clip(rng.standard_normal(2), -2, 2)
    shift = wander * variation * rng.uniform(-1.0, 1.0, 2)
    waves = np.column_stack([rng.uniform(-3.5, 3.5, (4, 2)), rng.uniform(0, 2 * np.pi, 4), np.zeros((4, 2))])
    waves[:, 3:] = 0.012 * variation * rng.standard_normal((4, 2))
    return Pose(float(rotation), (float(zoom * stretch[0]), float(zoom * stretch[1])), tuple(shift.tolist()), waves)
