"""Readers of single 2D images and labels, all in the one orientation (x, y) that MONAI's LoadImage gives."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from pathlib import Path

import numpy as np

from common.data import decoders
from common.data.files import (
    DICOM_SUFFIXES,
    ITK_SUFFIXES,
    JPEG_SUFFIXES,
    JSRT_SUFFIX,
    NIFTI_SUFFIXES,
    PICTURE_SUFFIXES,
    SUFFIXES,
    file_suffix,
    is_dicom,
)
from common.data.mask_values import two_sided, without_noise

Decoder = Callable[[Path], np.ndarray]


def read_image(path: str | Path, channel: int | str | None = None) -> np.ndarray:
    """Read one grey image as ``(W, H)`` float32, high values bright (dense tissue).

    With a ``channel``, counted from 0, that one of a picture of several channels is read as it is stored, and with
    ``"all"`` all of them as ``(C, W, H)``; grey files have one. A channel may have one value everywhere where the
    others have several: at the ends of a head, say, where one contrast was not recorded.

    ============================  ========================================================================
    ``.IMG``                      JSRT's own: square, big-endian uint16, no header, 12 bits, inverted
    PNG, TIFF, GIF, JPEG, BMP     8 or 16 bits; colour is converted to grey
    DICOM                         one grey frame; MONOCHROME1 inverted, rescale slope and intercept applied
    NIfTI, MHD, MHA, NRRD         axes as stored, axes of size 1 dropped
    ============================  ========================================================================

    Axes and values are those of MONAI's ``LoadImage``. On MONOCHROME1 its readers disagree: ``ITKReader``
    inverts the stored values and then rescales, as here; ``PydicomReader`` does not invert. (Signed
    MONOCHROME1, which is rare, ITK leaves as it is; here it is inverted too.)

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: naming the file, when it is truncated, of an unknown kind, not one 2D grey image, holds
            NaN or infinite values, has one value everywhere or lacks the channel; when the channel is none.
    """
    require_channel(channel)
    path = _existing(path)
    if channel is None:
        array = _decode(path, _image_decoder(path)).astype(np.float32)
    else:
        array = _decode_channels(path).astype(np.float32)
    bad = int((~np.isfinite(array)).sum())
    if bad:
        raise ValueError(
            f"{path}: an image must hold finite values, got {bad} of {array.size} NaN or infinite. Repair or remove it."
        )
    if array.min() == array.max():
        raise ValueError(
            f"{path}: an image must hold several values, got {array.flat[0]:g} everywhere (constant). "
            "Repair or remove it."
        )
    if channel is None or channel == "all":
        return array
    if channel >= len(array):
        raise ValueError(
            f"{path}: an image must have at least {channel + 1} channels for channel={channel}, got {len(array)}. Ask "
            "for another channel, or for None, which reads grey."
        )
    return array[channel]


def require_channel(channel: int | str | None) -> None:
    """Refuses what is neither None (grey), ``"all"`` nor the number of a channel.

    Raises:
        ValueError: then.
    """
    whole = isinstance(channel, Integral) and not isinstance(channel, bool) and channel >= 0
    if not (whole or channel is None or channel == "all"):
        raise ValueError(f'channel must be None, "all" or a whole number from 0, got {channel!r}.')


def read_label(path: str | Path) -> np.ndarray:
    """Read one label map as ``(W, H)`` int32, in the orientation of `read_image`.

    A palette of greys stands for its grey values (as GIF masks are stored), a coloured palette for its
    indices.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: naming the file, when it cannot be read, is no 2D image, is a colour picture or a JPEG
            (whose compression changes values), or holds values that are no whole numbers.
    """
    path = _existing(path)
    if file_suffix(path) in JPEG_SUFFIXES:
        raise ValueError(f"{path}: a label map must be stored without loss, got a JPEG. Store it as PNG.")
    array = _decode(path, _label_decoder(path))
    finite = np.isfinite(array).all()
    if not finite or np.abs(np.rint(array) - array).max() > 1e-3:
        found = "fractions" if finite else "NaN or infinite values"
        raise ValueError(f"{path}: a label map must hold whole numbers, got {found}. Store the numbers of the classes.")
    return np.rint(array).astype(np.int32)


def read_mask(path: str | Path) -> np.ndarray:
    """Read one class's mask as ``(W, H)`` bool: inside is every value above 0 (in a JPEG, above half its
    range).

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: as `read_label`, but a colour picture and a JPEG are taken; for a mask of many grey values.
    """
    path = _existing(path)
    if file_suffix(path) in JPEG_SUFFIXES:
        return two_sided(path, _decode(path, decoders.decode_picture)) > 127
    if file_suffix(path) in PICTURE_SUFFIXES:
        return without_noise(path, two_sided(path, _decode(path, decoders.decode_mask_picture))) > 0
    return without_noise(path, two_sided(path, read_label(path))) > 0


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file. Check the path, or make the datalist again.")
    return path


def _image_decoder(path: Path) -> Decoder:
    if file_suffix(path) == JSRT_SUFFIX:
        return decoders.decode_jsrt
    if file_suffix(path) in PICTURE_SUFFIXES:
        return decoders.decode_picture
    return _medical_decoder(path, decoders.decode_dicom)


def _label_decoder(path: Path) -> Decoder:
    if file_suffix(path) == JSRT_SUFFIX:
        raise ValueError(f"{path}: a label must be a picture, DICOM, NIfTI or MHD, got an .IMG radiograph.")
    if file_suffix(path) in PICTURE_SUFFIXES:
        return decoders.decode_label_picture
    return _medical_decoder(path, decoders.decode_label_dicom)


def _medical_decoder(path: Path, decode_dicom: Decoder) -> Decoder:
    suffix = file_suffix(path)
    if suffix in NIFTI_SUFFIXES:
        return decoders.decode_nifti
    if suffix in ITK_SUFFIXES:
        return decoders.decode_itk
    if suffix in DICOM_SUFFIXES or is_dicom(path):
        return decode_dicom
    raise ValueError(f"{path}: an image must be one of {', '.join(SUFFIXES)}, got '{suffix or path.name}'.")


def _decode(path: Path, decoder: Decoder) -> np.ndarray:
    array = _attempt(path, decoder)
    squeezed = array.squeeze() if array.ndim > 2 else array
    if squeezed.ndim != 2 or squeezed.size == 0:
        raise ValueError(f"{path}: an image must have two dimensions, got shape {array.shape}. Store single slices.")
    return squeezed


def _decode_channels(path: Path) -> np.ndarray:
    if file_suffix(path) in PICTURE_SUFFIXES:
        return _attempt(path, decoders.decode_channels)
    return _decode(path, _image_decoder(path))[None]


def _attempt(path: Path, decoder: Decoder) -> np.ndarray:
    if decoder is decoders.decode_itk:  # which says itself what is wrong
        return decoder(path)
    try:
        return decoder(path)
    except decoders.UnfitError as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:  # five libraries raise a dozen unrelated types on damaged files
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(
            f"{path}: the file cannot be decoded, it may be truncated or damaged ({reason}). "
            "Copy it again or remove it."
        ) from error
