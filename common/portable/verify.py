"""Whether a packed bundle is what its manifest says, and holds no code but this installation's."""

from __future__ import annotations

import hashlib
import json
import stat
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import common
from common.bundle_run import BUNDLES
from common.files import read_json
from common.grid.trust import PARTS, code
from common.handlers.checkpoint import load_checkpoint
from common.portable.package import CODE, MANIFEST, NEEDED, texts

LARGEST = 2**32  # bytes of all members
RATIO = 1000  # of a member's size to that in the file; weights and texts stay far below
NULL = "$None"  # how nothing is spelled on a command line
# texts that a run may set: nothing of a bundle looks up a class or a function by them
FREE = {"name", "device", "mode", "dataset_dir", "output_ext", "classes#*", "channel"}
FREE_IN = ("network_def#",)  # names of norms and activations, from MONAI's own list
PAGES = ("docs/README.md", "docs/data_license.txt", "LICENSE")


def verify(file: str | Path, output: str | Path | None = None) -> None:
    """Checks a packed bundle without running any of it, and prints every ``_target_`` and expression that it holds.

    Refused are members that a careless tool would write outside of the folder or under another name, links, members
    that are far larger than they look; what the manifest does not know, misses or has another SHA-256 of; code in
    ``common`` and ``scripts`` that is not this installation's, byte by byte; weights that hold more than tensors and
    numbers; configurations with a ``_target_``, an expression or any text that the same bundle of this installation
    does not have at that place, but for parts of methods and a few settings (stock MONAI runs them all, with a warning;
    a text may name a function, too).

    Args:
        file: the zip file, see :func:`~common.portable.package`.
        output: folder to make, for what was read and verified; other tools may see other names in a zip file.

    Raises:
        SystemExit: when anything is refused, or this installation has no bundles.
    """
    if not BUNDLES.is_dir():
        raise SystemExit(
            f"error: {BUNDLES} must hold the bundles to compare with: verify in a clone of the repository."
        )
    if output is not None and Path(output).exists():
        raise SystemExit(f"error: output must be a folder that is not there yet, got {output}.")
    try:
        with ZipFile(file) as opened:
            problems = list(unsafe(opened))  # before any of it is read
            contents, found = ({}, []) if problems else unpacked(opened)
    except (OSError, BadZipFile, zlib.error, EOFError) as error:
        raise SystemExit(f"error: {file} must be a zip file as it was packed, got {error}: copy it again.") from error
    if not problems:
        problems = [*found, *missing(contents), *strange_code(contents), *strange_weights(contents)]
        problems += strange_settings(contents)
    for problem in problems:
        print(f"error: {problem}")
    print(f"{file}: {len(contents)} files, {len(problems)} errors")
    if problems:
        raise SystemExit(1)
    if output is not None:
        write(contents, Path(output))


