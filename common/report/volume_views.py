"""Slices of volumes with masks over them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
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

from common.data.files import NIFTI_SUFFIXES, file_suffix
from common.data.volumes import read_file

from .style import encode

# Of Okabe and Ito's colour-blind-safe palette, three that differ from each other and from grey.
OUTCOME_COLORS = {"true positive": "#56B4E9", "false positive": "#F0E442", "false negative": "#D55E00"}
PLAIN_COLOR = "#CC79A7"
PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}
EDGES = {"axial": ("R", "L"), "coronal": ("R", "L"), "sagittal": ("A", "P")}
FILL = 0.36
INSIDE = 0.5  # of a mask, or of a probability
PANEL_PIXELS = 460
Overlay = tuple[np.ndarray, str, bool]  # a mask, its colour, and whether it is filled or but a dashed outline
SCALE_BARS = (50, 20, 10, 5, 2, 1)


@dataclass(frozen=True)
class Volume:
    """A volume on one grid, axes towards right, anterior and superior (RAS).

    Shapes: image (X, Y, Z); truth and predictions (C, X, Y, Z), booleans; spacing is the voxel's size in mm.
    """

    image: np.ndarray
    truth: np.ndarray | None
    predictions: dict[str, np.ndarray]
    spacing: tuple[float, float, float]

    @cached_property
    def marked(self) -> np.ndarray:
        """Voxels that truth or any prediction gives to a class."""
        masks = [*self.predictions.values()] + ([] if self.truth is None else [self.truth])
        return np.logical_or.reduce([mask.any(0) for mask in masks])

    @cached_property
    def box(self) -> tuple[slice, slice, slice]:
        """The part that holds the body and every mask."""
        low, high = self.window
        inside = (self.image > low + 0.1 * (high - low)) & (self.image != 0) | self.marked
        box = []
        for axis in range(3):
            (found,) = np.nonzero(inside.any(axis=tuple(other for other in range(3) if other != axis)))
            box.append(slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, inside.shape[axis]))
        return tuple(box)

    @cached_property
    def window(self) -> tuple[float, float]:
        """Intensities drawn black and white: bright spots are to keep their texture."""
        if (self.image < 0).any():  # normalised to mean 0 in the body: 0 is outside, not black
            low, high = np.quantile(self.image[self.image != 0], (0.005, 0.998))
            return float(low), float(low + 1.1 * (high - low))
        shown = self.image[self.image > 0]
        if not shown.size:
            return 0.0, 1.0
        brightest = 1.1 * float(np.quantile(shown, 0.998))
        # Without bright spots the tissue itself is the brightest: grey all the same, so that a bright spot would show.
        tissue = float(np.median(shown[shown > brightest / 2]))
        return 0.0, max(brightest, 1.4 * tissue)

    def busiest(self, plane: str) -> int:
        """The slice with the most marked voxels; the middle of the body where there are none."""
        axis = PLANES[plane]
        counts = self.marked.sum(axis=tuple(other for other in range(3) if other != axis))
        return int(counts.argmax()) if counts.any() else (self.box[axis].start + self.box[axis].stop) // 2


def load_volume(image: Path, truth: Sequence[Path], predictions: dict[str, Path], classes: int = 1) -> Volume:
    """Bring image, truth and predictions to the grid of the first prediction, turned to RAS.

    Intensities are interpolated linearly, masks take the nearest voxel. The masks of several classes are a file for
    each, the channels of a 4D volume, or a label map in which class j has the value j + 1.

    Raises:
        FileNotFoundError: if a file is not there.
        ValueError: if a file cannot be read as a volume.
    """
    loaded = {name: _load_masks([path], classes) for name, path in predictions.items()}
    grid = next(iter(loaded.values()))[0]

    def stack(masks: list[nibabel.Nifti1Image]) -> np.ndarray:
        return np.stack([_on_grid(mask, grid, 0) > 0 for mask in masks])

    return Volume(
        _on_grid(nibabel.as_closest_canonical(_load(image)), grid, 1).astype(np.float32),
        stack(_load_masks(truth, classes)) if truth else None,
        {name: stack(masks) for name, masks in loaded.items()},
        tuple(float(size) for size in grid.header.get_zooms()[:3]),
    )


def overlays(truth: np.ndarray | None, prediction: np.ndarray, colors: Sequence[str]) -> list[Overlay]:
    """True positives, false positives and false negatives of a single class; the prediction alone without truth.

    Of several classes, each in its colour: the prediction filled, the truth as a dashed outline.
    """
    if len(prediction) > 1:
        filled = [(mask, color, True) for mask, color in zip(prediction, colors, strict=True)]
        return filled + [
            (mask, color, False) for mask, color in zip(() if truth is None else truth, colors, strict=False)
        ]
    if truth is None:
        return [(prediction[0], PLAIN_COLOR, True)]
    masks = (truth & prediction, ~truth & prediction, truth & ~prediction)
    return [(mask[0], color, True) for mask, color in zip(masks, OUTCOME_COLORS.values(), strict=True)]


def draw_slice(volume: Volume, plane: str, index: int, masks: Sequence[Overlay] = ()) -> str:
    """A slice with masks over it, in radiological convention: the patient's right is on the left.

    The picture is a square of the body's longest side, voxels in their true proportions.
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
    for mask, color, filled in masks:
        _draw_mask(axes, _radiological(mask[region]), color, filled, extent)
    _annotate(axes, plane, side)
    axes.set(xlim=(-0.52 * side, 0.52 * side), ylim=(-0.52 * side, 0.52 * side))
    return encode(figure, dpi=100)


