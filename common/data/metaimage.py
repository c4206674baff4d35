"""Looks at the header of an MHD or MHA file before ITK reads it, which takes much for granted."""

from __future__ import annotations

import math
import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

import numpy as np

from common.data.files import file_suffix
from common.data.stored_voxels import StoredVoxels

METAIMAGE_SUFFIXES = (".mhd", ".mha")
BYTES = {"CHAR": 1, "SHORT": 2, "INT": 4, "LONG": 4, "LONG_LONG": 8}  # of MET_LONG four everywhere, as ITK has it
TYPES = {f"MET_{sign}{name}": size for sign in ("", "U") for name, size in BYTES.items()}
TYPES |= {"MET_FLOAT": 4, "MET_DOUBLE": 8}
# What ITK passes over, or takes for something else, with the only value that changes nothing; they may be left out.
PLAIN = {
    "ObjectType": "Image",
    "BinaryData": "True",
    "HeaderSize": "0",
    "ElementNumberOfChannels": "1",
    "ElementToIntensityFunctionSlope": "1",
    "ElementToIntensityFunctionOffset": "0",
    "DistanceUnits": "mm",
}
LOCAL = "local"  # as ElementDataFile: in the file itself
HIGH_FIRST = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
TRUE, FALSE = ("true", "t", "1"), ("false", "f", "0")
LONGEST = 2**16  # characters of a line
_ENTRY = re.compile(r"(\w+)\s*[=:]\s*(.*)")


class Header(NamedTuple):
    """A header's entries, and the byte after its last line, at which the data of an .mha begin."""

    entries: dict[str, str]
    end: int


def check_metaimage(path: str | Path) -> StoredVoxels | None:
    """Refuses an MHD or MHA file that ITK would read wrongly without a word; passes over files of other kinds.

    Whether its voxels are whole is seen when they have been read, by what is returned.

    Left to itself, ITK reads whatever file the header names, wherever it lies; the first bytes of one that is too long;
    what little there is of compressed data that are cut off or damaged, and beyond them whatever the memory held;
    negative sides of voxels as positive ones and missing ones as 1 mm; several channels as their weighted mean.

    Raises:
        ValueError: naming the file.
    """
    path = Path(path)
    if file_suffix(path) not in METAIMAGE_SUFFIXES:
        return None
    header = read_header(path)
    entries = header.entries
    shape = _numbers(path, entries, "DimSize", int)
    kind = entries["ElementType"]
    if kind not in TYPES:
        raise ValueError(f"{path} must have an ElementType among {', '.join(TYPES)}, got {kind}: convert the file.")
    for key, plain in PLAIN.items():
        if not _same(entries.get(key, plain), plain):
            raise ValueError(f"{path} must have {key} = {plain} or none, got {entries[key]}: convert the file.")
    _check_voxels(path, entries, len(shape))
    stored = _stored(path, header, TYPES[kind] * math.prod(shape))
    stored.require_possible()
    return stored


def read_header(path: Path) -> Header:
    """The entries ``key = value`` of a header up to ElementDataFile, which is its last one.

    Raises:
        ValueError: naming the file: no such header, an entry that is missing or there twice.
    """
    entries: dict[str, str] = {}
    with path.open("rb") as file:
        while match := _ENTRY.fullmatch(file.readline(LONGEST).decode("latin-1").strip()):
            key, value = match.groups()
            if entries.setdefault(key, value) != value:
                raise ValueError(f"{path} must say {key} once in its header, got two values: remove one of the lines.")
            if key == "ElementDataFile":
                break
        end = file.tell()
    missing = [key for key in ("NDims", "DimSize", "ElementType", "ElementDataFile") if not entries.get(key)]
    if missing:
        raise ValueError(
            f"{path} must have a MetaImage header, lines of 'key = value' that end with ElementDataFile, got none with "
            f"{', '.join(missing)}: it may be cut off, or another kind of file."
        )
    return Header(entries, end)


def data_file(path: str | Path) -> Path:
    """The file with the voxels of an MHD or MHA file; the file itself where they follow the header.

    Raises:
        ValueError: naming the file, where its header names several files or one outside its folder.
    """
    path = Path(path)
    name = read_header(path).entries["ElementDataFile"]
    if name.lower() == LOCAL:
        return path
    if name.startswith("LIST") or "%" in name:  # so ITK takes them
        raise ValueError(
            f"{path} must have its voxels in one file, got ElementDataFile = {name}: write it again as one, as "
            "itk.imwrite does."
        )
    if any(kind(name).anchor or ".." in kind(name).parts for kind in (PurePosixPath, PureWindowsPath)):
        raise ValueError(
            f"{path} must have its voxels beside it, got ElementDataFile = {name}, which leads out of its folder: move "
            "the data there, and give their name alone."
        )
    return path.parent / name


