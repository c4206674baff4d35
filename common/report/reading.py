"""Reads the files of a run; what is wrong with one is said in a ValueError that names it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.files import read_json as read_json_file
from common.files import read_text

AGAIN = "evaluate or train the run again, or take the file out"
SHARES = ("iou", "dice", "precision", "sensitivity", "surface_dice", "lesion_f1")  # what columns of scores begin with


def read_json(path: Path) -> Any:
    """What a JSON file holds."""
    return read_json_file(path, "train again or repair the file")


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, which must hold those of these names."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} must be a readable .npz file without pickled objects, got {error}") from error
    if not set(names) <= set(arrays):
        held = f"{', '.join(names[:-1])} and {names[-1]}"
        raise ValueError(f"{path} must hold {held}, got {', '.join(arrays) or 'nothing'}: write it again")
    return arrays


def read_table(path: Path, columns: tuple[str, ...], text: tuple[str, ...] = ()) -> pd.DataFrame | None:
    """Read a CSV file whose cells are numbers or empty but in `text`; `None` if there is no file or no row yet."""
    if not path.exists() and not path.is_symlink():
        return None
    if not path.is_file() or not path.stat().st_size:  # even a table without rows has a line
        found = "an empty file" if path.is_file() else "a folder" if path.is_dir() else "a link to nothing"
        raise ValueError(f"{path} must be a table, got {found}: {AGAIN}")
    try:
        table = pd.read_csv(io.StringIO(read_text(path, AGAIN)), dtype=str, keep_default_na=False)
    except pd.errors.EmptyDataError:
        return None
    except pd.errors.ParserError as error:
        raise ValueError(
            f"{path} must be a table with equally many cells in every row, got {error}: {AGAIN}"
        ) from error
    missing = [name for name in columns if name not in table]
    if missing:
        raise ValueError(
            f"{path} must have the columns {', '.join(columns)}, got {', '.join(map(str, table))}: "
            f"{', '.join(missing)} missing"
        )
    for name in table.columns.difference(text):
        try:
            table[name] = pd.to_numeric(table[name].mask(table[name].isin(("", "nan", "NaN"))))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: column {name} must hold numbers, got {str(error)[:200]}: {AGAIN}") from error
        if name.startswith(SHARES) and not table[name].dropna().between(0, 1).all():
            found = f"{table[name].min():g} to {table[name].max():g}"
            raise ValueError(f"{path}: column {name} must hold numbers from 0 to 1, got {found}: {AGAIN}")
    if "iteration" in table:
        # A run that was stopped and resumed may have written the same iteration twice: the later one counts.
        table = table.dropna(subset="iteration").drop_duplicates("iteration", keep="last")
    return table.reset_index(drop=True) if len(table) else None
