"""Slices of FLAIR volumes with lesions over them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nibabel
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from nibabel.filebasedimages import ImageFileError
from nibabel.processing import resample_from_to

from .style import encode

# Of Okabe and Ito's colour-blind-safe palette, three that differ from each other and from grey.
OUTCOME_COLORS = {"true positive": "#56B4E9", "false positive": "#F0E442", "false negative": "#D55E00"}
PLAIN_COLOR = "#CC79A7"
PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}
EDGES = {"axial": ("R", "L"), "coronal": ("R", "L"), "sagittal": ("A", "P")}
FILL = 0.36
PANEL_PIXELS = 460
SCALE_BARS = (50, 20, 10, 5, 2, 1)


@dataclass(frozen=True)
class Volume:
    """A volume on one grid, axes towards right, anterior and superior (RAS).

    Shapes: image (X, Y, Z); truth and predictions the same, booleans; spacing is the voxel's size in mm.
    """

    image: np.ndarray
    truth: np.ndarray | None
    predictions: dict[str, np.ndarray]
    spacing: tuple[float, float, float]

    @cached_property
    def lesions(self) -> np.ndarray:
        """Voxels that truth or any prediction calls lesion."""
        masks = [*self.predictions.values()] + ([] if self.truth is None else [self.truth])
        return np.logical_or.reduce(masks)

    @cached_property
    def box(self) -> tuple[slice, slice, slice]:
        """The part that holds the head and every lesion."""
        low, high = self.window
        inside = (self.image > low + 0.1 * (high - low)) & (self.image != 0) | self.lesions
        box = []
        for axis in range(3):
            (found,) = np.nonzero(inside.any(axis=tuple(other for other in range(3) if other != axis)))
            box.append(slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, inside.shape[axis]))
        return tuple(box)

    @cached_property
    def window(self) -> tuple[float, float]:
        """Intensities drawn black and white: bright lesions are to keep their texture."""
        if (self.image < 0).any():  # normalised to mean 0 in the brain: 0 is outside, not black
            low, high = np.quantile(self.image[self.image != 0], (0.005, 0.998))
            return float(low), float(low + 1.1 * (high - low))
        shown = self.image[self.image > 0]
        if not shown.size:
            return 0.0, 1.0
        brightest = 1.1 * float(np.quantile(shown, 0.998))
        # Without bright lesions the brain itself is the brightest: grey all the same, so that a lesion would show.
        tissue = float(np.median(shown[shown > brightest / 2]))
        return 0.0, max(brightest, 1.4 * tissue)

    def busiest(self, plane: str) -> int:
        """The slice with the most lesion voxels; the middle of the head where there are none."""
        axis = PLANES[plane]
        counts = self.lesions.sum(axis=tuple(other for other in range(3) if other != axis))
        return int(counts.argmax()) if counts.any() else (self.box[axis].start + self.box[axis].stop) // 2


def load_volume(image: Path, truth: Path | None, predictions: dict[str, Path]) -> Volume:
    """Bring image, truth and predictions to the grid of the first prediction, turned to RAS.

    Intensities are interpolated linearly, masks take the nearest voxel.

    Raises:
        FileNotFoundError: if a file is not there.
        ValueError: if a file cannot be read as a volume.
    """
    loaded = {name: _load(path) for name, path in predictions.items()}
    grid = next(iter(loaded.values()))
    return Volume(
        _on_grid(_load(image), grid, 1).astype(np.float32),
        None if truth is None else _on_grid(_load(truth), grid, 0) > 0,
        {name: _on_grid(mask, grid, 0) > 0 for name, mask in loaded.items()},
        tuple(float(size) for size in grid.header.get_zooms()[:3]),
    )


def outcomes(truth: np.ndarray | None, prediction: np.ndarray) -> list[tuple[np.ndarray, str]]:
    """Masks of true positives, false positives and false negatives with their colours; the prediction without truth."""
    if truth is None:
        return [(prediction, PLAIN_COLOR)]
    masks = (truth & prediction, prediction & ~truth, truth & ~prediction)
    return list(zip(masks, OUTCOME_COLORS.values(), strict=True))


def draw_slice(volume: Volume, plane: str, index: int, masks: list[tuple[np.ndarray, str]] = ()) -> str:
    """One slice as radiologists look at it: anterior or superior up, the patient's right (or face) on the left.

    All planes are drawn to one scale in a square of the head's longest side, voxels in their true proportions.
    """
    axis = PLANES[plane]
    across, up = (other for other in range(3) if other != axis)
    region = tuple(index if a == axis else volume.box[a] for a in range(3))
    picture = _radiological(volume.image[region])
    width, height = picture.shape[1] * volume.spacing[across], picture.shape[0] * volume.spacing[up]
    extent = (-width / 2, width / 2, -height / 2, height / 2)
    side = max((part.stop - part.start) * size for part, size in zip(volume.box, volume.spacing, strict=True))

    figure = Figure(figsize=(PANEL_PIXELS / 100, PANEL_PIXELS / 100), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1), facecolor="black")
    axes.spines[:].set_visible(False)
    axes.set(xticks=[], yticks=[])
    low, high = volume.window
    axes.imshow(picture, cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="bilinear", aspect="auto")
    for mask, color in masks:
        _draw_mask(axes, _radiological(mask[region]), color, extent)
    _annotate(axes, plane, side)
    axes.set(xlim=(-0.52 * side, 0.52 * side), ylim=(-0.52 * side, 0.52 * side))
    return encode(figure, dpi=100)


def _radiological(plane: np.ndarray) -> np.ndarray:
    """A plane of RAS axes (across, up) as rows and columns: up is up, and the first axis runs leftwards."""
    return plane.T[::-1, ::-1]


def _draw_mask(axes: Axes, mask: np.ndarray, color: str, extent: tuple[float, float, float, float]) -> None:
    if not mask.any():
        return
    left, right, bottom, top = extent
    fill = np.zeros((*mask.shape, 4))
    fill[mask] = to_rgba(color, FILL)
    axes.imshow(fill, extent=extent, interpolation="nearest", aspect="auto")
    height, width = mask.shape
    columns = left + (np.arange(-1, width + 1) + 0.5) * (right - left) / width
    rows = top - (np.arange(-1, height + 1) + 0.5) * (top - bottom) / height
    # A border of zeros closes the outline of a mask that touches the edge.
    axes.contour(columns, rows, np.pad(mask.astype(float), 1), levels=[0.5], colors=[color], linewidths=1.1)


def _annotate(axes: Axes, plane: str, side: float) -> None:
    text = {"color": "white", "fontsize": 11, "transform": axes.transAxes, "va": "center"}
    axes.text(0.02, 0.5, EDGES[plane][0], ha="left", **text)
    axes.text(0.98, 0.5, EDGES[plane][1], ha="right", **text)
    length = next((bar for bar in SCALE_BARS if bar <= side / 3), 1)
    end = 0.48 * side
    axes.plot([end - length, end], [-end, -end], color="white", linewidth=2, solid_capstyle="butt")
    axes.text(end - length / 2, -end + 0.012 * side, f"{length} mm", color="white", fontsize=9, ha="center")


def _load(path: Path) -> nibabel.Nifti1Image:
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be a NIfTI volume, got no such file")
    try:
        image = nibabel.squeeze_image(nibabel.load(path))
        if image.ndim == 3:
            np.asanyarray(image.dataobj)
            return nibabel.as_closest_canonical(image)
    except (ImageFileError, OSError, EOFError, ValueError, zlib.error) as error:
        raise ValueError(f"{path} must be a readable NIfTI volume, got {error}") from error
    raise ValueError(f"{path} must be a volume with three axes, got the shape {image.shape}")


def _on_grid(image: nibabel.Nifti1Image, grid: nibabel.Nifti1Image, order: int) -> np.ndarray:
    if image.shape != grid.shape or not np.allclose(image.affine, grid.affine, atol=1e-3):
        values = np.asanyarray(image.dataobj, dtype=np.float32)
        image = resample_from_to(nibabel.Nifti1Image(values, image.affine), grid, order=order)
    # Some tools write NaN outside the brain: black.
    return np.nan_to_num(np.asanyarray(image.dataobj), nan=0.0, posinf=0.0, neginf=0.0)