def _check_voxels(path: Path, entries: dict[str, str], dimensions: int) -> None:
    """Sides above 0, which a volume must have, and axes that are at right angles and of length 1."""
    sides = [key for key in ("ElementSpacing", "ElementSize") if key in entries]
    if not sides and dimensions > 2:
        raise ValueError(
            f"{path} must give the sides of its voxels in mm, got no ElementSpacing: add it to the header, as "
            f"ElementSpacing = {' '.join(['1.5'] * dimensions)}."
        )
    for key in sides:
        _numbers(path, entries, key, float)
    for key in ("TransformMatrix", "Rotation", "Orientation"):
        if key in entries:
            axes = np.array(_numbers(path, entries, key, float, dimensions**2)).reshape(dimensions, dimensions)
            if not np.allclose(axes @ axes.T, np.eye(dimensions), atol=1e-2):
                raise ValueError(
                    f"{path} must have axes of length 1 at right angles, got {key} = {entries[key]}: leave it to "
                    "ElementSpacing how large voxels are."
                )


def _stored(path: Path, header: Header, size: int) -> StoredVoxels:
    """Where the voxels are; as many bytes of compressed ones as the header says."""
    data, packed = data_file(path), _flag(path, header.entries, "CompressedData")
    if not data.is_file():
        raise ValueError(f"{path} must have its voxels in {data.name} beside it, got no such file: copy both files.")
    start = header.end if header.entries["ElementDataFile"].lower() == LOCAL else 0
    there = data.stat().st_size - start
    said = header.entries.get("CompressedDataSize")
    if packed and said is None and start:  # ITK takes none of them, and leaves the voxels as they are in memory
        raise ValueError(
            f"{path} must say how many bytes of compressed data follow its header, got no CompressedDataSize: copy it "
            "again, or write it anew."
        )
    if packed and said is not None and said != str(there):
        raise ValueError(
            f"{path} must have {said} bytes of compressed data in {data.name}, by its header, got {there}: the file "
            "has been cut off or exchanged. Copy it again."
        )
    shape, kind = " x ".join(header.entries["DimSize"].split()), header.entries["ElementType"]
    return StoredVoxels(path, data, start, packed, _high_first(path, header.entries), shape, kind, size)


def _high_first(path: Path, entries: dict[str, str]) -> bool:
    """The order of bytes, for which there are two keys."""
    said = {key: _flag(path, entries, key) for key in HIGH_FIRST if key in entries}
    if len(set(said.values())) > 1:
        raise ValueError(
            f"{path} must say one order of bytes, got {' and '.join(f'{key} = {entries[key]}' for key in said)}: "
            "correct its header."
        )
    return any(said.values())


def _flag(path: Path, entries: dict[str, str], key: str) -> bool:
    """An entry that is true or, as where there is none, false; ITK takes any other word for false."""
    value = entries.get(key, "False")
    if value.lower() not in TRUE + FALSE:
        raise ValueError(f"{path} must have {key} = True or False, got {value}: correct its header.")
    return value.lower() in TRUE


def _numbers(path: Path, entries: dict[str, str], key: str, kind: type, count: int | None = None) -> list:
    """The numbers of an entry, one for each axis unless ``count`` says otherwise; sizes and sides are above 0."""
    try:
        axes = int(entries["NDims"])
        values = [kind(word) for word in entries[key].split()]
        sound = len(values) == (count or axes) > 0 and bool(np.isfinite(np.array(values, dtype=float)).all())
    except (ValueError, OverflowError):
        sound = False
    if not sound or (count is None and min(values) <= 0):
        which = "above 0, one for each axis" if count is None else f"of which there are {count}"
        raise ValueError(
            f"{path} must have {'whole' if kind is int else 'finite'} numbers as {key}, {which}, got "
            f"{entries[key][:50] or 'none'} with NDims = {entries['NDims']}: correct its header."
        )
    return values


def _same(value: str, plain: str) -> bool:
    """Whether an entry has the value, numbers in any form; a unit that is not known is "?"."""
    if value.lower() in (plain.lower(), "?") or (plain == "True" and value.lower() in TRUE):
        return True
    try:
        return float(value) == float(plain)
    except ValueError:
        return False
