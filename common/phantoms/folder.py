"""The folder that a phantom is written to: whole, or not there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LARGEST = 1024  # pixels or voxels of a side


def require_empty(directory: str | Path) -> Path:
    """The folder, where it holds nothing yet.

    Raises:
        FileExistsError: when it holds something.
    """
    folder = Path(directory)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} must be empty, got a folder with files: remove it, or give another one.")
    return folder


def require_at_least(seed: int, **numbers: tuple[float, float]) -> None:
    """Refuses numbers below the least that each may be, and a `size` that no memory holds.

    Raises:
        ValueError: naming the first.
    """
    for name, (value, least) in {"seed": (seed, 0), **numbers}.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}.")
        if name == "size" and value > LARGEST:
            raise ValueError(f"{name} must be at most {LARGEST}, got {value}.")


def sizes_of_parts(patients: int) -> dict[str, int]:
    """How many of a phantom's patients are for validation, an eighth, and for test, a quarter."""
    return {"validation": max(1, patients // 8), "test": max(1, patients // 4)}


@contextmanager
def made_beside(folder: Path) -> Iterator[Path]:
    """Yields a folder to write to, which takes the place of ``folder`` once all went well."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as name:
        made = Path(name) / "phantom"
        made.mkdir()
        yield made
        if folder.exists():
            folder.rmdir()
        shutil.move(made, folder)
