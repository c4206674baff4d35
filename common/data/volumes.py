"""Reads 3D images and their masks: NIfTI files, DICOM series and whatever else ITK knows, with their affine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from common.data.decoders import load_nifti
from common.data.dicom_volumes import frames_of, read_frames, require_whole_series
from common.data.files import ITK_SUFFIXES, NIFTI_SUFFIXES, file_suffix, times
from common.data.itk_files import imread, itk_header, read_itk
from common.files import replacing

# How far apart two affines may put a corner, as a share of a voxel: what is lost by rounding them in a header.
SAME_PLACE = 0.1
# A mask's values may miss a whole number by what its header's scaling loses.
WHOLE = 1e-3


def read_volume(path: str | Path) -> nibabel.Nifti1Image:
    """A 3D image as float32 with its affine to millimetres in RAS+, whatever file it is from.

    Args:
        path: a NIfTI file, a folder with one DICOM series, a DICOM file of several frames, or another file that ITK
            reads (MHD, MHA, NRRD).

    Raises:
        FileNotFoundError: when there is nothing.
        ValueError: naming the file: unreadable, not 3D, NaN or infinite values, a constant image, a folder with
            several DICOM series or with a missing slice, a header that does not fit its data.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} must be a 3D image, got no such file or folder: check the path.")
    values, affine = _read_series(path) if path.is_dir() else read_file(path)
    if values.ndim != 3 or min(values.shape) < 2:
        raise ValueError(
            f"{path} must be one 3D volume, got an array of {times(values.shape)}: give one time point "
            "or one channel, as a file of its own."
        )
    if not np.isfinite(values).all():
        raise ValueError(
            f"{path} must hold finite numbers, got NaN or infinity in {(~np.isfinite(values)).sum()} of its voxels: "
            f"export it again, or set these voxels."
        )
    if values.min() == values.max():
        raise ValueError(f"{path} must show something, got the value {values.min():g} everywhere: leave it out.")
    return nibabel.Nifti1Image(values.astype(np.float32), affine)


def is_volume(path: str | Path) -> bool | None:
    """Whether a file is 3D by its header, or a folder (of a DICOM series); None where it cannot be read."""
    path = Path(path)
    try:
        if path.is_dir():
            return True
        if file_suffix(path) in NIFTI_SUFFIXES:
            shape = nibabel.load(path).shape
        elif file_suffix(path) in ITK_SUFFIXES:
            header = itk_header(path)
            shape = [header.GetDimensions(axis) for axis in range(header.GetNumberOfDimensions())]
        else:
            return frames_of(path) > 1 if path.is_file() else None
    except Exception:  # nibabel and ITK raise a dozen types; what is wrong is said when the file is read
        return None
    return len(shape) >= 3 and min(shape[:3]) > 1


def read_volume_mask(path: str | Path, like: nibabel.Nifti1Image | None = None) -> nibabel.Nifti1Image:
    """The mask of one class as bytes, 1 where the file's value is above 0; a mask without any is legal.

    Args:
        path: a NIfTI file, or another that ITK reads.
        like: the image that it belongs to, whose voxel grid it must have.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: naming the file: unreadable, not 3D, values that are no mask's, or a voxel grid that is not the
            image's.
    """
    labels = read_volume_labels(path, None, like)
    values = np.asanyarray(labels.dataobj)
    inside = np.unique(values[values > 0])
    if len(inside) > 1:
        raise ValueError(
            f"{path} must be the mask of one class, got the values {', '.join(f'{value:g}' for value in inside[:5])} "
            "in it: give each class a file of its own, or set all of the class to 1."
        )
    return nibabel.Nifti1Image((values > 0).astype(np.uint8), labels.affine)


