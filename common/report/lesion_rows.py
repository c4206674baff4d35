"""Rows of slices: volumes of one run, the same volume for every method, and pseudo-labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from .lesion_runs import LesionRun
from .lesion_views import PLANES, Volume, draw_slice, load_volume, outcomes
from .text import count, score_text

MAXIMUM_VOLUMES = 6
MAXIMUM_PSEUDO_LABELS = 4


def volume_rows(run: LesionRun) -> list[dict[str, Any]]:
    """Panels and numbers of the volumes to show: all, or from the lowest Dice to the highest in even steps."""
    rows = []
    for rank, number in spaced(run.volumes["dice"].to_numpy(), MAXIMUM_VOLUMES):
        scores = run.volumes.loc[number]
        row = {"name": scores["case"], "rank": rank, "numbers": _numbers(scores), "panels": [], "missing": None}
        volume = _volume(scores, {run.method: run})
        if isinstance(volume, str):
            row["missing"] = volume
        else:
            masks = outcomes(volume.truth, volume.predictions[run.method])
            at = {plane: volume.busiest(plane) for plane in PLANES}
            row["panels"] = [("FLAIR, " + _place(volume, "axial", at), draw_slice(volume, "axial", at["axial"]))]
            row["panels"] += [(_place(volume, p, at), draw_slice(volume, p, index, masks)) for p, index in at.items()]
        rows.append(row)
    return rows


def comparison_rows(runs: list[LesionRun]) -> list[dict[str, Any]]:
    """The same volumes for the first seed of each method, in the slice where truth and predictions have most."""
    first = {run.method: run for run in reversed(runs) if run.volumes is not None}
    first = {method: first[method] for method in dict.fromkeys(run.method for run in runs) if method in first}
    tables = {method: run.volumes.set_index("case") for method, run in first.items()}
    if not tables:
        return []
    # Volumes that every method has been tested on; the ranking is that of the first method, the baseline.
    leader = next(iter(tables.values()))
    shared = leader[[all(case in table.index for table in tables.values()) for case in leader.index]]
    rows = []
    for rank, number in spaced(shared["dice"].to_numpy(), MAXIMUM_VOLUMES):
        case = shared.index[number]
        scores = {method: table.loc[case] for method, table in tables.items()}
        row = {"name": case, "rank": rank, "panels": [], "missing": None}
        volume = _volume(shared.loc[case], first, {method: s["prediction"] for method, s in scores.items()})
        if isinstance(volume, str):
            row["missing"] = volume
        else:
            index = volume.busiest("axial")
            row["place"] = _place(volume, "axial", {"axial": index})
            row["panels"] = [("FLAIR", "", draw_slice(volume, "axial", index))]
            for method, prediction in volume.predictions.items():
                panel = draw_slice(volume, "axial", index, outcomes(volume.truth, prediction))
                title = f"{method}, seed {first[method].seed}"
                row["panels"].append((title, f"Dice {score_text(scores[method]['dice'])}", panel))
        rows.append(row)
    return rows


def pseudo_label_panels(run: LesionRun) -> list[tuple[str, str, str | None]]:
    """Title, line below and picture of some pseudo-labels from the first to join to the last."""
    joined = run.pseudo_labels.joined
    panels = []
    for number in np.unique(np.linspace(0, len(joined) - 1, min(MAXIMUM_PSEUDO_LABELS, len(joined))).astype(int)):
        entry = joined.iloc[number]
        title = f"{ordinal(number + 1)} of {len(joined)} to join, step {entry['step']}: {entry['name']}"
        facts = [f"Dice {score_text(entry['dice'])}" if entry["dice"] == entry["dice"] else "truth not known"]
        facts += [f"{entry['lesion_ml']:.1f} ml"] if entry["lesion_ml"] == entry["lesion_ml"] else []
        facts += [f"nearest: {entry['nearest']}"] if entry["nearest"] else []
        panels.append((title, ", ".join(facts), _pseudo_label_picture(run, entry)))
    return panels


def _pseudo_label_picture(run: LesionRun, entry: pd.Series) -> str | None:
    if not entry["label"]:
        return None
    label = run.folder / "pseudo_labels" / entry["label"]
    try:
        truth = run.folder / entry["truth"] if entry["truth"] else None
        volume = load_volume(run.folder / entry["image"], truth, {"": label})
    except FileNotFoundError:
        return None
    return draw_slice(volume, "axial", volume.busiest("axial"), outcomes(volume.truth, volume.predictions[""]))


def spaced(scores: np.ndarray, maximum: int) -> list[tuple[str, int]]:
    """What to call the chosen scores' ranks, and their places: from the lowest to the highest in even steps.

    The median is among them. Scores that are not defined (NaN) come last, and only where all fit.
    """
    order = [int(place) for place in np.argsort(scores, kind="stable")]
    last = int(np.count_nonzero(~np.isnan(scores))) - 1
    names = {last // 2: "median Dice", 0: "lowest Dice", last: "highest Dice"} if last > 0 else {}
    ranks = np.arange(len(order))
    if len(order) > maximum:
        ranks = np.unique(np.linspace(0, last, maximum).round().astype(int)) if last >= 0 else ranks[:maximum]
        ranks[np.abs(ranks - last // 2).argmin()] = max(last // 2, 0)
    return [(names.get(rank, _rank_text(rank, last)), order[rank]) for rank in ranks.tolist()]


def _rank_text(rank: int, last: int) -> str:
    return "Dice not defined" if rank > last else f"rank {rank + 1} of {last + 1} by Dice"


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, 21st."""
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if 10 <= number % 100 <= 20 else ending}"


def _volume(scores: pd.Series, runs: dict[str, LesionRun], predictions: dict[str, str] | None = None) -> Volume | str:
    """The volume, or a sentence that says why there is none."""
    predictions = predictions or dict.fromkeys(runs, scores["prediction"])
    folder = next(iter(runs.values())).folder
    if pd.isna(scores["image"]) or any(pd.isna(path) for path in predictions.values()):
        return "No pictures: volumes.csv does not name the files."
    truth = None if pd.isna(scores["label"]) else folder / scores["label"]
    try:
        paths = {method: runs[method].folder / path for method, path in predictions.items()}
        return load_volume(folder / scores["image"], truth, paths)
    except FileNotFoundError as error:
        return f"No pictures: {error}."


def _place(volume: Volume, plane: str, at: dict[str, int]) -> str:
    return f"{plane}, slice {at[plane] + 1} of {volume.lesions.shape[PLANES[plane]]}"


def _numbers(scores: pd.Series) -> list[str]:
    names = (("dice", "Dice"), ("precision", "precision"), ("sensitivity", "sensitivity"), ("lesion_f1", "lesion F1"))
    parts = [f"{name} {score_text(scores[key])}" for key, name in names]
    for key, name in (("truth", "truth"), ("predicted", "prediction")):
        facts = []
        if scores.get(f"{key}_ml", np.nan) == scores.get(f"{key}_ml", np.nan):
            facts.append(f"{scores[f'{key}_ml']:.1f} ml")
        if scores.get(f"{key}_lesions", np.nan) == scores.get(f"{key}_lesions", np.nan):
            facts.append(f"in {count(scores[f'{key}_lesions'], 'lesion')}")
        parts += [f"{name} {' '.join(facts)}"] if facts else []
    return parts