def _radiological(plane: np.ndarray) -> np.ndarray:
    """A plane of RAS axes (across, up) as rows and columns: up is up, and the first axis runs leftwards."""
    return plane.T[::-1, ::-1]


def _draw_mask(axes: Axes, mask: np.ndarray, color: str, filled: bool, extent: tuple[float, ...]) -> None:
    if not mask.any():
        return
    left, right, bottom, top = extent
    if filled:
        fill = np.zeros((*mask.shape, 4))
        fill[mask] = to_rgba(color, FILL)
        axes.imshow(fill, extent=extent, interpolation="nearest", aspect="auto")
    height, width = mask.shape
    columns = left + (np.arange(-1, width + 1) + 0.5) * (right - left) / width
    rows = top - (np.arange(-1, height + 1) + 0.5) * (top - bottom) / height
    # A border of zeros closes the outline of a mask that touches the edge.
    look = {"colors": [color], "linewidths": 1.1, "linestyles": "solid" if filled else "dashed"}
    axes.contour(columns, rows, np.pad(mask.astype(float), 1), levels=[0.5], **look)


def _annotate(axes: Axes, plane: str, side: float) -> None:
    text = {"color": "white", "fontsize": 11, "transform": axes.transAxes, "va": "center"}
    axes.text(0.02, 0.5, EDGES[plane][0], ha="left", **text)
    axes.text(0.98, 0.5, EDGES[plane][1], ha="right", **text)
    length = next((bar for bar in SCALE_BARS if bar <= side / 3), 1)
    end = 0.48 * side
    axes.plot([end - length, end], [-end, -end], color="white", linewidth=2, solid_capstyle="butt")
    axes.text(end - length / 2, -end + 0.012 * side, f"{length} mm", color="white", fontsize=9, ha="center")


def _load_masks(paths: Sequence[Path], classes: int) -> list[nibabel.Nifti1Image]:
    """A mask for each class, turned to RAS."""
    images = [_load(path, axes=(3, 4) if len(paths) == 1 < classes else (3,)) for path in paths]
    values = np.asanyarray(images[0].dataobj)
    if len(paths) > 1:
        masks = [(np.asanyarray(image.dataobj) > INSIDE, image) for image in images]
    elif classes == 1:
        masks = [(values > INSIDE, images[0])]
    elif values.ndim == 4:
        first = values.shape[3] - classes == 1  # the softmax's background
        masks = [(values[..., j] > INSIDE, images[0]) for j in range(first, values.shape[3])]
    else:
        masks = [(values == j + 1, images[0]) for j in range(classes)]
    if len(masks) != classes:
        found = " and ".join(str(path) for path in paths)
        raise ValueError(f"{found} must hold the masks of {classes} classes, got {len(masks)}: evaluate the run again")
    return [
        nibabel.as_closest_canonical(nibabel.Nifti1Image(mask.astype(np.uint8), image.affine)) for mask, image in masks
    ]


def _load(path: Path, axes: Sequence[int] = (3,)) -> nibabel.Nifti1Image:
    """A volume with so many axes."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be a volume, got no such file")
    try:
        if file_suffix(path) not in NIFTI_SUFFIXES:
            image = nibabel.Nifti1Image(*read_file(path))
        else:
            image = nibabel.squeeze_image(nibabel.load(path))
            np.asanyarray(image.dataobj)
    except (ImageFileError, OSError, EOFError, ValueError, zlib.error) as error:
        raise ValueError(f"{path} must be a readable volume, got {error}") from error
    if image.ndim in axes:
        return image
    raise ValueError(f"{path} must be a volume with three axes, got the shape {image.shape}")


def _on_grid(image: nibabel.Nifti1Image, grid: nibabel.Nifti1Image, order: int) -> np.ndarray:
    if image.shape != grid.shape or not np.allclose(image.affine, grid.affine, atol=1e-3):
        values = np.asanyarray(image.dataobj, dtype=np.float32)
        image = resample_from_to(nibabel.Nifti1Image(values, image.affine), grid, order=order)
    # Some tools write NaN outside the body: black.
    return np.nan_to_num(np.asanyarray(image.dataobj), nan=0.0, posinf=0.0, neginf=0.0)
