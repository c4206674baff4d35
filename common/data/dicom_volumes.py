"""Where the slices of DICOM volumes lie: those of a series of files, and the frames of one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.data.decoders import high_is_bright
from common.data.files import is_dicom

if TYPE_CHECKING:
    from pydicom import Dataset

UNEVEN = 0.1  # by how much distances between slices may differ from the usual one


def frames_of(path: str | Path) -> int:
    """How many frames a DICOM file says it has; 0 for a file that is no DICOM or cannot be read."""
    try:
        if not is_dicom(path):
            return 0
        import pydicom  # it takes a while, and most files are others

        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["NumberOfFrames"])
        return int(header.get("NumberOfFrames", None) or 1)
    except Exception:  # pydicom raises a dozen types; what is wrong is said when the file is read
        return 0


def read_frames(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The frames of one file as a volume ``X Y Z``, sorted by their place, and its affine to millimetres in RAS+.

    The sides of pixels, the place and direction of each frame, and what values mean, are looked up among a frame's own
    attributes, then among those that all frames share, then among the file's.

    Raises:
        ValueError: naming the file: it cannot be read, colours, frames whose place is not said, that are not parallel
            or not at equal distances.
    """
    import pydicom

    try:
        dataset = pydicom.dcmread(path)
        pixels = dataset.pixel_array
    except Exception as error:  # pydicom and its decoders raise a dozen types
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(
            f"{path} must be a DICOM file whose frames can be decoded, got {reason}: copy it again, or export it "
            "without compression."
        ) from error
    if pixels.ndim != 3 or int(dataset.get("SamplesPerPixel", 1)) != 1:
        raise ValueError(f"{path} must hold grey frames, got an array of {pixels.shape}: export it in grey.")
    pixels = high_is_bright(dataset, pixels.astype(np.float64))
    for index, frame in enumerate(pixels):
        slope, intercept = (_attribute(dataset, index, f"Rescale{name}") for name in ("Slope", "Intercept"))
        frame *= float(1 if slope is None else slope)
        frame += float(0 if intercept is None else intercept)
    axes, order = _axes(path, dataset, len(pixels))
    return pixels[order].transpose(2, 1, 0), axes


def require_no_gap(folder: Path, files: list[str]) -> None:
    """Refuses a series of several orientations, or in which distances between slices differ by more than a tenth."""
    import pydicom

    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    if any("ImagePositionPatient" not in header or "ImageOrientationPatient" not in header for header in headers):
        raise ValueError(f"{folder} must hold slices with their position, got some without: export the series again.")
    orientations = np.array([header.ImageOrientationPatient for header in headers], float)
    positions = np.array([header.ImagePositionPatient for header in headers], float)
    _sorted_places(folder, orientations, positions)


def _sorted_places(source: Path, orientations: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The order of parallel slices at equal distances, upwards along their normal."""
    if np.ptp(orientations, axis=0).max() > 1e-2:
        raise ValueError(f"{source} must hold parallel slices, got several orientations: is this a localizer?")
    row, column = orientations[0].reshape(2, 3)
    places = positions @ np.cross(row, column)
    order = np.argsort(places, kind="stable")
    steps = np.diff(places[order])
    usual = np.median(steps) if len(steps) > 1 else 0
    wrong = np.flatnonzero(np.abs(steps - usual) > UNEVEN * usual) if len(steps) > 1 else []
    if len(wrong):
        raise ValueError(
            f"{source} must hold slices at equal distances, got {steps[wrong[0]]:.2f} mm instead of {usual:.2f} mm "
            f"between slices {wrong[0] + 1} and {wrong[0] + 2} of {len(places)}: a slice is missing or there twice."
        )
    return order


def _axes(path: Path, dataset: Dataset, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """The affine in RAS+, and the order in which the frames lie."""
    sides = _of_all(path, dataset, frames, "PixelSpacing")
    if sides is None or np.ptp(sides, axis=0).max() > 1e-6 or not (sides > 0).all():
        found = "none" if sides is None else f"{sides.min():g} to {sides.max():g} mm"
        raise ValueError(
            f"{path} must say how large its pixels are, as one PixelSpacing above 0, got {found}: export it with its "
            "geometry, or make a NIfTI or MHD file of it."
        )
    orientations = _of_all(path, dataset, frames, "ImageOrientationPatient")
    positions = _of_all(path, dataset, frames, "ImagePositionPatient")
    between = _attribute(dataset, 0, "SpacingBetweenSlices")
    placed = orientations is not None and positions is not None and np.ptp(positions, axis=0).max() > 0
    if not placed and not (between is not None and float(between) > 0):
        raise ValueError(
            f"{path} must say how far apart its frames are, by the position and orientation of each or "
            "SpacingBetweenSlices, got neither: export it with its geometry, or make a NIfTI or MHD file of it."
        )
    row, column = np.eye(3)[:2] if orientations is None else orientations[0].reshape(2, 3)
    order, first, step = np.arange(frames), np.zeros(3), np.cross(row, column) * float(between or 0)
    if placed:
        order = _sorted_places(path, orientations, positions)
        first = positions[order[0]]
        step = (positions[order[-1]] - first) / (frames - 1)
    affine = np.eye(4)
    affine[:3] = np.stack([row * sides[0, 1], column * sides[0, 0], step, first], axis=1)
    affine[:2] *= -1  # DICOM's axes are LPS
    return affine, order


def _of_all(path: Path, dataset: Dataset, frames: int, name: str) -> np.ndarray | None:
    """An attribute of all frames, one row for each; None where a frame has none."""
    values = [_attribute(dataset, index, name) for index in range(frames)]
    return None if any(value is None for value in values) else np.array(values, dtype=float)


# the sequence in which a functional group holds an attribute
_GROUPS = {
    "PixelSpacing": "PixelMeasuresSequence",
    "SpacingBetweenSlices": "PixelMeasuresSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "ImagePositionPatient": "PlanePositionSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
}


def _attribute(dataset: Dataset, index: int, name: str) -> Any:
    """An attribute of a frame, or None."""
    own, shared = dataset.get("PerFrameFunctionalGroupsSequence", []), dataset.get("SharedFunctionalGroupsSequence", [])
    for group in [*own[index : index + 1], *shared[:1]]:
        for item in group.get(_GROUPS[name], []):
            if item.get(name, None) is not None:
                return item.get(name)
    return dataset.get(name, None)
