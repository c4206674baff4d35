"""Reads what a run of 3D lesion segmentation leaves behind."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .runs import BASELINE, Run, load_run, read_table

# Columns of volumes.csv that have to be there; the others are shown where they are.
PATHS = ("case", "image", "label", "prediction")
NUMBERS = ("dice", "precision", "sensitivity", "lesion_f1", "load_error_ml")
LABELED, NEVER = 0, -1


@dataclass(frozen=True)
class PseudoLabels:
    """The images that joined the training set, and those that were set aside with the reason.

    `joined` has a row for each image in the order of joining, with image, name, step (from 1), score (sum of the
    distances to the nearest training images, POPCORN eq. 7), nearest (name of the nearest of them), label, truth
    (paths, "" where there is none), lesion_ml and dice (NaN where unknown).
    """

    joined: pd.DataFrame
    set_aside: list[tuple[str, str]]


@dataclass(frozen=True)
class Latents:
    """One latent vector for each image, (N, d), and its step: 0 is labelled, -1 never joined."""

    vectors: np.ndarray
    steps: np.ndarray


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
        _read_manifest(folder / "pseudo_labels" / "manifest.json"),
        _read_latents(folder / "pseudo_labels" / "latents.npz"),
    )


def image_names(paths: Sequence[str]) -> list[str]:
    """Short names of images: the file's, with its folder's before it where files of two folders share theirs."""
    files = [Path(path).name.removesuffix(".gz").removesuffix(".nii") for path in paths]
    if len(set(files)) == len(set(paths)):
        return files
    return [f"{Path(path).parent.name}/{name}" for path, name in zip(paths, files, strict=True)]


def _is_lesion_run(folder: Path) -> bool:
    if (folder / "volumes.csv").is_file() or (folder / "pseudo_labels" / "manifest.json").is_file():
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


def _read_manifest(path: Path) -> PseudoLabels | None:
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must be valid JSON, got {error}: train again or repair the file") from error
    images = manifest.get("images") if isinstance(manifest, dict) else None
    set_aside = manifest.get("set_aside", []) if isinstance(manifest, dict) else None
    if not _are_entries(images, image=str, step=int) or not _are_entries(set_aside, image=str):
        raise ValueError(
            f"{path} must hold images, a list of objects with image and step, and may hold set_aside, a list of "
            "objects with image and reason, got something else: train again or repair the file"
        )
    names = image_names([entry["image"] for entry in images])
    rows = [_joined_row(entry, name, path) for entry, name in zip(images, names, strict=True)]
    columns = ["image", "name", "step", "score", "lesion_ml", "dice", "label", "truth", "nearest"]
    aside = image_names([entry["image"] for entry in set_aside])
    reasons = [str(entry.get("reason") or "no reason given") for entry in set_aside]
    return PseudoLabels(pd.DataFrame(rows, columns=columns), list(zip(aside, reasons, strict=True)))


def _are_entries(entries: Any, **kinds: type) -> bool:
    return isinstance(entries, list) and all(
        isinstance(entry, dict) and all(isinstance(entry.get(key), kind) for key, kind in kinds.items())
        for entry in entries
    )


def _joined_row(entry: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    row = {"image": entry["image"], "name": name, "step": entry["step"]}
    for key in ("score", "lesion_ml", "dice"):
        value = entry.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise ValueError(f"{path}: {key} of {name} must be a number or null, got {value!r}")
        row[key] = float("nan") if value is None else float(value)
    row |= {key: entry.get(key) if isinstance(entry.get(key), str) else "" for key in ("label", "truth")}
    neighbors = entry.get("neighbors") or []
    if not _are_entries(neighbors, image=str):
        raise ValueError(f"{path}: neighbors of {name} must be a list of objects with image, got {neighbors!r}")
    row["nearest"] = image_names([n["image"] for n in neighbors])[0] if neighbors else ""
    return row


def _read_latents(path: Path) -> Latents | None:
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} must be a readable .npz file without pickled objects, got {error}") from error
    missing = [key for key in ("latents", "images", "steps") if key not in arrays]
    if missing:
        raise ValueError(f"{path} must hold latents, images and steps, got {', '.join(arrays) or 'nothing'}")
    vectors, steps = arrays["latents"], arrays["steps"]
    if vectors.ndim != 2 or steps.shape != (len(vectors),) or arrays["images"].shape != (len(vectors),):
        raise ValueError(
            f"{path} must hold latents (N, d), images (N,) and steps (N,), got the shapes "
            f"{vectors.shape}, {arrays['images'].shape} and {steps.shape}"
        )
    if not np.isfinite(vectors).all():
        raise ValueError(f"{path}: latents must be finite, got NaN or infinity: the network has diverged")
    return Latents(vectors.astype(float), steps.astype(int))


def _check_comparable(runs: list[LesionRun]) -> None:
    seen: dict[tuple[str, int], LesionRun] = {}
    for run in runs:
        other = seen.setdefault((run.method, run.seed), run)
        if other is not run:
            raise ValueError(
                f"each method must have each seed once, got {run.method}, seed {run.seed}, in {other.folder} and "
                f"{run.folder}: move one of them elsewhere or change its name in run.json"
            )
