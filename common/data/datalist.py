"""Datalists: which images are labelled, unlabelled, for validation and for test, as a JSON file."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path

from common.data.datalist_rules import PARTS, validate_datalist
from common.data.files import first_few
from common.files import read_json, replacing

_PATH_KEYS = ("image", "label", "truth")
_logger = logging.getLogger(__name__)


def save_datalist(datalist: dict, path: str | Path) -> Path:
    """Write a datalist as JSON, paths relative to the file's folder, first under a temporary name.

    Raises:
        ValueError: when the datalist is not sound (see `validate_datalist`).
    """
    validate_datalist(datalist)
    path = Path(path)
    base = path.parent.resolve()
    content = dict(datalist)
    for part in PARTS:
        content[part] = [_map_paths(item, lambda file: _relative(file, base)) for item in datalist.get(part, [])]
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    try:
        encoded = text.encode()
    except UnicodeEncodeError as error:
        found = text[: error.end].splitlines()[-1].strip()
        raise ValueError(f"{path}: files must have names in UTF-8, got {found[-80:]!r}: rename the file.") from error
    with replacing(path) as temporary:
        temporary.write_bytes(encoded)
    return path


def load_datalist(path: str | Path) -> dict:
    """Read a datalist and return it with absolute paths.

    Raises:
        FileNotFoundError: when the datalist, or an image or label that it names, is missing.
        ValueError: when the file is no JSON or the datalist is not sound (see `validate_datalist`).
    """
    datalist = read_datalist(path)
    missing = [
        file for part in PARTS for item in datalist[part] for file in item_files(item) if not Path(file).exists()
    ]
    if missing:
        raise FileNotFoundError(
            f"{path}: {len(missing)} of its files are missing: {first_few(missing)}. "
            "Its paths are relative to its own folder: make it again if it or the data was moved."
        )
    return datalist


def read_datalist(path: str | Path) -> dict:
    """Read a datalist as `load_datalist` does, but without asking whether its files exist."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such datalist. Make one by `python -m common datalist`.")
    datalist = read_json(path, "make the datalist again")
    try:
        validate_datalist(datalist)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    base = path.parent.resolve()
    datalist = {"name": path.stem, "split": 0, "seed": 0, **datalist}
    for part in PARTS:
        datalist[part] = [
            _map_paths(item, lambda file: os.path.normpath(base / file)) for item in datalist.get(part, [])
        ]
    return datalist


def find_datalist(
    dataset_dir: str | Path | None,
    datalist: str | Path | None = None,
    labeled: int = 3,
    split: int = 0,
    seed: int = 0,
    fine: bool = False,
) -> dict:
    """The datalist of a dataset's folder, with absolute paths.

    That is the given file; else ``dataset_dir/datalist.json``; else one made from JSRT's layout in
    ``dataset_dir``, to which alone ``labeled``, ``split``, ``seed`` and ``fine`` apply.

    In a training that MONAI Label has begun it is that of its folder of studies, see
    `common.data.layouts.monailabel.datalist_of_training`.

    Raises:
        FileNotFoundError: when none of the three is there.
        ValueError: when the datalist is not sound, the request cannot be met, or MONAI Label hands in no label.
    """
    from common.data.layouts.monailabel import datalist_of_training

    annotated = datalist_of_training(datalist)
    if annotated is not None:
        return annotated
    if datalist is not None:
        file = Path(datalist)
        if not file.is_file() and not file.is_absolute() and dataset_dir is not None:
            file = Path(dataset_dir) / file
        return _loaded_as_is(file if file.is_file() else Path(datalist), labeled, split, seed)
    if dataset_dir is None or not Path(dataset_dir).is_dir():
        raise FileNotFoundError(
            f"dataset_dir must be a folder with a datalist.json or JSRT's layout, got {dataset_dir}, which is none. "
            "`python -m common phantom jsrt DIR` makes one for a first try."
        )
    file = Path(dataset_dir) / "datalist.json"
    if file.is_file():
        return _loaded_as_is(file, labeled, split, seed)
    from common.data.layouts.jsrt import jsrt_datalist

    try:
        return jsrt_datalist(dataset_dir, labeled=labeled, split=split, seed=seed, fine=fine)
    except FileNotFoundError as error:
        advice = "Other data than JSRT need a datalist: `python -m common datalist` makes one, for --datalist FILE."
        raise FileNotFoundError(f"{error} {advice}") from error


