"""Reads the folder that a training run leaves behind."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from .description import integer, read_description, when_started
from .pseudo_labels import Latents, PseudoLabels, read_latents, read_manifest
from .reading import read_table

BASELINE = "Supervised"
TEXT = ("case", "class", "unit", "image", "truth", "prediction")


@dataclass(frozen=True)
class Run:
    """What one run left behind; `None` where it did not get that far. `name` is what it is called in the report."""

    folder: Path
    name: str
    method: str
    classes: tuple[str, ...]
    mode: str
    split: int
    seed: int
    dataset: str | None
    seconds: float | None
    when: datetime
    stopped_after: str | None
    settings: dict[str, Any]
    train: pd.DataFrame | None
    validation: pd.DataFrame | None
    test: pd.DataFrame | None
    pseudo_labels: PseudoLabels | None
    latents: Latents | None

    @property
    def draw(self) -> tuple[int, int]:
        """Which images were labelled and with which seed: what runs of two methods have in common."""
        return self.split, self.seed

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
    paths = sorted([*folder.glob("*/run.json"), *folder.glob("cells/*/run.json")])
    if not paths:
        raise FileNotFoundError(
            f"{folder} must hold run.json (one run) or sub-folders that hold run.json (a comparison), "
            "got neither: give the folder that training wrote"
        )
    runs = [load_run(path.parent) for path in paths]
    check_comparable(runs)
    return sorted(runs, key=lambda run: (run.name != BASELINE, run.name, run.draw)), True


def load_run(folder: Path | str, name: str | None = None) -> Run:
    """Load one run, called `name` rather than what run.json says; only run.json has to be there."""
    path = Path(folder) / "run.json"
    description = read_description(path)
    classes = tuple(map(str, description["classes"]))
    settings = description.get("settings") or {}
    run = Run(
        folder=path.parent,
        name=str(description.get("name") or description["method"]),
        method=str(description["method"]),
        classes=classes,
        mode=str(description.get("mode", "multilabel")),
        split=integer(path, description, "split"),
        seed=integer(path, description, "seed"),
        dataset=description.get("dataset") or settings.get("dataset"),
        seconds=description.get("seconds"),
        when=when_started(path, description),
        stopped_after=_stopped_after(description),
        settings=flatten({key: value for key, value in settings.items() if key != "dataset"}),
        train=read_table(path.with_name("train.csv"), ("iteration", "loss")),
        validation=read_table(
            path.with_name("validation.csv"), ("iteration", "epoch", "iou_mean", *(f"iou_{c}" for c in classes))
        ),
        test=_read_test(path.with_name("test.csv"), classes),
        pseudo_labels=read_manifest(path.parent / "pseudo_labels" / "manifest.json"),
        latents=read_latents(path.parent / "pseudo_labels" / "latents.npz"),
    )
    return run if name is None else replace(run, name=name)


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level, names joined by dots."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _stopped_after(description: dict[str, Any]) -> str | None:
    """How far the run got if that is not the end, e.g. "epoch 6 of 12"."""
    epoch, epochs = description.get("epoch"), description.get("epochs")
    known = isinstance(epoch, int) and isinstance(epochs, int)
    return f"epoch {epoch} of {epochs}" if known and epoch < epochs else None


def _read_test(path: Path, classes: tuple[str, ...]) -> pd.DataFrame | None:
    table = read_table(path, ("case", "class", "iou", "dice"), TEXT)
    if table is None:
        return None
    found = set(table["class"])
    if found != set(classes):
        raise ValueError(
            f"{path}: class must be one of the run's classes, each at least once ({', '.join(classes)}), "
            f"got {', '.join(sorted(found))}: evaluate the run again"
        )
    if (table["case"] == "").any() or table.duplicated(["case", "class"]).any():
        raise ValueError(f"{path}: case must name each case once per class, got one twice or none: evaluate again")
    short = table["case"].value_counts().loc[lambda number: number < len(classes)]
    if len(short):
        found = f"{short.index[0]} with {short.iloc[0]} of {len(classes)}"
        raise ValueError(f"{path}: each case must have each class, got {found}: evaluate again")
    if {"truth_size", "predicted_size"} <= set(table):
        table["size_error"] = table["predicted_size"] - table["truth_size"]
        table["absolute_size_error"] = table["size_error"].abs()
    return table


def check_comparable(runs: list[Run]) -> None:
    """Runs of a comparison have the same classes, and each name has each draw once; else ValueError."""
    if not runs:
        raise ValueError("a comparison must have runs, got none: train first")
    first, seen = runs[0], {}
    for run in runs:
        if run.classes != first.classes:
            raise ValueError(
                f"runs of a comparison must have the same classes, got {', '.join(run.classes)} in "
                f"{run.folder} and {', '.join(first.classes)} in {first.folder}: move one of them elsewhere"
            )
        other = seen.setdefault((run.name, run.draw), run)
        if other is not run:
            raise ValueError(
                f"each method must have each split and seed once, got {run.name}, split {run.split}, seed {run.seed}, "
                f"in {other.folder} and {run.folder}: move one of them elsewhere or change its name in run.json; of a "
                "grid with several columns, python -m common grid FILE FOLDER --tables_only makes the reports"
            )
