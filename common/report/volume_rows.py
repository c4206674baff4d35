"""Rows of slices: volumes of one run, the same volume for every method, and pseudo-labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.data.files import ITK_SUFFIXES, NIFTI_SUFFIXES

from .runs import Run
from .style import class_colors
from .text import number
from .volume_views import PLANES, Volume, draw_slice, load_volume, overlays

VOLUMES = (*NIFTI_SUFFIXES, *ITK_SUFFIXES)
MAXIMUM_VOLUMES = 6
MAXIMUM_PSEUDO_LABELS = 4


def volumes_of(run: Run) -> pd.DataFrame:
    """Volumes that test.csv names files of: image, truth, prediction and mean Dice of each case."""
    table = run.test
    if table is None or not {"image", "prediction"} <= set(table):
        return pd.DataFrame({"dice": []})
    flat = table["unit"].isin(["mm2", "pixels"]) if "unit" in table else False
    table = table[table["prediction"].str.endswith(VOLUMES) & table["image"].str.endswith(VOLUMES) & ~flat]
    table = table.assign(truth=table.get("truth", ""))
    plan = {"image": "first", "truth": "first", "prediction": "first", "dice": "mean"}
    return table.groupby("case", sort=False).agg(plan)


def volume_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Panels of volumes: all, or from the lowest Dice to the highest in even steps.

    One method is shown in three planes, several side by side with the first run of each, in an axial slice.
    """
    first = {run.name: (run, table) for run in reversed(runs) if len(table := volumes_of(run))}
    found = {run.name: first[run.name] for run in runs if run.name in first}
    if not found:
        return []
    # Volumes that every method has been tested on; the ranking is that of the first one.
    leader, table = next(iter(found.values()))
    table = table[[all(case in other.index for _, other in found.values()) for case in table.index]]
    colors, several = list(class_colors(leader.classes).values()), len(found) > 1
    rows = []
    for rank, place in spaced(table["dice"].to_numpy(), MAXIMUM_VOLUMES):
        files, case = table.iloc[place], table.index[place]
        row = {"name": case, "facts": f"{rank} of {leader.name}: {number(files['dice'])}", "panels": []}
        rows.append(row)
        predictions = {name: run.folder / own.loc[case, "prediction"] for name, (run, own) in found.items()}
        volume = _volume(leader, files, predictions)
        if isinstance(volume, str):
            row["facts"] += f". {volume}"
            continue
        at = {plane: volume.busiest(plane) for plane in (("axial",) if several else PLANES)}
        place = at["axial"]
        row["panels"] = [(f"image, {_place(volume, 'axial', place)}", "", draw_slice(volume, "axial", place))]
        for name, (run, own) in found.items():
            masks = overlays(volume.truth, volume.predictions[name], colors)
            facts = f"Dice {number(own.loc[case, 'dice'])}" if several else ""
            for plane, index in at.items():
                title = f"{name}, split {run.split}, seed {run.seed}" if several else _place(volume, plane, index)
                row["panels"].append((title, facts, draw_slice(volume, plane, index, masks)))
    return rows


def pseudo_label_row(run: Run) -> dict[str, Any] | None:
    """Panels of some pseudo-labels from the first to join to the last; `None` where none is of a volume."""
    joined, panels = run.pseudo_labels.joined, []
    if not joined["image"].str.endswith(VOLUMES).any():
        return None
    for place in np.unique(np.linspace(0, len(joined) - 1, min(MAXIMUM_PSEUDO_LABELS, len(joined))).astype(int)):
        entry = joined.iloc[place]
        title = f"{place + 1} of {len(joined)} to join, step {entry['step']}: {entry['name']}"
        facts = [f"Dice {number(entry['dice'])}" if entry["dice"] == entry["dice"] else "truth not known"]
        facts += [f"{number(entry['ml'], 1)} ml"] if entry["ml"] == entry["ml"] else []
        facts += [f"nearest: {entry['nearest']}"] if entry["nearest"] else []
        volume = _volume(run, entry, {"": run.folder / "pseudo_labels" / entry["label"]})
        picture = None
        if not isinstance(volume, str):
            masks = overlays(volume.truth, volume.predictions[""], list(class_colors(run.classes).values()))
            picture = draw_slice(volume, "axial", volume.busiest("axial"), masks)
        panels.append((title, ", ".join(facts), picture))
    name, facts = "Pseudo-labels from the first to join to the last", "axial, in the slice with the most voxels"
    return {"name": name, "facts": facts, "panels": panels}


def _volume(run: Run, files: pd.Series, predictions: dict[str, Path]) -> Volume | str:
    """The volume, or a sentence that says why there is none."""
    truth = [run.folder / path for path in files["truth"].split("|") if path]
    try:
        return load_volume(run.folder / files["image"], truth, predictions, len(run.classes))
    except (FileNotFoundError, ValueError) as error:
        return f"No pictures: {error}."


def _place(volume: Volume, plane: str, index: int) -> str:
    return f"{plane}, slice {index + 1} of {volume.marked.shape[PLANES[plane]]}"


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