def not_among(items: list[dict], others: list[dict]) -> list[dict]:
    """The items whose image (and patient, where both are known) is not among the others.

    An annotation tool passes labelled images of its own, which may be among the unlabelled ones of the datalist: they
    must not be learnt from twice, and what is validated on must not be learnt from at all. Single labelled slices
    leave their volume among the unlabelled ones.
    """
    others = [item for item in others if "slice" not in item]
    images = {os.path.realpath(item["image"]) for item in others}
    patients = {str(item["patient"]) for item in others if "patient" in item}
    kept = [
        item
        for item in items
        if os.path.realpath(item["image"]) not in images and str(item.get("patient")) not in patients
    ]
    if len(kept) < len(items):
        _logger.warning(
            "%d unlabelled images are of labelled or validation ones, and left out.", len(items) - len(kept)
        )
    return kept


def summarize_datalist(datalist: dict) -> str:
    """A few lines for people: images and patients of each part, and the classes."""
    classes = datalist["classes"]
    names = ", ".join(classes) if len(classes) <= 12 else f"{len(classes)}: {first_few(classes)}"
    lines = [f"{datalist.get('name', 'datalist')}: {datalist['mode']}, classes {names}"]
    if "evaluation_classes" in datalist:
        lines.append(f"  evaluated: {', '.join(datalist['evaluation_classes'])}")
    for part in PARTS:
        items = datalist.get(part, [])
        truth = sum("truth" in item for item in items)
        note = f", {truth} of them with a hidden truth" if truth else ""
        lines.append(f"{part:>11}: {len(items)} images of {len({item['patient'] for item in items})} patients{note}")
    if datalist.get("left_out"):
        lines.append(f"   left out: {datalist['left_out']} more images of the patients above, to keep the parts apart")
    return "\n".join(lines)


def written(datalist: dict, output: str | Path | None) -> dict | None:
    """Writes a datalist and prints its summary; gives it back where there is no file to write."""
    if output is None:
        return datalist
    save_datalist(datalist, output)
    print(f"{summarize_datalist(datalist)}\nwritten to {output}")
    return None


def item_files(item: dict) -> list[str]:
    """All files that an item names."""
    files = []
    for key in _PATH_KEYS:
        value = item.get(key, [])
        files.extend([value] if isinstance(value, str) else value)
    return files


def fingerprint(datalist: dict) -> str:
    """Eight digits that say which images are in which part; the same after the whole data set has been moved."""
    base = os.path.commonpath([file for part in PARTS for item in datalist[part] for file in item_files(item)])
    parts = {
        part: [
            {key: value for key, value in item.items() if key not in _PATH_KEYS}
            | {"files": [os.path.relpath(file, base) for file in item_files(item)]}
            for item in datalist[part]
        ]
        for part in PARTS
    }
    return hashlib.sha256(json.dumps({**datalist, **parts}, sort_keys=True).encode()).hexdigest()[:8]


def _loaded_as_is(path: Path, labeled: int, split: int, seed: int) -> dict:
    datalist = load_datalist(path)
    for name, asked, default in (("labeled", labeled, 3), ("split", split, 0), ("seed", seed, 0)):
        held = len(datalist["labeled"]) if name == "labeled" else datalist.get(name)
        if asked not in (default, held):
            _logger.warning("%s is used as it is, with %s=%s; %s=%s is not applied.", path, name, held, name, asked)
    return datalist


def _map_paths(item: dict, change) -> dict:
    changed = dict(item)
    for key in _PATH_KEYS:
        if key in item:
            value = item[key]
            changed[key] = change(value) if isinstance(value, str) else [change(file) for file in value]
    return changed


def _relative(file: str, base: Path) -> str:
    # the file's own name is kept when it is a link: annexed data sets link to files named by their hash
    absolute = Path(file).parent.resolve() / Path(file).name
    try:
        return Path(os.path.relpath(absolute, base)).as_posix()
    except ValueError:  # another drive on Windows
        return str(absolute)
