"""Where the slices of DICOM volumes lie: those of a series of files, and the frames of one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.data.decoders import high_is_bright
from common.data.files import DICOM_SUFFIXES, file_suffix, first_few, is_dicom

if TYPE_CHECKING:
    from pydicom import Dataset

UNEVEN = 0.1  # by how much distances between slices may differ from the usual one
HALF = 0.5  # of a pixel: by how much slices may lie beside where a box of voxels has them


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


def require_whole_series(folder: Path, files: list[str]) -> None:
    """Refuses a series that is no box of voxels, of which ITK makes one without a word, or is not whole.

    Slices must be parallel, at equal distances (to a tenth), one above the other along their normal and with pixels of
    one size (to half a pixel in all); files must have the pixels that their headers say, and all of the folder be read.

    Raises:
        ValueError: naming the folder and the file.
    """
    names = [Path(file).name for file in files]
    lost = sorted(path.name for path in folder.iterdir() if path.name not in {*names, "DICOMDIR"} and _says_dicom(path))
    if lost:
        raise ValueError(
            f"{folder} must hold whole DICOM files, got {first_few(lost)} that cannot be read: copy them again, "
            "or remove what is no image."
        )
    headers = [_read_slice(Path(file)) for file in files]
    if any("ImagePositionPatient" not in header or "ImageOrientationPatient" not in header for header in headers):
        raise ValueError(f"{folder} must hold slices with their position, got some without: export the series again.")
    orientations = np.array([header.ImageOrientationPatient for header in headers], float)
    positions = np.array([header.ImagePositionPatient for header in headers], float)
    sides = np.array([header.get("PixelSpacing", None) or [1, 1] for header in headers], float)
    extent = max(headers[0].Rows, headers[0].Columns)
    other = np.flatnonzero(np.abs(sides / sides[0] - 1).max(axis=1) * extent > HALF)
    if len(other):
        raise ValueError(
            f"{folder} must hold slices of one PixelSpacing, got {sides[0].tolist()} mm in {names[0]} and "
            f"{sides[other[0]].tolist()} mm in {names[other[0]]}: export the series again."
        )
    order = _sorted_places(folder, names, orientations, positions, sides.min())
    line, normal = positions[order[-1]] - positions[order[0]], _normal(orientations)
    tilt = np.linalg.norm(line - line @ normal * normal)
    if tilt > HALF * sides.min():
        raise ValueError(
            f"{folder} must hold slices one above the other, got {names[order[-1]]} {tilt:.2f} mm beside the normal of "
            f"{names[order[0]]}: the gantry was tilted. Make an upright volume of it first, as dcm2niix does."
        )


def _says_dicom(path: Path) -> bool:
    """By its name or content; the latter is gone where a file is empty."""
    return path.is_file() and (file_suffix(path) in (*DICOM_SUFFIXES, ".ima") or is_dicom(path))


def _read_slice(path: Path) -> Dataset:
    """The header of a file that has all its pixels."""
    import pydicom

    try:
        dataset = pydicom.dcmread(path)
        found, expected, syntax = len(dataset.PixelData), 1, dataset.file_meta.get("TransferSyntaxUID", None)
        if syntax is None or not syntax.is_compressed:
            values = dataset.Rows * dataset.Columns * int(dataset.get("SamplesPerPixel", 1))
            expected = (values * dataset.BitsAllocated + 7) // 8
    except Exception as error:  # pydicom raises a dozen types
        raise ValueError(f"{path} must be a DICOM file with pixels, got {error}: copy it again.") from error
    if found < expected:
        raise ValueError(f"{path} must have {expected} bytes of pixels, by its header, got {found}: copy it again.")
    del dataset.PixelData
    return dataset


def _normal(orientations: np.ndarray) -> np.ndarray:
    return np.cross(*orientations[0].reshape(2, 3))


def _sorted_places(
    source: Path, names: Sequence[str], orientations: np.ndarray, positions: np.ndarray, side: float
) -> np.ndarray:
    """The order of parallel slices at equal distances along a line, upwards along their normal."""
    if np.ptp(orientations, axis=0).max() > 1e-2:
        raise ValueError(f"{source} must hold parallel slices, got several orientations: is this a localizer?")
    normal = _normal(orientations)
    order = np.argsort(positions @ normal, kind="stable")
    steps = np.diff(positions[order], axis=0)
    if not len(steps):
        return order
    along = steps @ normal
    usual, beside = np.median(along), steps - np.outer(along, normal)
    moved = np.linalg.norm(beside - np.median(beside, axis=0), axis=1)
    uneven = (np.abs(along - usual) > UNEVEN * usual) | (along <= 0)
    wrong = np.flatnonzero(uneven | (moved > max(HALF * side, UNEVEN * usual)))
    if len(wrong):
        index = wrong[0]
        far, aside = f"{along[index]:.2f} mm instead of {usual:.2f} mm", f"a step of {moved[index]:.2f} mm aside"
        raise ValueError(
            f"{source} must hold slices at equal distances, got {far if uneven[index] else aside} between slices "
            f"{index + 1} and {index + 2} of {len(order)} ({names[order[index]]}, {names[order[index + 1]]}): a slice "
            "is missing, there twice, or has moved."
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
        names = [f"frame {index + 1}" for index in range(frames)]
        order = _sorted_places(path, names, orientations, positions, sides.min())
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
