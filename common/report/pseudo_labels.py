"""Reads what a run notes down about its pseudo-labels: who joined when, and where it lies in latent space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .reading import read_arrays, read_json

LABELED, NEVER = 0, -1


@dataclass(frozen=True)
class PseudoLabels:
    """The images that joined the training set, and those that were set aside with the reason.

    `joined` has a row for each image in the order of joining, with image, name, step (from 1), score (sum of the
    distances to the nearest training images, POPCORN eq. 7), nearest (name of the nearest of them), label, truth
    (paths, "" where there is none), ml (size) and dice (NaN where unknown).
    """

    joined: pd.DataFrame
    set_aside: list[tuple[str, str]]


@dataclass(frozen=True)
class Latents:
    """One latent vector for each image, (N, d), and its step: 0 is labelled, -1 never joined."""

    vectors: np.ndarray
    steps: np.ndarray


def image_names(paths: Sequence[str]) -> list[str]:
    """Short names of images: the file's, with its folder's before it where files of two folders share theirs."""
    files = [Path(path).name.removesuffix(".gz").removesuffix(".nii") for path in paths]
    if len(set(files)) == len(set(paths)):
        return files
    return [f"{Path(path).parent.name}/{name}" for path, name in zip(paths, files, strict=True)]


def read_manifest(path: Path) -> PseudoLabels | None:
    """Read pseudo_labels/manifest.json; `None` if there is none. Raises ValueError if it is malformed."""
    if not path.is_file():
        return None
    manifest = read_json(path)
    images = manifest.get("images") if isinstance(manifest, dict) else None
    set_aside = manifest.get("set_aside", []) if isinstance(manifest, dict) else None
    if not _are_entries(images, image=str, step=int) or not _are_entries(set_aside, image=str):
        raise ValueError(
            f"{path} must hold images, a list of objects with image and step, and may hold set_aside, a list of "
            "objects with image and reason, got something else: train again or repair the file"
        )
    names = image_names([entry["image"] for entry in images])
    rows = [_joined_row(entry, name, path) for entry, name in zip(images, names, strict=True)]
    columns = ["image", "name", "step", "score", "ml", "dice", "label", "truth", "nearest"]
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
    for column, key in (("score", "score"), ("ml", "lesion_ml"), ("dice", "dice")):
        value = entry.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise ValueError(f"{path}: {key} of {name} must be a number or null, got {value!r}")
        row[column] = float("nan") if value is None else float(value)
    row |= {key: entry.get(key) if isinstance(entry.get(key), str) else "" for key in ("label", "truth")}
    neighbors = entry.get("neighbors") or []
    if not _are_entries(neighbors, image=str):
        raise ValueError(f"{path}: neighbors of {name} must be a list of objects with image, got {neighbors!r}")
    row["nearest"] = image_names([n["image"] for n in neighbors])[0] if neighbors else ""
    return row


def read_latents(path: Path) -> Latents | None:
    """Read pseudo_labels/latents.npz; `None` if there is none. Raises ValueError if it is malformed."""
    if not path.is_file():
        return None
    arrays = read_arrays(path, ("latents", "images", "steps"))
    vectors, steps = arrays["latents"], arrays["steps"]
    if vectors.ndim != 2 or steps.shape != (len(vectors),) or arrays["images"].shape != (len(vectors),):
        raise ValueError(
            f"{path} must hold latents (N, d), images (N,) and steps (N,), got the shapes "
            f"{vectors.shape}, {arrays['images'].shape} and {steps.shape}"
        )
    if not np.isfinite(vectors).all():
        raise ValueError(f"{path}: latents must be finite, got NaN or infinity: the network has diverged")
    return Latents(vectors.astype(float), steps.astype(int))
