"""Looks at the header of an NRRD file before ITK reads it, which takes much for granted."""

from __future__ import annotations

import math
import re
from pathlib import Path

from common.data.stored_voxels import StoredVoxels

LONGEST = 2**16  # characters of a line
SKIPS = ("line skip", "lineskip", "byte skip", "byteskip")
# of a type without its sign, which has many names (unsigned short int, ushort, uint16_t)
BYTES = {"char": 1, "short": 2, "int": 4, "longlong": 8, "long long": 8, "float": 4, "double": 8}
BYTES |= {"int8": 1, "int16": 2, "int32": 4, "int64": 8}
_DECORATION = re.compile(r"^(un)?signed |^u(?=[csil])|(?<=short|.long) int$|_t$")
_SIZE = re.compile(r"0*[1-9][0-9]{0,8}")
MILLIMETRES = {"mm", "millimeter", "millimeters", "???"}
PLACES = {"domain", "space", "time", "none", "???"}  # kinds of axes along which there are voxels, not channels


def check_nrrd(path: str | Path) -> StoredVoxels | None:
    """Refuses a file with an NRRD header that ITK would read wrongly without a word; passes over other kinds of files.

    Left to itself, ITK reads whatever file the header names, wherever it lies; several channels as one; voxels whose
    sides are missing as ones of 1 mm, and sides in other units as mm; and more compressed data than there are voxels.
    Voxels that are text, or compressed by bzip2, are left to it.

    Whether the voxels are whole is seen when they have been read, by what is returned.

    Raises:
        ValueError: naming the file.
    """
    path = Path(path)
    with path.open("rb") as file:
        if not file.readline(64).startswith(b"NRRD"):
            return None
        lines = [line.decode("latin-1") for line in iter(lambda: file.readline(LONGEST).strip(), b"")]  # up to an empty
        start = file.tell()
    parts = [line.partition(":") for line in lines if not line.startswith("#")]
    entries = {key.strip().lower(): value.strip() for key, _, value in parts}
    elsewhere = entries.get("data file", entries.get("datafile"))
    if elsewhere is not None:
        raise ValueError(
            f"{path} must hold its voxels itself, got a header that says they are in {elsewhere}: write it again as "
            "one .nrrd file, as itk.imwrite does."
        )
    kinds = entries.get("kinds", "")
    if not set(kinds.lower().split()) <= PLACES:
        raise ValueError(f"{path} must have one channel, got axes of the kinds {kinds}: write one channel alone.")
    if len(entries.get("sizes", "").split()) > 2:
        _require_sides(path, entries)
    return _stored(path, entries, start)


def _require_sides(path: Path, entries: dict[str, str]) -> None:
    """Refuses voxels whose sides are unknown, or given in another unit, both of which ITK takes for mm."""
    sides = entries.get("space directions", entries.get("spacings"))
    units = entries.get("space units", entries.get("units", "")).replace('"', " ")
    if sides is None:
        found = "neither 'space directions' nor 'spacings'"
    elif not set(units.lower().split()) <= MILLIMETRES:
        found = f"the units {' '.join(units.split())}"
    elif {"nan", "none"} & set(re.split(r"[\s(),]+", sides.lower())):
        found = sides
    else:
        return
    raise ValueError(
        f"{path} must give the sides of its voxels in mm, got {found}: correct its header, as spacings: 1.5 1.5 1.5."
    )


def _stored(path: Path, entries: dict[str, str], start: int) -> StoredVoxels | None:
    """Where the voxels are and how, if they are binary; ITK finds out what else the header must say."""
    if any(entries.get(key, "0") != "0" for key in SKIPS):
        raise ValueError(
            f"{path} must have its voxels right after its header, got a header that skips lines or bytes: write "
            "it again, as itk.imwrite does."
        )
    sizes = entries.get("sizes", "").split()
    if not sizes or not all(_SIZE.fullmatch(size) for size in sizes):
        raise ValueError(
            f"{path} must have whole numbers above 0 as sizes, of 9 digits at most, got "
            f"{' '.join(sizes)[:50] or 'none'}: correct its header."
        )
    encoding, kind = entries.get("encoding", "").lower(), entries.get("type", "none")
    voxel = BYTES.get(_DECORATION.sub("", kind.lower()))
    if encoding not in ("raw", "gzip", "gz") or voxel is None:
        return None
    packed, swapped = encoding != "raw", entries.get("endian", "").lower() == "big"
    size = voxel * math.prod(map(int, sizes))
    stored = StoredVoxels(path, path, start, packed, swapped, " x ".join(sizes), kind, size)
    stored.require_possible()
    return stored
