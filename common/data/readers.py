"""Readers of single 2D images and labels, all in the one orientation (x, y) that MONAI's LoadImage gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

DICOM_SUFFIXES = (".dcm", ".dicom")
ITK_SUFFIXES = (".mhd", ".mha", ".nrrd")
NIFTI_SUFFIXES = (".nii.gz", ".nii")
PICTURE_SUFFIXES = (".png", ".tif", ".tiff", ".gif", ".jpg", ".jpeg", ".bmp")
JSRT_SUFFIX = ".img"
SUFFIXES = (JSRT_SUFFIX, *PICTURE_SUFFIXES, *DICOM_SUFFIXES, *NIFTI_SUFFIXES, *ITK_SUFFIXES)
JSRT_MAXIMUM = 4095  # JSRT's films were digitised with 12 bits

# What the libraries raise on damaged files. Programming errors (TypeError, KeyError) are left to surface as they are.
_DECODING_ERRORS = (
    OSError,
    ValueError,
    EOFError,
    RuntimeError,
    SyntaxError,
    AttributeError,
    NotImplementedError,
)


def read_image(path: str | Path) -> np.ndarray:
    """Read one grey image as ``(W, H)`` float32, high values bright (dense tissue).

    =============================  ==========================================================================
    ``.IMG``                       JSRT's own: square, big-endian uint16, no header, 12 bits, inverted
    PNG, TIFF, GIF, JPEG, BMP      8 or 16 bits; colour is converted to grey
    DICOM                          one grey frame; MONOCHROME1 inverted, rescale slope and intercept applied
    NIfTI, MHD, MHA, NRRD          axes as stored, axes of size 1 dropped
    =============================  ==========================================================================

    The axes are those of MONAI's ``LoadImage`` with any of its readers. On MONOCHROME1 the stock readers disagree:
    ``ITKReader`` inverts the stored value and then rescales, as here; ``PydicomReader`` does not invert. (ITK leaves
    the rare signed MONOCHROME1 as it is; here it is inverted too.)

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: naming the file, when it is truncated, of an unknown kind, not one 2D grey image, holds NaN or
            infinite values, or has one value everywhere.
    """
    path = _existing(path)
    array = _two_dimensional(_decode(path, _image_decoder(path)), path).astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError(
            f"{path}: an image must hold finite values, got {_count_bad(array)}. Repair or remove it."
        )
    if array.min() == array.max():
        raise ValueError(
            f"{path}: an image must hold more than one value, got {array.flat[0]:g} everywhere. Repair or remove it."
        )
    return array


def read_label(path: str | Path) -> np.ndarray:
    """Read one label map as ``(W, H)`` int32, in the orientation of `read_image`.

    A palette of greys stands for its grey values (as GIF masks are stored), a coloured palette for its indices.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: naming the file, when it cannot be read, is no 2D image, is a colour picture or a JPEG (whose
            compression changes values), or holds values that are no whole numbers.
    """
    path = _existing(path)
    if file_suffix(path) in (".jpg", ".jpeg"):
        raise ValueError(f"{path}: a label map must be stored without loss, got a JPEG. Store it as PNG.")
    array = _two_dimensional(_decode(path, _label_decoder(path)), path)
    rounded = np.rint(array)
    if not np.isfinite(array).all() or np.abs(rounded - array).max(initial=0) > 1e-3:
        raise ValueError(f"{path}: a label map must hold whole numbers, got values such as {array.max():g}.")
    return rounded.astype(np.int32)


def read_mask(path: str | Path) -> np.ndarray:
    """Read one class's mask as ``(W, H)`` bool: inside is every value above 0 (in a JPEG, above half its range).

    Raises:
        FileNotFoundError, ValueError: as `read_label`, but colour pictures and JPEG are taken.
    """
    path = _existing(path)
    if file_suffix(path) in (".jpg", ".jpeg"):
        return _two_dimensional(_decode(path, _read_picture), path) > 127
    if file_suffix(path) in PICTURE_SUFFIXES:
        return _two_dimensional(_decode(path, _read_mask_picture), path) > 0
    return read_label(path) > 0


def file_suffix(path: str | Path) -> str:
    """The suffix in lower case, ``.nii.gz`` as one."""
    name = Path(path).name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def file_stem(path: str | Path) -> str:
    """The file's name without its suffix, ``.nii.gz`` taken as one."""
    name = Path(path).name
    suffix = file_suffix(path)
    return name[: -len(suffix)] if suffix in SUFFIXES else name


