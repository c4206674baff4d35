"""One zip file of a trained bundle: configurations, weights, scripts and the shared code."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import common
from common.files import read_json, replacing

MANIFEST = "manifest.json"
NEEDED = ("configs/train.json", "configs/inference.json", "configs/metadata.json", "models/model.pt")
PARTS = ("configs/*.json", "configs/logging.conf", "models/model.pt", "models/model.json", "scripts/*.py")
PARTS += ("docs/README.md", "docs/data_license.txt", "LICENSE")
PLACED = ("configs/train.json", "configs/inference.json", "configs/evaluate.json")
CODE = ("*.py", "Snakefile", "templates/*", "metadata_schema.json")  # of the package common
# where the data of a training lie is of no use elsewhere, and tells names of patients and folders; the last two are
# what MONAI Label writes
OWN = {
    ("dataset_dir",): "data",
    ("datalist",): None,
    ("data", "datalist"): "@datalist",
    ("train", "dataset", "data"): "$@data['labeled']",
    ("validate", "dataset", "data"): "$@data['validation']",
}
MOMENT = (1980, 1, 1, 0, 0, 0)  # of every member, so that the same bundle gives the same file
logger = logging.getLogger(__name__)


def package(run: str | Path, output: str | Path) -> Path:
    """Packs a run's bundle with the shared code: it infers and trains where this repository never was.

    The file holds one folder, called as the file: the bundle, the package ``common`` beside its configurations, and
    ``manifest.json`` with the SHA-256 of every other member. What a training has written beside (logs, scores,
    pictures, checkpoints, which tell of patients) and where its data were stay behind. From that folder, ``python -m
    monai.bundle run training ...`` takes the ``common`` that lies there.

    Args:
        run: folder of a run, or any bundle that has been trained.
        output: the zip file to write.

    Returns:
        The file.

    Raises:
        FileNotFoundError: when there is no trained bundle.
        ValueError: when the output is not called ``.zip``, or a configuration holds a path of this machine.
    """
    root, output = Path(run), Path(output)
    if output.suffix != ".zip":
        raise ValueError(f"output must be a .zip file, got {output}: call it {output.stem}.zip.")
    require_trained(root, NEEDED)
    sums: dict[str, str] = {}
    with replacing(output) as temporary, ZipFile(temporary, "w") as file:
        for name, content in members(root):
            sums[name] = hashlib.sha256(content).hexdigest()
            add(file, f"{output.stem}/{name}", content)
        add(file, f"{output.stem}/{MANIFEST}", manifest(sums))
    logger.info(f"{output}: {len(sums)} files")
    return output


def require_trained(root: Path, needed: Sequence[str]) -> None:
    """Refuses a folder that lacks files of a trained bundle.

    Raises:
        FileNotFoundError: naming them.
    """
    missing = [name for name in needed if not (root / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{root} must be the folder of a finished run or another trained bundle, got none of its "
            f"{', '.join(missing)}: train first, or give its path."
        )


def manifest(sums: dict[str, str]) -> bytes:
    return json.dumps({"common": common.__version__, "sha256": sums}, indent=1).encode()


def members(root: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file, sorted."""
    found = {path.relative_to(root).as_posix(): path for part in PARTS for path in root.glob(part)}
    code = Path(common.__file__).parent
    found |= {f"common/{path.relative_to(code).as_posix()}": path for part in CODE for path in code.rglob(part)}
    for name in sorted(found):
        content = found[name].read_bytes()
        yield name, without_places(found[name]) if name in PLACED else content


def without_places(path: Path) -> bytes:
    """A configuration without where its data were.

    Raises:
        ValueError: when there is still a path of this machine in it.
    """
    config = read_json(path, "make the bundle again")
    changed = False
    for keys, value in OWN.items():
        inner = config
        for key in keys[:-1]:
            inner = inner.get(key) if isinstance(inner, dict) else None
        if isinstance(inner, dict) and inner.get(keys[-1], value) != value and not is_code(inner[keys[-1]]):
            inner[keys[-1]], changed = value, True
    for place, text in texts(config):
        if text.startswith(("/", "~")) or "\\" in text or re.match(r"[A-Za-z]:", text):
            raise ValueError(
                f"{path} must hold no path of this machine, which would be given away, got {place}: {text}: train with "
                "a relative one, or take it out."
            )
    return json.dumps(config, indent=4).encode() + b"\n" if changed else path.read_bytes()


def is_code(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(("$", "@"))


def texts(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a configuration with its place, ``*`` for an index; ``#`` is between ids, for which MONAI writes
    ``::`` where it has read them."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from texts(inner, f"{place}#{key.removeprefix('+')}".lstrip("#"))
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner, f"{place}#*")
    elif isinstance(value, str):
        yield place, value.replace("::", "#")


def add(file: ZipFile, name: str, content: bytes) -> None:
    member = ZipInfo(name, MOMENT)
    member.external_attr, member.compress_type = 0o644 << 16, ZIP_DEFLATED
    file.writestr(member, content)
