"""Reads what a run of 3D lesion segmentation leaves behind."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from .pseudo_labels import Latents, PseudoLabels, read_latents, read_manifest
from .runs import BASELINE, Run, load_run, read_table

# Columns of volumes.csv that have to be there; the others are shown where they are.
PATHS = ("case", "image", "label", "prediction")
NUMBERS = ("dice", "precision", "sensitivity", "lesion_f1", "load_error_ml")


@dataclass(frozen=True)
class LesionRun:
    """One run; `run.method` is the name to show and `run.split` the seed. Parts not there yet are `None`."""

    run: Run
    volumes: pd.DataFrame | None
    pseudo_labels: PseudoLabels | None
    latents: Latents | None

    @property
    def method(self) -> str:
        return self.run.method

    @property
    def seed(self) -> int:
        return self.run.split

    @property
    def folder(self) -> Path:
        return self.run.folder


def holds_lesions(folder: Path | str) -> bool:
    """Whether `folder` is a run of 3D lesion segmentation, or has a sub-folder that is one."""
    folder = Path(folder)
    if _is_lesion_run(folder):
        return True
    return not (folder / "run.json").is_file() and any(_is_lesion_run(p.parent) for p in folder.glob("*/run.json"))


def find_lesion_runs(folder: Path | str) -> tuple[list[LesionRun], bool]:
    """Load the run in `folder`, or all runs in its sub-folders; the second value is True for the latter.

    Raises:
        FileNotFoundError: if the folder is missing or holds no run.
        ValueError: if a file of a run is malformed, or the runs cannot be compared.
    """
    folder = Path(folder)
    if (folder / "run.json").is_file() or _is_lesion_run(folder):
        return [load_lesion_run(folder)], False
    folders = [path.parent for path in sorted(folder.glob("*/run.json"))]
    if not folders:
        raise FileNotFoundError(
            f"{folder} must hold run.json (one run) or sub-folders that hold run.json (a comparison), "
            "got neither: give the folder that training wrote"
        )
    others = [path for path in folders if not _is_lesion_run(path)]
    if others:
        raise ValueError(
            f"{folder} must hold runs of lesion segmentation alone, got {others[0].name} of another kind: "
            "move it elsewhere"
        )
    runs = [load_lesion_run(path) for path in folders]
    _check_comparable(runs)
    return sorted(runs, key=lambda run: (run.method != BASELINE, run.method, run.seed)), True


def load_lesion_run(folder: Path) -> LesionRun:
    """Load one run; only run.json has to be there."""
    if not (folder / "run.json").is_file():
        raise FileNotFoundError(f"{folder} must hold run.json, got none: give the folder that training wrote")
    run = load_run(folder)
    seed = run.settings.get("seed", run.split)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ValueError(f"{folder / 'run.json'}: the setting seed must be an integer, got {seed!r}")
    settings = {name: value for name, value in run.settings.items() if name != "name"}
    run = replace(run, method=str(run.settings.get("name") or run.method), split=seed, settings=settings)
    return LesionRun(
        run,
        _read_volumes(folder / "volumes.csv"),
        read_manifest(folder / "pseudo_labels" / "manifest.json"),
        read_latents(folder / "pseudo_labels" / "latents.npz"),
    )


def _is_lesion_run(folder: Path) -> bool:
    if (folder / "volumes.csv").is_file():
        return True
    try:
        description = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    settings = description.get("settings") if isinstance(description, dict) else None
    return isinstance(settings, dict) and settings.get("spatial dims") == 3


def _read_volumes(path: Path) -> pd.DataFrame | None:
    table = read_table(path, (*PATHS, *NUMBERS), text=PATHS)
    if table is None:
        return None
    if table["case"].isna().any() or table["case"].duplicated().any():
        raise ValueError(f"{path}: case must name each volume once, got a name twice or none: evaluate the run again")
    return table


def _check_comparable(runs: list[LesionRun]) -> None:
    seen: dict[tuple[str, int], LesionRun] = {}
    for run in runs:
        other = seen.setdefault((run.method, run.seed), run)
        if other is not run:
            raise ValueError(
                f"each method must have each seed once, got {run.method}, seed {run.seed}, in {other.folder} and "
                f"{run.folder}: move one of them elsewhere or change its name in run.json"
            )
