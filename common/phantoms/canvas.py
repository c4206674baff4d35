"""Drawing of smooth outlines on a pixel grid: the same shape at every image size."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw
from scipy.interpolate import CubicSpline
from scipy.ndimage import distance_transform_edt


def smooth_curve(points, samples: int = 80, closed: bool = False) -> np.ndarray:
    """A cubic spline through `points` (n, 2), sampled evenly in chord length: (samples, 2)."""
    points = np.asarray(points, dtype=float)
    if closed:
        points = np.vstack([points, points[:1]])
    knots = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    spline = CubicSpline(knots, points, bc_type="periodic" if closed else "natural")
    return spline(np.linspace(0.0, knots[-1], samples))


def bends(joints: np.ndarray, samples: int = 6) -> np.ndarray:
    """Many short curves at once (quadratic Bezier): joints (n, 3, 2) to (n, samples, 2)."""
    t = np.linspace(0.0, 1.0, samples)[:, None]
    weights = np.concatenate([(1 - t) ** 2, 2 * t * (1 - t), t**2], axis=1)
    return weights @ joints


def ellipse(center, radii, angle: float = 0.0, samples: int = 72) -> np.ndarray:
    """The outline of an ellipse, `angle` in radians."""
    turn = np.linspace(0.0, 2.0 * np.pi, samples, endpoint=False)
    u, v = radii[0] * np.cos(turn), radii[1] * np.sin(turn)
    rotated = np.stack([u * np.cos(angle) - v * np.sin(angle), u * np.sin(angle) + v * np.cos(angle)], axis=1)
    return rotated + np.asarray(center)


def tube(curve: np.ndarray, half_width) -> np.ndarray:
    """The outline of a band of the given half width (a number, or one per point) around a curve."""
    tangent = np.gradient(curve, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-9
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
    offset = normal * np.broadcast_to(np.asarray(half_width, dtype=float), len(curve))[:, None]
    return np.vstack([curve + offset, (curve - offset)[::-1]])


@dataclass
class Pose:
    """How body coordinates (u to the image's right, v down, the frame is -1..1) lie on the image.

    An affine map (rotation in radians, scale, shift) after a smooth warp: displacements of a few sine waves
    `waves` (n, 5), each (frequency_u, frequency_v, phase, amplitude_u, amplitude_v).
    """

    rotation: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    shift: tuple[float, float] = (0.0, 0.0)
    waves: np.ndarray = field(default_factory=lambda: np.zeros((0, 5)))

    def __call__(self, points: np.ndarray) -> np.ndarray:
        points = np.asarray(points, dtype=float)
        warped = points.copy()
        for frequency_u, frequency_v, phase, amplitude_u, amplitude_v in self.waves:
            wave = np.sin(frequency_u * points[:, 0] + frequency_v * points[:, 1] + phase)
            warped += wave[:, None] * np.array([amplitude_u, amplitude_v])
        u, v = warped[:, 0] * self.scale[0], warped[:, 1] * self.scale[1]
        cosine, sine = np.cos(self.rotation), np.sin(self.rotation)
        return np.stack([u * cosine - v * sine + self.shift[0], u * sine + v * cosine + self.shift[1]], axis=1)


class Canvas:
    """A square grid of `size` pixels that shows body coordinates through a `Pose`.

    `reach` is the half width of what the grid covers: 1 is the image's frame, more leaves a margin around it.
    Shapes are drawn several times finer than the grid and averaged, so that edges are as soft as a pixel.
    """

    def __init__(self, size: int, pose: Pose, reach: float = 1.0):
        self.size, self.pose, self.reach = size, pose, reach
        self.fineness = 4 if size <= 256 else 2 if size <= 1024 else 1

    def pixels(self, points) -> np.ndarray:
        """Body coordinates (n, 2) to (column, row), in pixels of the grid."""
        return (self.pose(points) / self.reach + 1.0) * (self.size / 2.0)

    def cover(self, points) -> tuple[tuple[slice, slice], np.ndarray]:
        """The region (rows, columns) that an outline touches, and the covered share of each pixel in it."""
        outline = self.pixels(points)
        low = np.clip(np.floor(outline.min(axis=0)).astype(int) - 1, 0, self.size)
        high = np.clip(np.ceil(outline.max(axis=0)).astype(int) + 2, 0, self.size)
        region = (slice(low[1], high[1]), slice(low[0], high[0]))
        width, height = high - low
        if width <= 0 or height <= 0:
            return region, np.zeros((max(height, 0), max(width, 0)), np.float32)
        fine = Image.new("L", (int(width) * self.fineness, int(height) * self.fineness))
        # half a fine pixel: ImageDraw puts integer coordinates on pixel centres
        vertices = (outline - low) * self.fineness - 0.5
        ImageDraw.Draw(fine).polygon([tuple(vertex) for vertex in vertices.tolist()], fill=255)
        if self.fineness > 1:
            fine = fine.reduce(self.fineness)
        return region, np.asarray(fine, dtype=np.float32) / 255.0

    def add(self, target: np.ndarray, points, strength: float = 1.0) -> None:
        """Add `strength` inside an outline."""
        region, share = self.cover(points)
        target[region] += np.float32(strength) * share

    def fill(self, points) -> np.ndarray:
        """The covered share of every pixel of the grid."""
        full = np.zeros((self.size, self.size), np.float32)
        self.add(full, points)
        return full

    def strokes(self, curves, widths, strengths) -> np.ndarray:
        """Many thin lines in one layer, the thicker on top where they cross: body widths, strengths 0..1."""
        fine = Image.new("L", (self.size * self.fineness,) * 2)
        draw = ImageDraw.Draw(fine)
        unit = self.size * self.fineness / (2.0 * self.reach)
        points = self.pixels(np.concatenate(curves)) * self.fineness - 0.5
        points = np.split(points, np.cumsum([len(curve) for curve in curves])[:-1])
        for i in np.argsort(widths, kind="stable"):
            drawn = max(1.0, widths[i] * unit)
            # a line thinner than a fine pixel is drawn as one, paler by as much
            level = round(255 * min(1.0, strengths[i] * min(1.0, widths[i] * unit / drawn)))
            draw.line(list(map(tuple, points[i].tolist())), fill=level, width=round(drawn), joint="curve")
        if self.fineness > 1:
            fine = fine.reduce(self.fineness)
        return np.asarray(fine, dtype=np.float32) / 255.0


def resized(field_values: np.ndarray, size: int, keep: float = 1.0) -> np.ndarray:
    """The central share `keep` of a small smooth field, brought to `size` pixels."""
    side = field_values.shape[0]
    border = side * (1.0 - keep) / 2.0
    picture = Image.fromarray(np.ascontiguousarray(field_values, dtype=np.float32))
    box = (border, border, side - border, side - border)
    return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC, box=box), dtype=np.float32)


def depth(inside: np.ndarray, radius: float) -> np.ndarray:
    """Thickness along the ray of a rounded body, 0..1: a circle's profile over `radius` pixels."""
    distance = np.clip(distance_transform_edt(inside > 0.5) / radius, 0.0, 1.0)
    return np.sqrt(1.0 - (1.0 - distance) ** 2).astype(np.float32)


def cloud(rng: np.random.Generator, size: int, nodes: int, octaves: int = 1) -> np.ndarray:
    """Smooth random texture of unit variance: `nodes` values across the frame, halving in every octave."""
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        lattice = rng.standard_normal((nodes * 2**octave,) * 2)
        total += resized(lattice, size) * np.float32(0.5**octave)
    return total / np.float32(0.75 * np.sqrt(sum(0.25**octave for octave in range(octaves))))