def list_images(directory: str | Path) -> dict[str, Path]:
    """The readable images directly in a folder, by file stem, in sorted order; a DICOM file may lack a suffix.

    Raises:
        FileNotFoundError: when there is no such folder.
        ValueError: when two files differ by their suffix alone.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(
            f"{directory}: there is no such folder. Give the folder that holds the images."
        )
    found: dict[str, Path] = {}
    for path in sorted(directory.iterdir()):
        if path.name.startswith(".") or not path.is_file():
            continue
        if file_suffix(path) not in SUFFIXES and not _is_dicom(path):
            continue
        stem = file_stem(path)
        if stem in found:
            raise ValueError(
                f"{directory}: '{found[stem].name}' and '{path.name}' share a name. Keep one of them."
            )
        found[stem] = path
    return found


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file.")
    return path


def _decode(path: Path, decoder) -> np.ndarray:
    try:
        return decoder(path)
    except _UnfitError as error:
        raise ValueError(f"{path}: {error}") from error
    except _DECODING_ERRORS as error:
        reason = str(error).strip().splitlines()
        raise ValueError(
            f"{path}: the file cannot be decoded, it may be truncated or damaged "
            f"({reason[0] if reason else type(error).__name__}). Copy it again or remove it."
        ) from error


class _UnfitError(Exception):
    """The file is whole but of a kind that is no single grey image."""


def _image_decoder(path: Path):
    suffix = file_suffix(path)
    if suffix == JSRT_SUFFIX:
        return _read_jsrt
    if suffix in PICTURE_SUFFIXES:
        return _read_picture
    return _volume_decoder(path) or _read_dicom


def _label_decoder(path: Path):
    if file_suffix(path) == JSRT_SUFFIX:
        raise ValueError(
            f"{path}: a label must be a picture, NIfTI, MHD or DICOM file, got an .IMG radiograph."
        )
    if file_suffix(path) in PICTURE_SUFFIXES:
        return _read_label_picture
    return _volume_decoder(path) or (lambda path: _dicom_pixels(path)[1].T)


def _volume_decoder(path: Path):
    suffix = file_suffix(path)
    if suffix in NIFTI_SUFFIXES:
        return _read_nifti
    if suffix in ITK_SUFFIXES:
        return _read_itk
    if suffix in DICOM_SUFFIXES or _is_dicom(path):
        return None
    raise ValueError(f"{path}: the file must be one of {', '.join(SUFFIXES)}, got '{suffix or 'no suffix'}'.")


def _read_jsrt(path: Path) -> np.ndarray:
    size = path.stat().st_size
    side = int(np.sqrt(size // 2))
    if size == 0 or side * side * 2 != size:
        raise _UnfitError(
            f"an .IMG file must hold a square of 2-byte pixels (2048 x 2048 of JSRT are 8388608 bytes), got {size} "
            "bytes; it may be truncated. Copy it again."
        )
    array = np.fromfile(path, dtype=">u2").reshape(side, side)
    if array.max() > JSRT_MAXIMUM:
        raise _UnfitError(
            f"an .IMG file must hold 12-bit values 0 to {JSRT_MAXIMUM}, got {array.max()}; its byte order may have "
            "been swapped. Take the file as JSRT distributes it."
        )
    return JSRT_MAXIMUM - array.T.astype(np.float32)  # as distributed, high values are dark


def _open_picture(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        frames = getattr(picture, "n_frames", 1)
        if frames != 1:
            raise _UnfitError(
                f"the file must hold one image, got {frames} frames. Store each frame as its own file."
            )
        picture.load()
        return picture.copy()


def _read_picture(path: Path) -> np.ndarray:
    picture = _open_picture(path)
    grey = picture if picture.mode in ("L", "F") or picture.mode.startswith("I") else picture.convert("L")
    return np.asarray(grey).T


def _read_label_picture(path: Path) -> np.ndarray:
    picture = _open_picture(path)
    if picture.mode == "P":
        colours = np.asarray(picture.convert("RGB"))
        grey = (colours == colours[..., :1]).all()
        return (colours[..., 0] if grey else np.asarray(picture)).T
    if picture.mode in ("L", "F", "1") or picture.mode.startswith("I"):
        return np.asarray(picture).astype(np.float64).T
    channels = np.asarray(picture.convert("RGB"))
    if (channels != channels[..., :1]).any():
        raise _UnfitError(
            "a label map must be grey or have a palette, got a colour picture. Store the class numbers."
        )
    return channels[..., 0].T


def _read_mask_picture(path: Path) -> np.ndarray:
    picture = _open_picture(path)
    if picture.mode in ("RGB", "RGBA", "CMYK", "YCbCr"):
        return np.asarray(picture.convert("RGB")).max(axis=-1).T
    return _read_label_picture(path)


def _read_nifti(path: Path) -> np.ndarray:
    import nibabel

    return np.asarray(nibabel.load(path).dataobj)


def _read_itk(path: Path) -> np.ndarray:
    import itk  # imported here: it takes seconds, and most data sets need none of it

    return np.asarray(itk.array_from_image(itk.imread(str(path)))).T


def _is_dicom(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def _dicom_pixels(path: Path):
    import pydicom

    dataset = pydicom.dcmread(path)
    if "PixelData" not in dataset:
        raise _UnfitError("the DICOM file must hold pixel data, got none. Copy it again or remove it.")
    frames = int(dataset.get("NumberOfFrames", None) or 1)
    samples = int(dataset.get("SamplesPerPixel", 1))
    if frames != 1 or samples != 1:
        raise _UnfitError(
            f"the DICOM file must hold one grey frame, got {frames} frames of {samples} samples. Export single frames."
        )
    return dataset, dataset.pixel_array


def _read_dicom(path: Path) -> np.ndarray:
    dataset, pixels = _dicom_pixels(path)
    pixels = pixels.astype(np.float64)
    if dataset.get("PhotometricInterpretation", "") == "MONOCHROME1":
        # low stored values are bright; the range is the stored bits', and inverting comes before rescaling, as in ITK
        signed = int(dataset.get("PixelRepresentation", 0)) == 1
        pixels = (-1 if signed else 2 ** int(dataset.BitsStored) - 1) - pixels
    slope, intercept = dataset.get("RescaleSlope", None), dataset.get("RescaleIntercept", None)
    return (pixels * float(1 if slope is None else slope) + float(0 if intercept is None else intercept)).T


def _two_dimensional(array: np.ndarray, path: Path) -> np.ndarray:
    squeezed = array.squeeze() if array.ndim > 2 else array
    if squeezed.ndim != 2 or squeezed.size == 0:
        raise ValueError(
            f"{path}: the image must have two dimensions, got shape {array.shape}. Store single slices."
        )
    return squeezed


def _count_bad(array: np.ndarray) -> str:
    return f"{np.isnan(array).sum()} NaN and {np.isinf(array).sum()} infinite of {array.size}"
