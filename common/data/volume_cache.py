"""Volumes that are decoded and preprocessed once, and read from memory-mapped files afterwards."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch.utils.data import Dataset
from tqdm import tqdm

from common.files import replacing

IMAGE, LABELS = "image", ("label", "truth")
logger = logging.getLogger(__name__)


class CachedVolumes(Dataset):
    """Items of a datalist after the deterministic ``transform``, which is applied once and its result kept as files.

    An entry of the cache belongs to the files' paths, sizes and times and to the transform with all its settings: what
    changes one of them is decoded again. Arrays are NumPy files, images in half precision and labels as bytes, and are
    mapped into memory, so that drawing a patch reads the patch alone and thousands of volumes need no memory of their
    own beyond what the operating system keeps of them. MONAI's ``PersistentDataset`` reads a volume whole for each
    patch.

    Args:
        data: items with the paths of ``image`` and, where they are known, ``label`` or ``truth``.
        transform: from paths to MetaTensors ``C H W D``.
        cache_dir: folder of the cache; several datasets and runs may share one.
        set_aside: keep going without volumes that cannot be read; they are listed in :attr:`unreadable`. Otherwise the
            first of them is an error.
        progress: show a progress bar while volumes are decoded.

    Raises:
        ValueError: naming the file that cannot be used.
    """

    def __init__(
        self,
        data: Sequence[Mapping[Hashable, Any]],
        transform: Callable,
        cache_dir: str | Path,
        set_aside: bool = False,
        progress: bool = True,
    ) -> None:
        self.data, self.transform, self.folder = list(data), transform, Path(cache_dir)
        self.unreadable: dict[str, str] = {}
        self.hits = 0
        self._description = json.dumps(describe(transform))
        entries, kept = [], []
        bar = tqdm(self.data, desc="volumes", unit="volume", leave=False, disable=None if progress else True)
        for item in bar:
            try:
                entry, loaded = self._look_up(item)
            except Exception as error:
                if not set_aside or not _is_about_data(error):
                    raise
                self.unreadable[str(item[IMAGE])] = _reason(error)
                logger.warning(f"Set aside {item[IMAGE]}: {_reason(error)}")
                continue
            if loaded is not None:  # what goes wrong in writing is no fault of the volume
                self._write(entry, loaded)
            entries.append(entry)
            kept.append(item)
        self.data, self._entries = kept, entries

    def __len__(self) -> int:
        return len(self.data)

    def arrays(self, index: int) -> dict[str, np.ndarray]:
        """The volume's arrays ``C H W D`` by key, mapped into memory."""
        entry = self._entries[index]
        return {key: np.load(entry / f"{key}.npy", mmap_mode="r", allow_pickle=False) for key in self._keys(entry)}

    def affine(self, index: int) -> np.ndarray:
        """Affine of the volume after the transform, from voxels to millimetres in RAS+."""
        return np.array(json.loads((self._entries[index] / "entry.json").read_text())["affine"])

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The volume as float32 MetaTensors with its affine and each one's (first) file's name."""
        affine, item = torch.from_numpy(self.affine(index)), {}
        for key, array in self.arrays(index).items():
            meta = {"filename_or_obj": str(np.ravel(self.data[index][key])[0])}
            item[key] = MetaTensor(torch.from_numpy(np.array(array, dtype=np.float32)), affine=affine, meta=meta)
        return item

    @staticmethod
    def _keys(entry: Path) -> list[str]:
        return json.loads((entry / "entry.json").read_text())["keys"]

    def box(self, index: int) -> np.ndarray:
        """First and last-plus-one index of the voxels that are not 0, along each axis."""
        return np.array(json.loads((self._entries[index] / "entry.json").read_text())["box"])

    def _look_up(self, item: Mapping[Hashable, Any]) -> tuple[Path, dict | None]:
        """Folder of an item's arrays, and the loaded item where they are not there yet."""
        sources = {key: _identity(item[key]) for key in (IMAGE, *LABELS) if key in item}
        key = hashlib.sha256(json.dumps([sources, self._description]).encode()).hexdigest()[:24]
        entry = self.folder / key
        if (entry / "entry.json").exists():  # written last: the arrays are whole
            self.hits += 1
            return entry, None
        loaded = self.transform(dict(item))
        if not (np.asarray(loaded[IMAGE]) != 0).any():
            raise ValueError(f"{item[IMAGE]} must have voxels that are not 0, got none: leave it out of the datalist.")
        return entry, loaded

    @staticmethod
    def _write(entry: Path, loaded: dict) -> None:
        keys = [name for name in (IMAGE, *LABELS) if name in loaded]
        for name in keys:
            array = np.asarray(loaded[name], dtype=np.float16 if name == IMAGE else np.uint8)
            with replacing(entry / f"{name}.npy") as temporary:
                np.save(temporary, array, allow_pickle=False)
        affine = np.asarray(loaded[IMAGE].affine, dtype=float).tolist()
        with replacing(entry / "entry.json") as temporary:
            temporary.write_text(json.dumps({"keys": keys, "affine": affine, "box": bounding_box(loaded[IMAGE])}))


def bounding_box(image: Any) -> list[list[int]]:
    """First and last-plus-one index of the voxels of ``C H W D`` that are not 0, along each axis."""
    inside = (np.asarray(image) != 0).any(axis=0)
    lines = [np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    return [[int(line[0]) for line in lines], [int(line[-1]) + 1 for line in lines]]


def describe(thing: Any) -> Any:
    """A transform's class and settings as JSON, the same in every process; its random and working state is left out."""
    if thing is None or isinstance(thing, (bool, int, float, str)):
        return thing
    if isinstance(thing, Enum):
        return str(thing.value)
    if isinstance(thing, (list, tuple, set, frozenset)):
        parts = [describe(part) for part in thing]
        return sorted(parts, key=json.dumps) if isinstance(thing, (set, frozenset)) else parts
    if isinstance(thing, Mapping):
        return {str(key): describe(value) for key, value in thing.items()}
    if isinstance(thing, (np.ndarray, torch.Tensor)):
        return np.asarray(thing).tolist()
    name = getattr(thing, "__qualname__", None) or type(thing).__qualname__
    if isinstance(thing, (np.random.RandomState, np.random.Generator, type)) or not hasattr(thing, "__dict__"):
        return name
    return [name, {key: describe(value) for key, value in sorted(vars(thing).items()) if key not in ("R", "_tracing")}]


def _identity(files: Any) -> list[list]:
    """Path, size and time of a file, of each of several files, or of all files of a folder."""
    paths = [Path(file) for file in ([files] if isinstance(files, (str, Path)) else files)]
    found = [part for path in paths for part in (sorted(path.iterdir()) if path.is_dir() else [path])]
    missing = [str(path) for path in found if not path.exists()]
    if missing:
        raise FileNotFoundError(f"{missing[0]} must be a volume, got no such file: check the datalist's paths.")
    return [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in found]


def _is_about_data(error: BaseException) -> bool:
    """Whether an error, or what caused it, is one of our readers' about a file."""
    while error is not None:
        if isinstance(error, (ValueError, OSError)):
            return True
        error = error.__cause__
    return False


def _reason(error: BaseException) -> str:
    """The sentence of the innermost cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error)
