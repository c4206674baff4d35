"""Images that are decoded and preprocessed once, 2D and 3D."""

from __future__ import annotations

import hashlib
import json
import logging
import zlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from enum import Enum
from functools import lru_cache, partial
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import generate_spatial_bounding_box
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from common.data.fingerprints import Fingerprints
from common.errors import cause
from common.files import replacing

IMAGE, LABELS, SLICE = "image", ("label", "truth"), "slice"
DEVICE_SHARE = 0.25  # of a device's free memory that may hold images
FORMAT = 3  # of an entry of the cache
MAPPED = 64  # images of a set whose files stay open
LARGEST = float(np.finfo(np.float16).max)  # value of an image
logger = logging.getLogger(__name__)


class DecodedImages(Dataset):
    """Items of a datalist after the deterministic ``transform``, which is applied once and its result kept.

    Images are kept in half precision and labels as bytes, ``C H W [D]``. With a ``cache_dir`` they are NumPy files that
    are mapped into memory, so that drawing a patch reads the patch alone, thousands of volumes need no memory of their
    own beyond what the operating system keeps of them, and the next run finds them. An entry of the cache belongs to
    the files' paths and contents (:class:`~common.data.fingerprints.Fingerprints`) and to the transform with all its
    settings: what changes one of them is decoded again. A transform that reads more than the item's own files says so
    by ``also_reads(item)``, their paths. (MONAI's ``PersistentDataset`` reads a volume whole for each patch.) Without
    one they are kept in memory. A function among the settings counts by its name alone. Of an item with a ``slice``
    that slice alone is kept, the one of this index along the last axis, as a volume of one slice.

    Args:
        data: items with the paths of ``image`` and, where they are known, ``label`` or ``truth``.
        transform: from paths to MetaTensors ``C H W [D]``.
        cache_dir: folder of the cache; several datasets and runs may share one. None for memory.
        set_aside: keep going without images that cannot be read; they are listed in :attr:`unreadable`. Otherwise the
            first of them is an error.
        progress: show a progress bar while images are decoded.

    Raises:
        ValueError: naming the file that cannot be used.
    """

    def __init__(
        self,
        data: Sequence[Mapping[Hashable, Any]],
        transform: Callable,
        cache_dir: str | Path | None = None,
        set_aside: bool = False,
        progress: bool = True,
    ) -> None:
        self.transform, self.folder = transform, None if cache_dir is None else Path(cache_dir)
        self.data: list[Mapping[Hashable, Any]] = []
        self.unreadable: dict[str, str] = {}
        self.hits = 0
        self.tensors: list[dict[str, Tensor]] | None = None
        self._entries: list[Entry] = []
        self._mapped = lru_cache(maxsize=MAPPED)(self._map)
        if self.folder is not None:
            self._description = json.dumps(describe(transform))
            parts = getattr(transform, "transforms", [transform])
            self._also = [part.also_reads for part in parts if hasattr(part, "also_reads")]
            self._known: dict[tuple[Path, ...], list] = {}  # of files that several items share
            self._contents = Fingerprints(self.folder / "files.json")
        for item in tqdm(data, desc="images", unit="image", leave=False, disable=None if progress else True):
            try:
                entry = self._entry(item)
            except Exception as error:
                if not set_aside or not _is_about_data(error):
                    raise
                self.unreadable[str(item[IMAGE])] = cause(error)
                logger.warning(f"Set aside {item[IMAGE]}: {cause(error)}")
                continue
            self.data.append(item)
            self._entries.append(entry)
        if self.folder is not None:
            self._contents.save()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The image as float32 MetaTensors with its affine and each one's file's name, of several joined by ``|``."""
        affine, item = torch.from_numpy(self.affine(index)), {}
        for key, array in self.arrays(index).items():
            meta = {"filename_or_obj": "|".join(map(str, np.ravel(self.data[index][key])))}
            item[key] = MetaTensor(torch.from_numpy(np.array(array, dtype=np.float32)), affine=affine, meta=meta)
        return item

    def arrays(self, index: int) -> dict[str, np.ndarray]:
        """The image's arrays ``C H W [D]`` by key; those of a cache are mapped into memory, a few images at a time."""
        entry = self._entries[index]
        if entry.arrays is not None:
            return entry.arrays
        return self._mapped(index)

    def _map(self, index: int) -> dict[str, np.ndarray]:
        entry = self._entries[index]
        names = entry.header["keys"]
        return {name: np.load(entry.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names}

    def name(self, index: int) -> str:
        """The image's file, and which slice of it."""
        item = self.data[index]
        return f"{item[IMAGE]} slice {item[SLICE]}" if SLICE in item else str(item[IMAGE])

    def shape(self, index: int) -> tuple[int, ...]:
        """Size along each spatial axis."""
        return tuple(self._entries[index].header["shape"])

    def affine(self, index: int) -> np.ndarray:
        """Affine of the image after the transform, from pixels to millimetres in RAS+."""
        return np.array(self._entries[index].header["affine"])

    def box(self, index: int) -> np.ndarray:
        """First and last-plus-one index of the pixels that are not 0, along each axis."""
        return np.array(self._entries[index].header["box"])

    def range(self, index: int) -> tuple[float, float]:
        """Lowest and highest value of the image."""
        return tuple(self._entries[index].header["range"])

    def fingerprints(self) -> dict[str, str]:
        """A number for what each image and its label hold, by place and file name: it tells exchanged images.

        The folder is left out, since a data set may have been moved.
        """
        return {f"{i} {Path(self.name(i)).name}": entry.header["content"] for i, entry in enumerate(self._entries)}

    def move_to(self, device: torch.device) -> bool:
        """Keeps all images on a GPU from now on, where a quarter of its free memory is enough; says whether it is."""
        if device.type != "cuda":
            return False
        if self.tensors is None:
            needed = sum(array.nbytes for index in range(len(self)) for array in self.arrays(index).values())
            if needed <= DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
                self.tensors = [
                    {key: torch.from_numpy(np.array(array)).to(device) for key, array in self.arrays(index).items()}
                    for index in range(len(self))
                ]
        return self.tensors is not None

    def _sources(self, item: Mapping[Hashable, Any], anew: bool = False) -> dict[Hashable, list]:
        """Paths and contents of the files that decide about an item's arrays; others' are looked at once, or anew."""
        own = {key: self._contents(item[key]) for key in (IMAGE, *LABELS) if key in item}
        others = tuple(path for also in self._also for path in also(item))
        if not others:
            return own
        if anew or others not in self._known:
            self._known[others] = self._contents(others)
        return {**own, "others": self._known[others]}

    def _entry(self, item: Mapping[Hashable, Any]) -> Entry:
        """An item's arrays, decoded where the cache does not have them."""
        if self.folder is None:
            return Entry(*_decoded(self.transform, item))
        sources = self._sources(item)
        place = [item[SLICE]] if SLICE in item else []
        key = hashlib.sha256(json.dumps([FORMAT, sources, self._description, *place]).encode()).hexdigest()[:24]
        folder = self.folder / key
        header = _known(folder)
        if header is not None:
            self.hits += 1
            return Entry(header, folder=folder)
        header, arrays = _decoded(self.transform, item)
        if sources != self._sources(item, anew=True):
            raise ValueError(
                f"{item[IMAGE]} and its label must stay as they are while they are read, got changes: wait until they "
                "are written."
            )
        try:
            for name, array in arrays.items():
                with replacing(folder / f"{name}.npy", durable=False) as temporary:
                    np.save(temporary, array, allow_pickle=False)
            header["bytes"] = [(folder / f"{name}.npy").stat().st_size for name in arrays]
            with replacing(folder / "entry.json", durable=False) as temporary:
                temporary.write_text(json.dumps(header))
        except OSError as error:  # no fault of the image
            raise RuntimeError(f"the cache {self.folder} could not be written: {error}") from None
        return Entry(header, folder=folder)


class Entry(NamedTuple):
    """A decoded image: what is known about it, and its arrays or the folder that has them."""

    header: dict[str, Any]
    arrays: dict[str, np.ndarray] | None = None
    folder: Path | None = None


def _known(folder: Path) -> dict[str, Any] | None:
    """The header of an entry of the cache, written last; None where there is none, or not all of it reached the disk
    before the machine stopped."""
    try:
        header = json.loads((folder / "entry.json").read_text())
        found = [(folder / f"{name}.npy").stat().st_size for name in header["keys"]]
    except (FileNotFoundError, ValueError):
        return None
    return header if found == header["bytes"] else None


def _decoded(transform: Callable, item: Mapping[Hashable, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays of an item."""
    loaded = transform({key: value for key, value in item.items() if key != SLICE})
    loaded = of_slice(loaded, item) if SLICE in item else loaded
    image = np.asarray(loaded[IMAGE])
    if not (np.abs(image) <= LARGEST).all():
        raise ValueError(
            f"{item[IMAGE]} must have finite values of at most {LARGEST:g} for half precision, got {image.min():g} to "
            f"{image.max():g}: scale or normalise images in the preprocessing, or leave it out of the datalist."
        )
    names = [name for name in (IMAGE, *LABELS) if name in loaded]
    arrays = {name: np.asarray(loaded[name], dtype=np.float16 if name == IMAGE else np.uint8) for name in names}
    # a channel of a picture may be blank: it is the preprocessing that must not make an image so
    if not arrays[IMAGE].any() and not loaded[IMAGE].meta.get("blank"):
        raise ValueError(f"{item[IMAGE]} must have pixels that are not 0, got none: leave it out of the datalist.")
    content = 0
    for array in arrays.values():
        content = zlib.crc32(np.ascontiguousarray(array), content)
    header = {
        "keys": names,
        "shape": list(image.shape[1:]),
        "affine": np.asarray(loaded[IMAGE].affine, dtype=float).tolist(),
        "box": bounding_box(arrays[IMAGE]),
        "range": [float(image.min()), float(image.max())],
        "content": f"{content:08x}",
    }
    return header, arrays


def of_slice(loaded: Mapping[Hashable, Any], item: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
    """The slice of a loaded volume, and of its label, that an item names.

    Raises:
        ValueError: when the image has no such slice, or its slices are no longer the file's.
    """
    place, shape, meta = item[SLICE], tuple(loaded[IMAGE].shape[1:]), loaded[IMAGE].meta
    if len(shape) != 3 or place >= meta["spatial_shape"][-1]:
        found = f"{meta['spatial_shape'][-1]} slices" if len(shape) == 3 else "two axes"
        raise ValueError(f"{item[IMAGE]} must have a slice {place}, counted from 0, got an image of {found}.")
    affine = np.array(loaded[IMAGE].affine, dtype=float)
    own = np.asarray(meta["original_affine"], dtype=float)
    if shape[-1] != meta["spatial_shape"][-1] or not np.allclose(affine[:3, 2], own[:3, 2]):
        raise ValueError(
            f"{item[IMAGE]} must keep the slices of its file for the slice {place} to be found, got others from the "
            "preprocessing: take out what turns, resamples or crops along the last axis, or label whole volumes."
        )
    taken = {key: loaded[key][..., place : place + 1] for key in (IMAGE, *LABELS) if key in loaded}
    affine[:3, 3] += affine[:3, 2] * place
    taken[IMAGE] = MetaTensor(torch.as_tensor(taken[IMAGE]).as_subclass(Tensor), affine=torch.from_numpy(affine))
    return taken


def bounding_box(image: np.ndarray | Tensor) -> list[list[int]]:
    """First and last-plus-one index of the pixels of ``C H W [D]`` that are not 0, along each axis; of all of a blank
    image."""
    start, end = generate_spatial_bounding_box(image, lambda values: values != 0)
    return [list(map(int, start)), list(map(int, end if any(end) else image.shape[1:]))]


def zeros_around(size: Sequence[int], shape: Sequence[int]) -> list[int]:
    """What ``F.pad`` needs for an image in the middle of zeros where it is smaller than a size; 0 along other axes."""
    missing = np.maximum(np.subtract(size, shape), 0)[::-1]
    return [side for n in missing for side in (int(n) // 2, int(n) - int(n) // 2)]


def flat(maps: Tensor) -> Tensor:
    """Maps ``B C H W 1`` of single slices as ``B C H W``; others as they are."""
    return maps[..., 0] if maps.ndim == 5 and maps.shape[-1] == 1 else maps


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
    if isinstance(thing, (np.ndarray, np.generic, torch.Tensor)):
        return np.asarray(thing).tolist()
    if isinstance(thing, (PurePath, slice, range, torch.dtype, np.dtype, torch.device)):
        return str(thing)
    if isinstance(thing, partial):
        return ["partial", describe(thing.func), describe(thing.args), describe(thing.keywords)]
    name = getattr(thing, "__qualname__", None) or type(thing).__qualname__
    if isinstance(thing, (np.random.RandomState, np.random.Generator, type)) or not hasattr(thing, "__dict__"):
        return name
    return [name, {key: describe(value) for key, value in sorted(vars(thing).items()) if key not in ("R", "_tracing")}]


def _is_about_data(error: BaseException) -> bool:
    """Whether an error, or what caused it, is one of our readers' about a file."""
    while error is not None:
        if isinstance(error, (ValueError, OSError)):
            return True
        error = error.__cause__
    return False
