"""Reads the folder that a training run leaves behind."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

BASELINE = "Supervised"


@dataclass(frozen=True)
class Run:
    """What one run left behind; tables are `None` where the run did not get that far."""

    folder: Path
    method: str
    classes: tuple[str, ...]
    mode: str
    split: int
    dataset: str | None
    seconds: float | None
    when: datetime
    stopped_after: str | None
    settings: dict[str, Any]
    train: pd.DataFrame | None
    validation: pd.DataFrame | None
    test: pd.DataFrame | None

    @property
    def best(self) -> pd.Series | None:
        """The validation row with the highest mean IoU."""
        if self.validation is None or not self.validation["iou_mean"].notna().any():
            return None
        return self.validation.loc[self.validation["iou_mean"].idxmax()]


def find_runs(folder: Path | str) -> tuple[list[Run], bool]:
    """Load the run in `folder`, or all runs in its sub-folders; the second value is True for the latter.

    Raises:
        FileNotFoundError: if the folder is missing or holds no run.
        ValueError: if a file of a run is malformed, or the runs cannot be compared.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} must be a folder with a run, got no such folder: train a model first")
    if (folder / "run.json").is_file():
        return [load_run(folder)], False
    runs = [load_run(path.parent) for path in sorted(folder.glob("*/run.json"))]
    if not runs:
        raise FileNotFoundError(
            f"{folder} must hold run.json (one run) or sub-folders that hold run.json (a comparison), "
            "got neither: give the folder that training wrote"
        )
    _check_comparable(runs)
    return sorted(runs, key=lambda run: (run.method != BASELINE, run.method, run.split)), True


def load_run(folder: Path) -> Run:
    """Load one run; only run.json has to be there."""
    description = _read_description(folder / "run.json")
    classes = tuple(str(name) for name in description["classes"])
    settings = description.get("settings") or {}
    return Run(
        folder=folder,
        method=str(description["method"]),
        classes=classes,
        mode=str(description.get("mode", "multilabel")),
        split=int(description.get("split", 0)),
        dataset=description.get("dataset") or settings.get("dataset"),
        seconds=description.get("seconds"),
        when=_when(folder / "run.json", description),
        stopped_after=_stopped_after(description),
        settings=flatten({name: value for name, value in settings.items() if name != "dataset"}),
        train=read_table(folder / "train.csv", ("iteration", "loss")),
        validation=read_table(
            folder / "validation.csv",
            ("iteration", "epoch", "iou_mean", *(f"iou_{name}" for name in classes)),
        ),
        test=_read_test(folder / "test.csv", classes),
    )


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level, names joined by dots."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _read_description(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must be valid JSON, got {error}: train again or repair the file") from error
    missing = [key for key in ("method", "classes") if not (isinstance(description, dict) and description.get(key))]
    if missing:
        found = sorted(description) if isinstance(description, dict) else type(description).__name__
        raise ValueError(f"{path} must have {' and '.join(missing)}, got {found}: add what is missing")
    return description


def _when(path: Path, description: dict[str, Any]) -> datetime:
    """When the run started, in local time; without that, when run.json was written."""
    stamp = description.get("started")
    if stamp is None:
        return datetime.fromtimestamp(path.stat().st_mtime)
    try:
        started = datetime.fromisoformat(str(stamp))
    except ValueError as error:
        raise ValueError(f"{path}: started must be a date like 2026-01-31T12:00:00, got {stamp!r}") from error
    return started.astimezone().replace(tzinfo=None)


def _stopped_after(description: dict[str, Any]) -> str | None:
    """How far the run got if that is not the end, e.g. "epoch 6 of 12"."""
    epoch, epochs = description.get("epoch"), description.get("epochs")
    known = isinstance(epoch, int) and isinstance(epochs, int)
    return f"epoch {epoch} of {epochs}" if known and epoch < epochs else None


def read_table(path: Path, columns: tuple[str, ...], text: tuple[str, ...] = ()) -> pd.DataFrame | None:
    """Read a CSV file whose cells are numbers or empty; `None` if there is no file or no row yet."""
    if not path.is_file():
        return None
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(text, str))
    except pd.errors.EmptyDataError:
        return None
    except pd.errors.ParserError as error:
        raise ValueError(f"{path} must be a table with equally many cells in every row, got {error}") from error
    missing = [name for name in columns if name not in table]
    if missing:
        raise ValueError(
            f"{path} must have the columns {', '.join(columns)}, got {', '.join(map(str, table))}: "
            f"{', '.join(missing)} missing"
        )
    for name in table.columns.difference(text):
        try:
            table[name] = pd.to_numeric(table[name])
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: column {name} must hold numbers, got {error}") from error
    if "iteration" in table:
        # A run that was stopped and resumed may have written the same iteration twice: the later one counts.
        table = table.dropna(subset="iteration").drop_duplicates("iteration", keep="last")
    return table.reset_index(drop=True) if len(table) else None


def _read_test(path: Path, classes: tuple[str, ...]) -> pd.DataFrame | None:
    table = read_table(path, ("case", "label", "iou", "dice"), text=("case", "label"))
    if table is None:
        return None
    found = set(table["label"])
    if found != set(classes):
        raise ValueError(
            f"{path}: label must be one of the run's classes, each at least once ({', '.join(classes)}), "
            f"got {', '.join(sorted(map(str, found)))}: evaluate the run again"
        )
    return table


def _check_comparable(runs: list[Run]) -> None:
    first, seen = runs[0], {}
    for run in runs:
        if run.classes != first.classes:
            raise ValueError(
                f"runs of a comparison must have the same classes, got {', '.join(run.classes)} in "
                f"{run.folder} and {', '.join(first.classes)} in {first.folder}: move one of them elsewhere"
            )
        other = seen.setdefault((run.method, run.split), run)
        if other is not run:
            raise ValueError(
                f"each method must have each split once, got {run.method}, split {run.split}, in "
                f"{other.folder} and {run.folder}: move one of them elsewhere or change its method in run.json"
            )
