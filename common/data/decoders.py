"""Decoders of each file format into arrays with axes (x, y); `common.data.readers` checks what they give."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from common.data.files import file_suffix
from common.data.itk_files import read_itk

if TYPE_CHECKING:
    from nibabel import Nifti1Image
    from pydicom import Dataset

JSRT_MAXIMUM = 4095  # JSRT's films were digitised with 12 bits


class UnfitError(Exception):
    """The file may be whole, but it is no single grey image."""


def decode_jsrt(path: Path) -> np.ndarray:
    """JSRT's .IMG: square, big-endian uint16, no header; inverted, since high values are dark there."""
    size = path.stat().st_size
    side = int(np.sqrt(size // 2))
    if size == 0 or side * side * 2 != size:
        raise UnfitError(
            "an .IMG file must hold a square of 2-byte pixels (8388608 bytes for JSRT's 2048 x 2048), got "
            f"{size} bytes; it may be truncated. Copy it again."
        )
    array = np.fromfile(path, dtype=">u2").reshape(side, side)
    if array.max() > JSRT_MAXIMUM:
        raise UnfitError(
            f"an .IMG file must hold 12-bit values 0 to {JSRT_MAXIMUM}, got {array.max()}; its bytes may have been "
            "swapped. Take the file as JSRT distributes it."
        )
    return JSRT_MAXIMUM - array.T.astype(np.float32)


def decode_picture(path: Path) -> np.ndarray:
    """PNG, TIFF, GIF, JPEG, BMP as grey values; colour is weighted as PIL does."""
    picture = _open_picture(path)
    return np.asarray(picture if _is_grey(picture) else picture.convert("L")).T


def decode_channels(path: Path) -> np.ndarray:
    """PNG, TIFF, GIF, JPEG, BMP as their channels ``(C, W, H)``; a palette as its colours, opacity is left out."""
    picture = _open_picture(path)
    if picture.mode in ("1", "P", "PA"):
        picture = picture.convert("L" if picture.mode == "1" else "RGB")
    values = np.asarray(picture)
    kept = [index for index, band in enumerate(picture.getbands()) if band != "A"]
    return values.reshape(*values.shape[:2], -1)[..., kept].transpose(2, 1, 0)


def decode_label_picture(path: Path) -> np.ndarray:
    """Class numbers: of a palette of greys the grey values (GIF masks), of a coloured palette the indices."""
    picture = _open_picture(path)
    if _is_grey(picture) or picture.mode == "1":
        return np.asarray(picture).astype(np.float64).T
    colours = np.asarray(picture.convert("RGB"))
    if (colours == colours[..., :1]).all():
        return colours[..., 0].T
    if picture.mode != "P":
        raise UnfitError("a label map must be grey or have a palette, got colours. Store the numbers of the classes.")
    return np.asarray(picture).T


def decode_mask_picture(path: Path) -> np.ndarray:
    """As `decode_label_picture`, and a coloured picture as its largest channel: black is outside."""
    picture = _open_picture(path)
    if picture.mode == "P" or _is_grey(picture):
        return decode_label_picture(path)
    return np.asarray(picture.convert("RGB")).max(axis=-1).T


def decode_dicom(path: Path) -> np.ndarray:
    """One grey DICOM frame, MONOCHROME1 inverted, rescaled."""
    dataset, pixels = _dicom_pixels(path)
    pixels = high_is_bright(dataset, pixels.astype(np.float64))
    slope, intercept = dataset.get("RescaleSlope", None), dataset.get("RescaleIntercept", None)
    return (pixels * float(1 if slope is None else slope) + float(0 if intercept is None else intercept)).T


def high_is_bright(dataset: Dataset, pixels: np.ndarray) -> np.ndarray:
    """The stored values of a DICOM file, those of MONOCHROME1 inverted."""
    if dataset.get("PhotometricInterpretation", "") != "MONOCHROME1":
        return pixels
    # inverted in the range of the stored bits and before rescaling, as ITK does
    signed = int(dataset.get("PixelRepresentation", 0)) == 1
    return (-1 if signed else 2 ** int(dataset.BitsStored) - 1) - pixels


def decode_label_dicom(path: Path) -> np.ndarray:
    """The stored values of one DICOM frame."""
    return _dicom_pixels(path)[1].T


def decode_nifti(path: Path) -> np.ndarray:
    """NIfTI, axes as stored."""
    array = np.asarray(load_nifti(path).dataobj)
    if array.dtype.fields:
        raise UnfitError("the NIfTI file must hold grey values, got colours. Store one grey channel.")
    return array


def load_nifti(path: Path) -> Nifti1Image:
    """A NIfTI file, read whole: with the check sum and length of its compression, and the length that its header says.

    (nibabel and ITK stop reading where the voxels end, before the check sum.)

    Raises:
        ValueError: when it is no NIfTI file, or of another length.
        OSError, EOFError, zlib.error: when its compressed data are damaged.
    """
    import nibabel

    data = Path(path).read_bytes()
    if file_suffix(path) == ".nii.gz":
        data = gzip.decompress(data)
    kinds = (nibabel.Nifti1Image, nibabel.Nifti2Image)
    kind = next((kind for kind in kinds if kind.header_class.may_contain_header(data)), None)
    if kind is None:
        raise ValueError("there is no NIfTI header")
    image = kind.from_bytes(data)
    expected = image.dataobj.offset + math.prod(image.shape) * image.get_data_dtype().itemsize
    if len(data) != expected:
        raise ValueError(f"by its header it has {expected} bytes, uncompressed, got {len(data)}")
    return image


def decode_itk(path: Path) -> np.ndarray:
    """MHD, MHA, NRRD, axes as stored.

    Raises:
        ValueError: naming the file.
    """
    import itk  # imported here: it takes seconds, and most data sets do without

    return np.asarray(itk.array_from_image(read_itk(path))).T


def _open_picture(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        if picture.format == "PNG":
            picture.verify()  # the check sums, which loading passes over; it ends what can be done with the picture
    with Image.open(path) as picture:
        frames = getattr(picture, "n_frames", 1)
        if frames != 1:
            raise UnfitError(f"the file must hold one image, got {frames} frames. Store each frame as its own file.")
        picture.load()
        return picture.copy()


def _is_grey(picture: Image.Image) -> bool:
    return picture.mode in ("L", "F") or picture.mode.startswith("I")


def _dicom_pixels(path: Path):
    import pydicom

    dataset = pydicom.dcmread(path)
    if "PixelData" not in dataset:
        raise UnfitError("the DICOM file must hold pixels, got none; it may be truncated. Copy it again or remove it.")
    frames = int(dataset.get("NumberOfFrames", None) or 1)
    samples = int(dataset.get("SamplesPerPixel", 1))
    if frames != 1 or samples != 1:
        raise UnfitError(
            f"the DICOM file must hold one grey frame, got {frames} frames with {samples} values per pixel. "
            "Export single grey frames."
        )
    return dataset, dataset.pixel_array