def read_volume_labels(
    path: str | Path, classes: int | None = None, like: nibabel.Nifti1Image | None = None
) -> nibabel.Nifti1Image:
    """A label map as bytes, 0 for the background and j for class j.

    Args:
        path: a NIfTI file, or another that ITK reads.
        classes: the number of classes, which no value may be above; not looked at where not given.
        like: the image that it belongs to, whose voxel grid it must have.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: naming the file: unreadable, not 3D, values that are no classes, or a voxel grid that is not the
            image's.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be a mask, got no such file: check the datalist's paths.")
    values, affine = read_file(path)
    if values.ndim != 3:
        shape = times(values.shape)
        raise ValueError(f"{path} must be one 3D mask, got an array of {shape}: give each mask as a file of its own.")
    found = np.unique(values)
    if (
        not np.isfinite(found).all()
        or found.min() < 0
        or len(found) > 256
        or (abs(found - found.round()) > WHOLE).any()
    ):
        raise ValueError(
            f"{path} must be a mask (0 outside, above 0 inside), got values from {found[0]:g} to {found[-1]:g}, not "
            "all of them whole numbers: is this the image?"
        )
    if classes is not None and found[-1].round() > classes:
        raise ValueError(
            f"{path} must be a label map of {classes} classes, with values 0 to {classes}, got {found[-1]:g} in it: "
            "declare the classes, or renumber the values."
        )
    # values that miss a whole number above 0 by little are that number; those that miss 0 are outside
    whole = values.round()
    labels = nibabel.Nifti1Image(whole.astype(np.uint8 if found[-1] < 256 else np.int32), affine)
    if like is not None:
        require_same_grid(labels, like, str(path))
    return labels


def require_same_grid(mask: nibabel.Nifti1Image, image: nibabel.Nifti1Image, name: str) -> None:
    """Refuses a mask of another shape than the image's, or whose affine puts a corner elsewhere.

    Raises:
        ValueError: naming the mask.
    """
    if mask.shape != image.shape:
        raise ValueError(
            f"{name} must have the shape of its image, got {mask.shape} and {image.shape}: resample the mask to the "
            f"image, nearest neighbour."
        )
    corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * [*image.shape, 1]
    apart = np.linalg.norm(corners @ (mask.affine - image.affine).T, axis=1).max()
    voxel = np.linalg.norm(image.affine[:3, :3], axis=0).min()
    if apart > SAME_PLACE * voxel:
        raise ValueError(
            f"{name} must have the affine of its image, got one that puts a corner {apart:.2g} mm elsewhere: the mask "
            f"belongs to another image, or one of the headers is wrong."
        )


def read_file(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Values of any shape, axes as in :func:`read_volume`, and affine of a file.

    Raises:
        ValueError: naming a file that cannot be read, or whose header does not fit its data.
    """
    if file_suffix(path) in NIFTI_SUFFIXES:
        return _read_nifti(path)
    if frames_of(path) > 1:  # of which ITK knows neither order nor place where they are given frame by frame
        values, affine = read_frames(path)
        return values, _sound(affine, path)
    return _values_and_affine(path, read_itk(path))


def save_volume(path: Path, values: np.ndarray, affine: np.ndarray) -> None:
    """Writes a NIfTI volume in millimetres, whole or not at all, and the folder that it lies in."""
    image = nibabel.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm")
    with replacing(path) as temporary:
        nibabel.save(image, temporary)


def _read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        image = load_nifti(path)
        values = image.get_fdata(dtype=np.float32)
    except Exception as error:  # nibabel and gzip raise a dozen types for files that are cut off or foreign
        raise ValueError(
            f"{path} must be a whole NIfTI file, got one that cannot be read: {_short(error)}: copy it again."
        ) from error
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    return values, _sound(image.affine, path)


def _values_and_affine(path: Path, image: Any) -> tuple[np.ndarray, np.ndarray]:
    """Of an ITK image."""
    import itk  # imported here: it takes seconds, and most data sets do without

    values = itk.array_view_from_image(image).astype(np.float32)
    if values.ndim == 4 and values.shape[0] == 1:
        values = values[0]
    affine = np.eye(4)
    if values.ndim == 3:
        axes = itk.array_from_matrix(image.GetDirection()) * np.array(image.GetSpacing())
        affine[:3, :3] = axes[:3, :3]
        affine[:3, 3] = np.array(image.GetOrigin())[:3]
        affine[:2] *= -1  # ITK's axes are LPS
    # ITK's arrays are z, y, x
    return np.transpose(values), _sound(affine, path)


def _read_series(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The one DICOM series of a folder."""
    import itk

    names = itk.GDCMSeriesFileNames.New()
    names.SetUseSeriesDetails(True)
    names.SetDirectory(str(folder))
    series = list(names.GetSeriesUIDs())
    if len(series) != 1:
        found = "no DICOM series" if not series else f"{len(series)} DICOM series"
        raise ValueError(f"{folder} must hold one DICOM series, got {found}: give each series a folder of its own.")
    files = list(names.GetFileNames(series[0]))
    if len(files) == 1 and frames_of(files[0]) > 1:
        return read_file(Path(files[0]))
    require_whole_series(folder, files)
    return _values_and_affine(folder, imread(folder, files, itk.F))


def _sound(affine: np.ndarray | None, path: Path) -> np.ndarray:
    if affine is None or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ValueError(f"{path} must have an affine that spans a volume, got {affine}: repair its header.")
    return np.asarray(affine, dtype=float)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
