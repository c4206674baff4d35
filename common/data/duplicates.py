"""Files that are, byte by byte, in two parts of a datalist."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.data.datalist_rules import PARTS
from common.data.files import file_suffix, is_dicom
from common.data.fingerprints import Fingerprints
from common.data.metaimage import data_file

LEARNT = {"labeled", "unlabeled"}


def refuse_duplicates(datalist: Mapping[str, Any], cache_dir: str | Path | None = None) -> None:
    """Refuses a validation or test image whose file is, byte by byte, one of another part, whatever it is called.

    Files of equal size alone are read, and of these only what the cache of decoded images does not remember. A DICOM
    series is all its files, of which one is enough; an MHD file is its data. Copies within a part, and unlabelled
    copies of labelled images, pass: they tell nothing about what is scored. Copies that were written anew are found
    by `common.data.check`.

    Args:
        datalist: with absolute paths, see `common.data.datalist.load_datalist`.
        cache_dir: folder of the cache of decoded images.

    Raises:
        ValueError: naming two files.
    """
    owners: dict[Path, dict[str, str]] = defaultdict(dict)  # of each file: the image that it is of, by part
    for part in PARTS:
        for image in {item["image"]: None for item in datalist.get(part, [])}:
            for path in _files(Path(image)):
                owners[path][part] = image
    sizes: dict[int, list[Path]] = defaultdict(list)
    for path in owners:
        sizes[path.stat().st_size].append(path)
    contents = Fingerprints(None if cache_dir is None else Path(cache_dir) / "files.json")
    same: dict[str, dict[str, str]] = defaultdict(dict)
    for paths in sizes.values():
        if _leak({part for path in paths for part in owners[path]}):
            for path in paths:
                same[contents(path)[-1][1]].update(owners[path])
    contents.save()
    pairs = {tuple((image, part) for part, image in found.items())[-2:] for found in same.values() if _leak(found)}
    if pairs:
        (one, part), (other, scored) = min(pairs)
        raise ValueError(
            f"{other} ({scored}) must be another image than {one} ({part}), got the same content, byte by byte"
            f"{f', and {len(pairs) - 1} more such pairs' if len(pairs) > 1 else ''}: what is learnt from must not be "
            "scored. Take one of each pair out of the datalist."
        )


def _leak(parts: Any) -> bool:
    return len(set(parts)) > 1 and not set(parts) <= LEARNT


def _files(image: Path) -> list[Path]:
    """The files that tell whether two images are one; none of an image that cannot be read."""
    try:
        if image.is_dir():
            return sorted(path for path in image.iterdir() if path.is_file() and is_dicom(path))
        path = data_file(image) if file_suffix(image) in (".mhd", ".mha") else image
        return [path] if path.is_file() else []
    except (OSError, ValueError):  # what is wrong with it is said, or set aside, where it is decoded
        return []
