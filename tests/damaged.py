"""Files of every format, and copies of them that were cut off, have a flipped bit, or zeros at their end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import itk
import nibabel
import numpy as np
import oct_dicom
from PIL import Image

SAMPLE = 25  # damaged copies of a file
PICTURE = np.random.default_rng(0).integers(0, 200, (24, 20)).astype(np.uint8)
VOXELS = np.random.default_rng(1).integers(0, 200, (9, 8, 7)).astype(np.int16)
# uncompressed values have a length, and nothing else by which they could be checked
CHECKED = ("volume.nii.gz", "flat.nii.gz", "packed.mha", "packed.nrrd", "picture.png")
LENGTH_ALONE = ("volume.nii", "plain.mha", "plain.nrrd", "slice.dcm", "frames.dcm")
FLAT = ("flat.nii.gz", "picture.png", "slice.dcm")


def write_whole(folder: Path) -> Path:
    """One image in every format."""
    for name in ("volume.nii.gz", "volume.nii"):
        nibabel.save(nibabel.Nifti1Image(VOXELS, np.eye(4)), folder / name)
    nibabel.save(nibabel.Nifti1Image(PICTURE.T.astype(np.int16), np.eye(4)), folder / "flat.nii.gz")
    image = itk.image_from_array(np.ascontiguousarray(VOXELS.T))
    for kind in ("mha", "nrrd"):
        itk.imwrite(image, str(folder / f"packed.{kind}"), compression=True)
        itk.imwrite(image, str(folder / f"plain.{kind}"), compression=False)
    Image.fromarray(PICTURE).save(folder / "picture.png")
    oct_dicom.write(folder / "slice.dcm", PICTURE.T[..., None])
    oct_dicom.write(folder / "frames.dcm", places=oct_dicom.PLACES)
    return folder


def cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(len(data))]


def flipped(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    changed[rng.integers(len(data))] ^= 1 << rng.integers(8)
    return bytes(changed)


def without_end(data: bytes, rng: np.random.Generator) -> bytes:
    size = rng.integers(1, len(data))
    return data[:-size] + bytes(size)


def outcomes(
    path: Path,
    damage: Callable,
    folder: Path,
    read: Callable[[Path], np.ndarray],
    rng: np.random.Generator | None = None,
    times: int = SAMPLE,
) -> Counter:
    """How many damaged copies were refused by name, and how many gave the values of the whole file, or others."""
    rng, found, whole = rng or np.random.default_rng(len(path.name)), Counter(), path.read_bytes()
    copy, values = folder / path.name, read(path)
    for _ in range(times):
        copy.write_bytes(damage(whole, rng))
        try:
            other = read(copy)
        except (ValueError, RuntimeError) as error:  # the latter is MONAI's wrapping, which inference puts a name to
            assert isinstance(error, RuntimeError) or str(copy) in str(error)
            found["refused"] += 1
        else:
            found["the same" if other.shape == values.shape and (other == values).all() else "others"] += 1
    return found
