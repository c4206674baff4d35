"""Grey values that mean the same in every patient, for training and inference alike."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from PIL import Image

TISSUE = 0.4  # what the median of a patient's tissue becomes
NUMBERED = re.compile(r"(.+)_\d+")  # a slice of a patient
ENDINGS = (".tif", ".tiff", ".png", ".bmp")


class ScaleByPatientd(MapTransform):
    """Divides a slice by its patient's brightness: the median of the tissue becomes 0.4; what is above 1 is cut off.

    MRI has no unit, and a network that has seen few patients takes the whole brain of a brighter one for a tumour. Each
    slice on its own does not tell how bright it should be: its brightest pixel is scalp, tumour or noise. So the slices
    of the same patient are read as well, that is, the pictures in the same folder whose names differ in the number at
    their end alone; where there are none, the picture is all there is. Tissue are the pixels above the mean of all of
    them, of each channel for itself.

    Args:
        keys: keys of images ``C H W`` that were read from pictures of 8 or 16 bits.
        channel: which channel of the pictures they are, from 0; ``"all"`` for all of them.
    """

    def __init__(self, keys: KeysCollection, channel: int | str) -> None:
        super().__init__(keys)
        self.channel = channel

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        scaled = dict(data)
        for key in self.key_iterator(scaled):
            path = Path(scaled[key].meta["filename_or_obj"])
            files = tuple((file, file.stat().st_mtime_ns) for file in slices(*patient(path)))
            bright = torch.tensor(brightness(files, self.channel) or own_brightness(scaled[key]))
            scaled[key] = (scaled[key] * (TISSUE / bright.clamp(min=1e-6)[:, None, None])).clamp(0, 1)
        return scaled

    def also_reads(self, item: Mapping[Hashable, Any]) -> list[Path]:
        """The files that decide about an item's values beside its own."""
        return [path for key in self.keys for path in slices(*patient(Path(item[key])))]


def patient(path: Path) -> tuple[Path, str]:
    """The folder and the name of whom a slice is, which numbers follow; of another picture, its own name."""
    found = NUMBERED.fullmatch(path.stem)
    return path.absolute().parent, found[1] if found else path.name


def slices(folder: Path, name: str) -> list[Path]:
    """The pictures of a patient."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    pictures = (path for path in files if path.suffix.lower() in ENDINGS)
    return [path for path in pictures if path.name == name or re.fullmatch(re.escape(name) + r"_\d+", path.stem)]


@lru_cache(maxsize=256)
def brightness(files: tuple[tuple[Path, int], ...], channel: int | str) -> tuple[float, ...]:
    """Of each channel of pictures, given with the time of change of each; nothing where they are of several kinds.

    Those that cannot be read are refused in their turn.
    """
    values: list[np.ndarray] = []
    for path, _ in files:
        try:
            with Image.open(path) as picture:
                pixels = np.atleast_3d(np.asarray(picture, dtype=np.float32))
        except (OSError, SyntaxError, ValueError):  # PIL's for what is damaged
            continue
        taken = pixels if channel == "all" else pixels[..., channel : channel + 1]
        values.append(taken.reshape(-1, taken.shape[-1]))
    widths = {one.shape[-1] for one in values}
    return medians(np.concatenate(values)) if len(widths) == 1 and 0 not in widths else ()


def own_brightness(image: torch.Tensor) -> tuple[float, ...]:
    """Of each channel of an image ``C H W`` alone."""
    return medians(np.asarray(image.reshape(len(image), -1).T))


def medians(values: np.ndarray) -> tuple[float, ...]:
    """Of the tissue of each channel, ``N C``."""
    tissue = [one[one > one.mean()] for one in values.T]
    return tuple(float(np.median(inside)) if len(inside) else 1.0 for inside in tissue)
