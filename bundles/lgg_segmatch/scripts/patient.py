"""Grey values that mean the same in every patient, for training and inference alike."""

from __future__ import annotations

import re
from collections import defaultdict
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
MOST = 500  # slices of a patient
ENDINGS = (".tif", ".tiff", ".png", ".bmp")


class ScaleByPatientd(MapTransform):
    """Divides a slice by its patient's brightness: the median of the tissue becomes 0.4; what is above 1 is cut off.

    MRI has no unit, and a network that has seen few patients takes the whole brain of a brighter one for a tumour. Each
    slice on its own does not tell how bright it should be: its brightest pixel is scalp, tumour or noise. So the slices
    of the same patient are read as well, that is, the pictures in the same folder whose names differ in the number at
    their end alone, and up to 500 of them; of a picture without any, or with more (they are no slices then), it is its
    own brightness. Tissue are the pixels above the mean of all of them, of each channel for itself.

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
            own = scaled[key]
            files = slices(Path(own.meta["filename_or_obj"]))
            found = brightness(tuple((file, file.stat().st_mtime_ns) for file in files), self.channel)
            bright = torch.tensor(found if len(found) == len(own) else own_brightness(own))
            scaled[key] = (own * (TISSUE / bright.clamp(min=1e-6)[:, None, None])).clamp(0, 1)
        return scaled

    def also_reads(self, item: Mapping[Hashable, Any]) -> list[Path]:
        """The files that decide about an item's values beside its own."""
        return [path for key in self.keys for path in slices(Path(item[key]))]


def slices(path: Path) -> tuple[Path, ...]:
    """The pictures of whom a slice is; none where it has no number or is one of many."""
    folder, found = path.absolute().parent, NUMBERED.fullmatch(path.stem)
    if found is None or not folder.is_dir():
        return ()
    known = patients(folder, folder.stat().st_mtime_ns).get(found[1], ())
    return known if len(known) <= MOST else ()


@lru_cache(maxsize=64)
def patients(folder: Path, changed: int) -> dict[str, tuple[Path, ...]]:
    """The pictures of each patient in a folder, by name; once for each time of the folder's change."""
    named: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(folder.iterdir()):
        found = NUMBERED.fullmatch(file.stem)
        if found and file.suffix.lower() in ENDINGS:
            named[found[1]].append(file)
    return {name: tuple(files) for name, files in named.items()}


@lru_cache(maxsize=1024)
def brightness(files: tuple[tuple[Path, int], ...], channel: int | str) -> tuple[float, ...]:
    """Of each channel of pictures, given with the time of change of each; nothing where they are of several kinds.

    Those that cannot be read, or lack the channel, are refused in their turn.
    """
    values: list[np.ndarray] = []
    for path, _ in files:
        try:
            with Image.open(path) as picture:
                pixels = grey_values(picture)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # PIL's for what is damaged
            continue
        taken = pixels if channel == "all" else pixels[..., channel : channel + 1]
        if taken.shape[-1]:
            values.append(taken.reshape(-1, taken.shape[-1]))
    return medians(np.concatenate(values)) if len({one.shape[-1] for one in values}) == 1 else ()


def grey_values(picture: Image.Image) -> np.ndarray:
    """``H W C`` as an image is read for training and inference: palettes in their colours, without transparency."""
    if picture.mode in ("1", "P", "PA"):
        picture = picture.convert("L" if picture.mode == "1" else "RGB")
    bands = [band for band in picture.getbands() if band != "A"]
    return np.stack([np.asarray(picture.getchannel(band), dtype=np.float32) for band in bands], -1)


def own_brightness(image: torch.Tensor) -> tuple[float, ...]:
    """Of each channel of an image ``C H W`` alone."""
    return medians(np.asarray(image.reshape(len(image), -1).T))


def medians(values: np.ndarray) -> tuple[float, ...]:
    """Of the tissue of each channel, ``N C``."""
    tissue = [one[one > one.mean()] for one in values.T]
    return tuple(float(np.median(inside)) if len(inside) else 1.0 for inside in tissue)
