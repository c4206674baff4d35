"""NIfTI volumes of DICOM volumes: files of several frames, and folders with a series."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.data.dicom_volumes import frames_of
from common.data.files import file_stem, first_few
from common.data.volume_files import existing_folder, walk
from common.data.volumes import read_volume, save_volume


def convert_dicom(source: str | Path, destination: str | Path) -> None:
    """Make a NIfTI volume of each DICOM volume, as training reads it.

    What is there already stays as it is.

    Args:
        source: a DICOM file of several frames, or a folder: all such files and all series below it.
        destination: folder to write to, where each volume is called after its file, or after its series' folder.

    Raises:
        FileNotFoundError: when there is no such file or folder, or no DICOM volume in it.
        ValueError: naming the volume: two of one name, or one that cannot be read.
    """
    source, destination = Path(source), Path(destination)
    volumes = [source] if source.is_file() else find_dicom(source)
    names = Counter(file_stem(path) for path in volumes)
    twice = [str(path) for path in volumes if names[file_stem(path)] > 1]
    if twice:
        raise ValueError(f"{source} must hold volumes of different names, got {first_few(twice)}: rename one of them.")
    for path in tqdm(volumes, desc="volumes", unit="volume", leave=False, disable=None):
        target = destination / f"{file_stem(path)}.nii.gz"
        if target.exists():
            continue
        volume = read_volume(path)
        save_volume(target, np.asanyarray(volume.dataobj), volume.affine)
    print(f"{len(volumes)} volumes are in {destination}")


def find_dicom(folder: Path) -> list[Path]:
    """Files of several frames, and folders with a series, below a folder."""
    found = []
    for place, files in walk(existing_folder(folder)):
        frames = {path: number for path in files if (number := frames_of(path))}
        found += [path for path, number in frames.items() if number > 1]
        if len(frames) > 1 and 1 in frames.values():
            found.append(place)
    if not found:
        raise FileNotFoundError(f"{folder} must hold DICOM files of several frames, or series, got none.")
    return sorted(found)