def write(contents: dict[str, bytes], output: Path) -> None:
    """Makes a folder of files, all of them or none."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as temporary:
        folder = Path(temporary) / output.name
        for name, content in contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        folder.replace(output)


def unsafe(file: ZipFile) -> Iterator[str]:
    """Members that are not simply files inside of the one folder."""
    members = file.infolist()
    names = Counter(member.filename.casefold() for member in members)
    yield from (f"{name} is there {number} times" for name, number in names.items() if number > 1)
    tops = {PurePosixPath(member.filename).parts[:1] for member in members}
    if len(tops) != 1:
        yield f"all files must lie in one folder, got {len(tops)}: {sorted(''.join(top) for top in tops)[:3]}"
    size = sum(member.file_size for member in members)
    if size > LARGEST:
        yield f"all files must be at most {LARGEST} bytes, got {size}"
    for member in members:
        fault = unsafe_member(member)
        if fault:
            yield f"{member.filename!r} must be a file inside of its folder, got {fault}"


def unsafe_member(member: ZipInfo) -> str:
    name, mode = member.filename, member.external_attr >> 16
    parts = PurePosixPath(name).parts
    strange = set(name) & set("\\:") or not name.isprintable() or "/".join(parts) != name
    if strange or ".." in parts or name.startswith("/") or len(parts) < 2 or member.is_dir():
        return "a name that leads elsewhere"
    if member.extra or member.orig_filename != name:
        return "another name beside this one"
    if mode and not stat.S_ISREG(mode) and stat.S_IFMT(mode):
        return "a link or a device"
    if member.flag_bits & 1 or member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        return "one that is encrypted, or packed in a way that is not used here"
    if member.file_size > RATIO * max(1, member.compress_size):
        return f"{member.file_size} bytes, packed in {member.compress_size}"
    return ""


def unpacked(file: ZipFile) -> tuple[dict[str, bytes], list[str]]:
    """Content of each file by its name in the folder, and where it is not that of the manifest."""
    contents = {"/".join(PurePosixPath(name).parts[1:]): file.read(name) for name in file.namelist()}
    try:
        sums = dict(json.loads(contents.pop(MANIFEST, b"none"))["sha256"])
        own = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        problems = [f"{name} is in the manifest and not in the file" for name in sums if name not in own]
    except (ValueError, KeyError, TypeError, RecursionError):
        return contents, [f"{MANIFEST} must be there with the SHA-256 of every file: pack the bundle again"]
    problems += [f"{name} is not in the manifest" for name in own if name not in sums]
    changed = [name for name in own if name in sums and own[name] != sums[name]]
    return contents, problems + [f"{name} has another SHA-256 than the manifest: it was changed" for name in changed]


def missing(contents: dict[str, bytes]) -> Iterator[str]:
    yield from (f"{name} is missing" for name in NEEDED if name not in contents)


def strange_code(contents: dict[str, bytes]) -> Iterator[str]:
    """Files that a program would run, or read as if it were one, and that are not this installation's."""
    for name, content in contents.items():
        values = name.startswith("configs/") and name.endswith(".json") and name.count("/") == 1
        if values or name in (*PAGES, "models/model.pt", "models/model.json"):
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


def strange_settings(contents: dict[str, bytes]) -> list[str]:
    """What no bundle of this installation would run, by the one that it is most like; prints all that would be run."""
    configs, problems = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for name, content in contents.items():
            if name.startswith("configs/") and name.endswith(".json"):
                path = Path(folder) / "config.json"
                path.write_bytes(content)
                try:
                    configs[name] = read_json(path, "pack it again")
                except ValueError as error:
                    problems.append(str(error).replace(str(path), name))
    strange = min(([*others(configs, known)] for known in own_texts()), key=len)
    for name, config in configs.items():
        for place, text in texts(config):
            if is_code(place, text):
                print(f"{'other' if (name, place, text) in strange else 'known'}: {name}: {place}: {text}")
    told = "would run or name what no bundle of this installation does there"
    return problems + [f"{name}: {place} {told}: {text}" for name, place, text in strange]


def others(configs: dict[str, Any], known: frozenset[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    """File, place and text of what is not known."""
    for name, config in configs.items():
        free = list(parts_of(config))
        for place, text in texts(config):
            # says what the bundle is, and runs nothing
            if (name == "configs/metadata.json" or place.startswith("_meta_#")) and not is_code(place, text):
                continue
            inside = any(place.startswith(f"{one}#") for one in free)
            if (place, text) in known or text == NULL:
                continue
            if not is_code(place, text) and (place in FREE or place.startswith(FREE_IN) or inside):
                continue
            if inside and place.endswith("_target_") and PARTS.fullmatch(text):
                continue
            yield name, place, text


def is_code(place: str, text: str) -> bool:
    """Whether MONAI would call it, or evaluate it."""
    return place.endswith(("_target_", "imports#*")) or next(code(text, place), None) is not None


def parts_of(value: Any, place: str = "") -> Iterator[str]:
    """Places of what is made of parts of a method, a network or an optimizer, in which names are theirs."""
    if isinstance(value, dict):
        if PARTS.fullmatch(str(value.get("_target_"))):
            yield place
        for key, inner in value.items():
            yield from parts_of(inner, f"{place}#{key.removeprefix('+')}".lstrip("#"))
    elif isinstance(value, list):
        for inner in value:
            yield from parts_of(inner, f"{place}#*")


@cache
def own_texts() -> list[frozenset[tuple[str, str]]]:
    """Place and text of all configurations of each bundle of this installation."""
    folders = sorted(path.parent for path in BUNDLES.glob("*/configs/train.json"))
    return [
        frozenset(
            found
            for path in folder.glob("*.json")
            if path.name != "metadata.json"
            for found in texts(read_json(path, "get the repository again"))
        )
        for folder in folders
    ]
