"""Whether a bundle, packed or a folder, is whole and holds no code but this installation's."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from functools import cache
from importlib.machinery import all_suffixes
from pathlib import Path

import common
from common.bundle_run import BUNDLES
from common.handlers.checkpoint import load_checkpoint
from common.portable.archive import in_archive
from common.portable.configurations import strange_settings
from common.portable.package import CODE, NEEDED, members

PROGRAM = ("common", "configs", "scripts")  # folders of which everything is looked at
WRITTEN = ("eval", "cache")  # folders that runs write to, and that nothing is imported from
PAGES = ("docs/README.md", "docs/data_license.txt", "LICENSE")


def verify(file: str | Path, output: str | Path | None = None, trusted: bool = False) -> None:
    """Checks a bundle before any of it is run, and prints every ``_target_`` and expression that it holds.

    Refused of a packed one are members that a careless tool would write outside of the folder or under another name,
    links, members that are far larger than they look; what the manifest does not know, misses or has another SHA-256
    of. Refused of any is code in ``common`` and ``scripts``, or wherever Python would import it, that is not this
    installation's, byte by byte; weights that hold more than tensors and numbers; configurations with a ``_target_``,
    an expression or any text that the same bundle of this installation does not have at that place, but for parts of
    methods and a few settings (stock MONAI runs them all, with a warning; a text may name a function, too).

    Of a folder with nothing of that, what would be packed is tried in a copy, as MONAI's model zoo does:
    :func:`~common.portable.zoo.zoo_problems`.

    Args:
        file: the zip file, see :func:`~common.portable.package`, or the folder of a run or another trained bundle.
        output: folder to make, for what was read and verified; other tools may see other names in a zip file.
        trusted: the folder is your own: code that this installation does not have is run, not refused.

    Raises:
        SystemExit: when anything is refused, or this installation has no bundles.
    """
    folder = Path(file).is_dir()
    if not BUNDLES.is_dir():
        raise SystemExit(
            f"error: {BUNDLES} must hold the bundles to compare with: verify in a clone of the repository."
        )
    if output is not None and Path(output).exists():
        raise SystemExit(f"error: output must be a folder that is not there yet, got {output}.")
    if trusted and not folder:
        raise SystemExit(f"error: trusted must be left out of a packed bundle, got {file}: unpack it, if it is yours.")
    contents, problems = in_folder(Path(file)) if folder else in_archive(file)
    if contents or not problems:
        strange = [*strange_code(contents), *strange_settings(contents)]
        problems += [*missing(contents), *strange_weights(contents), *([] if trusted else strange)]
    if folder and not problems:
        problems = tried(contents)
    for problem in problems:
        print(f"error: {problem}")
    print(f"{file}: {len(contents)} files, {len(problems)} errors")
    if problems:
        raise SystemExit(1)
    if output is not None:
        write(contents, Path(output))


def in_folder(root: Path) -> tuple[dict[str, bytes], list[str]]:
    """What would be packed of a folder and what else Python or MONAI would run there, and what cannot be looked at."""
    contents = {name: content for name, content in members(root) if not name.startswith("common/")}
    problems = []
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if name.parts[0] in WRITTEN:
            continue
        if path.is_dir() and path.is_symlink():
            problems.append(f"{name} must be a folder, got a link to one, which is not followed: copy it")
        elif path.is_dir() and path.name == "__pycache__":
            problems.append(f"{name} must not be there, got code that is compiled, which nobody reads: remove it")
        elif path.is_dir() or path.parent.name == "__pycache__":
            continue
        elif name.parts[0] in PROGRAM or path.name.endswith(tuple(all_suffixes())):
            contents.setdefault(name.as_posix(), path.read_bytes())
    return contents, problems


def tried(contents: dict[str, bytes]) -> list[str]:
    """What MONAI's model zoo would refuse."""
    from common.portable.zoo import LARGE, zoo_problems

    for name in sorted(name for name, content in contents.items() if len(content) > LARGE):
        print(f"note: {name} has {len(contents[name])} bytes: to the model zoo it goes by an address, large_files.yml")
    with tempfile.TemporaryDirectory() as temporary:
        write(contents, Path(temporary) / "bundle")
        return list(zoo_problems(Path(temporary) / "bundle"))


def write(contents: dict[str, bytes], output: Path) -> None:
    """Makes a folder of files, all of them or none."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as temporary:
        folder = Path(temporary) / output.name
        for name, content in contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        folder.replace(output)


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
