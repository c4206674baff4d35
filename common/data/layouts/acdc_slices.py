"""ACDC as slices, PNG or h5, as it is passed around: made into volumes of the challenge's own layout."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from common.data.files import first_few
from common.data.volumes import save_volume

_PNG = re.compile(r"(patient\d+_frame\d+)_slice_?(\d+)\.png$", re.IGNORECASE)
_H5_SLICE = re.compile(r"(patient\d+_frame\d+)_slice_?(\d+)\.h5$", re.IGNORECASE)
_H5_VOLUME = re.compile(r"(patient\d+_frame\d+)\.h5$", re.IGNORECASE)
# what reads a volume: values H W D and its mask, or None
Read = Callable[[], tuple[np.ndarray, "np.ndarray | None"]]


def convert_acdc(source: str | Path, destination: str | Path, spacing: tuple[float, float, float] = (1, 1, 1)) -> None:
    """Make volumes of ACDC's slices: patientNNN/patientNNN_frameFF.nii.gz and patientNNN_frameFF_gt.nii.gz.

    What is there already stays as it is.

    Args:
        source: a folder with images/patientNNN_frameFF_sliceZZ.png and labels/ with the same names; or with
            patientNNN_frameFF.h5 or, for those that are there as slices alone, patientNNN_frameFF_slice_Z.h5, each with
            image and label. The latter need the package h5py.
        destination: folder to write to.
        spacing: side of the voxels in mm, of rows, columns and slices, if you know it: such files do not tell. With the
            default of 1, distances and volumes count voxels.

    Raises:
        FileNotFoundError: when there is no such folder, or nothing in it.
        ValueError: when a slice is missing, or image and label do not fit; it names the volume.
    """
    source, destination = Path(source), Path(destination)
    if not source.is_dir():
        raise FileNotFoundError(f"{source} must be a folder of slices, got no such folder.")
    numbers = [side for side in spacing if isinstance(side, (int, float)) and 0 < side < math.inf]
    if isinstance(spacing, str) or len(spacing) != 3 or len(numbers) != 3:
        raise ValueError(f"spacing must be three positive numbers, got {spacing}.")
    volumes = find_png(source) or find_h5(source)
    if not volumes:
        raise FileNotFoundError(
            f"{source} must hold images/patient001_frame01_slice00.png, or patient001_frame01.h5, got none."
        )
    affine = np.diag([*map(float, spacing), 1.0])
    for name, read in tqdm(volumes.items(), desc="volumes", unit="volume", leave=False, disable=None):
        folder = destination / name.split("_")[0]
        targets = [folder / f"{name}.nii.gz", folder / f"{name}_gt.nii.gz"]
        if targets[0].exists():
            continue
        image, mask = read()
        if mask is not None and mask.shape != image.shape:
            raise ValueError(f"{source}: {name} must have a label of its image's shape, got {mask.shape}.")
        pairs = [(targets[1], mask), (targets[0], image)]  # the image last: with it, the volume is whole
        for path, values in pairs:
            if values is not None:
                save_volume(path, values, affine)
    print(f"{len(volumes)} volumes are in {destination}")


def find_png(source: Path) -> Mapping[str, Read]:
    """How to read each volume of a folder of PNG slices."""
    images, labels = by_volume(source / "images", _PNG), by_volume(source / "labels", _PNG)
    orphans = sorted(set(labels) - set(images))
    if orphans:
        raise ValueError(f"{source}: each label must have its image, got none for {first_few(orphans)}.")

    def read(name: str) -> tuple[np.ndarray, np.ndarray | None]:
        mask = stack(name, labels[name], png).astype(np.uint8) if name in labels else None
        return stack(name, images[name], png).astype(np.float32), mask

    return {name: (lambda name=name: read(name)) for name in images}


def find_h5(source: Path) -> Mapping[str, Read]:
    """How to read each volume of a folder of h5 files, of volumes first."""
    slices, volumes = by_volume(source, _H5_SLICE), {}
    for path in sorted(source.rglob("*.h5")):
        if match := _H5_VOLUME.match(path.name):
            volumes[match[1].lower()] = path

    def of_slices(name: str) -> tuple[np.ndarray, np.ndarray | None]:
        parts = {number: h5(path) for number, path in slices[name].items()}
        image = stack(name, parts, lambda part: part[0], (0, 1))
        bare = [number for number, (_, mask) in parts.items() if mask is None]
        if bare and len(bare) < len(parts):
            raise ValueError(f"{name} must have a label in each of its slices or in none, got none in {bare[0]}.")
        mask = None if bare else stack(name, parts, lambda part: part[1], (0, 1))
        return image.astype(np.float32), None if mask is None else mask.astype(np.uint8)

    def of_volume(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
        image, mask = h5(path)  # slices first
        mask = None if mask is None else np.moveaxis(mask, 0, -1).astype(np.uint8)
        return np.moveaxis(image, 0, -1).astype(np.float32), mask

    found = {name: (lambda name=name: of_slices(name)) for name in slices if name not in volumes}
    return found | {name: (lambda path=path: of_volume(path)) for name, path in volumes.items()}


def by_volume(folder: Path, pattern: re.Pattern) -> dict[str, dict[int, Path]]:
    """The files of each volume's slices by their numbers."""
    found: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        if match := pattern.match(path.name):
            slices, number = found[match[1].lower()], int(match[2])
            if number in slices:
                raise ValueError(f"{folder} must hold each slice once, got {slices[number]} and {path}: keep one.")
            slices[number] = path
    return dict(found)


def stack(
    name: str, slices: Mapping[int, Any], read: Callable[[Any], np.ndarray], first: Sequence[int] = (0,)
) -> np.ndarray:
    """The slices of a volume in order, ``H W D``, numbered from one of ``first`` on; none may be missing.

    Raises:
        ValueError: when one is missing, or they are of several sizes.
    """
    order = sorted(slices)
    begin = order[0] if order[0] in first else first[0]
    missing = sorted(set(range(begin, order[-1] + 1)) - set(order))
    if missing:
        raise ValueError(f"{name} must have all of its slices, got none with the number {missing[0]}.")
    parts = [read(slices[number]) for number in order]
    if len({part.shape for part in parts}) > 1:
        raise ValueError(f"{name} must have slices of one size, got {sorted({part.shape for part in parts})}.")
    return np.stack(parts, axis=-1)


def png(path: Path) -> np.ndarray:
    """A grey PNG as it is."""
    from PIL import Image

    with Image.open(path) as image:
        values = np.asarray(image)
    if values.ndim != 2:
        raise ValueError(f"{path} must be one grey channel, got an array of {values.shape}.")
    return values


def h5(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Image and label of an h5 file."""
    try:
        import h5py
    except ImportError as error:
        raise ValueError(f"{path} needs the package h5py to be read, got none: pip install h5py.") from error
    with h5py.File(path, "r") as file:
        if "image" not in file:
            raise ValueError(f"{path} must hold 'image', and 'label' where it is annotated, got {sorted(file)}.")
        return file["image"][()], file["label"][()] if "label" in file else None
