"""Whether a packed bundle is what its manifest says, and holds no code but this installation's."""

from __future__ import annotations

import hashlib
import json
import stat
import tempfile
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import BadZipFile, ZipFile, ZipInfo

import common
from common.bundle_run import BUNDLES
from common.grid.trust import PARTS, code
from common.handlers.checkpoint import load_checkpoint
from common.portable.package import CODE, MANIFEST, NEEDED

LARGEST = 2**31  # bytes of a member
RATIO = 1000  # of a member's size to that in the file; weights and texts stay far below
NULL = "$None"  # how nothing is spelled on a command line


def verify(file: str | Path) -> None:
    """Checks a packed bundle without running any of it, and prints every ``_target_`` and expression that it holds.

    Refused are members that a careless tool would write outside of the folder, links, members that are far larger than
    they look; what the manifest does not know, misses or has another SHA-256 of; code in ``common`` and ``scripts``
    that is not this installation's, byte by byte; weights that hold more than tensors and numbers; configurations with
    a ``_target_`` or expression that no bundle of this installation has (stock MONAI runs them all, with a warning).

    Args:
        file: the zip file, see :func:`~common.portable.package`.

    Raises:
        SystemExit: when anything is refused, or this installation has no bundles.
    """
    if not BUNDLES.is_dir():
        raise SystemExit(
            f"error: {BUNDLES} must hold the bundles to compare with: verify in a clone of the repository."
        )
    try:
        with ZipFile(file) as opened:
            problems = list(unsafe(opened))  # before any of it is read
            contents, found = ({}, []) if problems else unpacked(opened)
    except (OSError, BadZipFile) as error:
        raise SystemExit(f"error: {file} must be a zip file as it was packed, got {error}: copy it again.") from error
    if not problems:
        problems = [*found, *missing(contents), *strange_code(contents), *strange_weights(contents)]
        for name, place, text in commands(contents):
            known = text in allowed() or (place.endswith("_target_") and PARTS.fullmatch(text) is not None)
            print(f"{'known' if known else 'other'}: {name}: {place}: {text}")
            problems += [] if known else [f"{name}: {place} would run what no bundle of this installation does: {text}"]
    for problem in problems:
        print(f"error: {problem}")
    print(f"{file}: {len(contents)} files, {len(problems)} errors")
    if problems:
        raise SystemExit(1)


def unsafe(file: ZipFile) -> Iterator[str]:
    """Members that are not simply files inside of the one folder."""
    members = file.infolist()
    names = Counter(member.filename for member in members)
    yield from (f"{name} is there {number} times" for name, number in names.items() if number > 1)
    tops = {PurePosixPath(name).parts[:1] for name in names}
    if len(tops) != 1:
        yield f"all files must lie in one folder, got {len(tops)}: {sorted(''.join(top) for top in tops)[:3]}"
    for member in members:
        fault = unsafe_member(member)
        if fault:
            yield f"{member.filename!r} must be a file inside of its folder, got {fault}"


def unsafe_member(member: ZipInfo) -> str:
    name, mode = member.filename, member.external_attr >> 16
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or "\\" in name or ":" in name or len(parts) < 2 or member.is_dir():
        return "a name that leads elsewhere"
    if mode and not stat.S_ISREG(mode) and stat.S_IFMT(mode):
        return "a link or a device"
    if member.file_size > LARGEST or member.file_size > RATIO * max(1, member.compress_size):
        return f"{member.file_size} bytes, packed in {member.compress_size}"
    return ""


def unpacked(file: ZipFile) -> tuple[dict[str, bytes], list[str]]:
    """Content of each file by its name in the folder, and where it is not that of the manifest."""
    contents = {"/".join(PurePosixPath(name).parts[1:]): file.read(name) for name in file.namelist()}
    try:
        sums = json.loads(contents.pop(MANIFEST, b"none"))["sha256"]
        own = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        problems = [f"{name} is in the manifest and not in the file" for name in sums if name not in own]
    except (ValueError, KeyError, TypeError):
        return contents, [f"{MANIFEST} must be there with the SHA-256 of every file: pack the bundle again"]
    problems += [f"{name} is not in the manifest" for name in own if name not in sums]
    changed = [name for name in own if name in sums and own[name] != sums[name]]
    return contents, problems + [f"{name} has another SHA-256 than the manifest: it was changed" for name in changed]


def missing(contents: dict[str, bytes]) -> Iterator[str]:
    yield from (f"{name} is missing" for name in NEEDED if name not in contents)


def strange_code(contents: dict[str, bytes]) -> Iterator[str]:
    """Files that a program would run, or read as if it were one, and that are not this installation's."""
    for name, content in contents.items():
        text = name.startswith("docs/") or name == "LICENSE"
        values = name.startswith("configs/") and name.endswith(".json")
        if text or values or name in ("models/model.pt", "models/model.json"):
            continue
        if hashlib.sha256(content).hexdigest() not in own_code().get(name, ()):
            yield f"{name} is not this installation's (common {common.__version__}): read it before you run it"


@cache
def own_code() -> dict[str, set[str]]:
    """SHA-256 of this installation's files of code by their names in a packed bundle."""
    root, found = Path(common.__file__).parent, {}
    files = [(f"common/{path.relative_to(root).as_posix()}", path) for part in CODE for path in root.rglob(part)]
    # the logging of a bundle is set up by evaluating its file
    for pattern in ("scripts/*.py", "configs/logging.conf"):
        files += [(path.relative_to(path.parents[1]).as_posix(), path) for path in BUNDLES.glob(f"*/{pattern}")]
    for name, path in files:
        found.setdefault(name, set()).add(hashlib.sha256(path.read_bytes()).hexdigest())
    return found


def strange_weights(contents: dict[str, bytes]) -> Iterator[str]:
    if "models/model.pt" not in contents:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        path.write_bytes(contents["models/model.pt"])
        try:
            load_checkpoint(path)
        except ValueError as error:
            yield str(error).replace(str(path), "models/model.pt")


def commands(contents: dict[str, bytes]) -> Iterator[tuple[str, str, str]]:
    """File, place and text of all that MONAI would evaluate or call in the configurations."""
    for name, content in contents.items():
        if name.startswith("configs/") and name.endswith(".json"):
            try:
                config = json.loads(content)
            except ValueError as error:
                yield name, "all of it", f"no JSON: {error}"
            else:
                yield from ((name, place, text) for place, text in evaluated(config))


def evaluated(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every ``_target_``, expression and part of another file, allowed or not."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from evaluated(inner, f"{place}#{key}".lstrip("#"))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from evaluated(inner, f"{place}#{index}")
    elif place.endswith("_target_") or next(code(value, place), None):
        yield place, str(value)


@cache
def allowed() -> frozenset[str]:
    """The ``_target_`` and expressions of this installation's bundles."""
    configs = [json.loads(path.read_text()) for path in BUNDLES.glob("*/configs/*.json")]
    return frozenset(text for config in configs for _, text in evaluated(config)) | {NULL}
