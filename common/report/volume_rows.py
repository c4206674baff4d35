"""Rows of slices: volumes of one run, the same volume for every method, and pseudo-labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .runs import Run
from .style import class_colors
from .text import number, score_text
from .volume_views import PLANES, Volume, draw_slice, load_volume, overlays

NIFTI = (".nii", ".nii.gz")
MAXIMUM_VOLUMES = 6
MAXIMUM_PSEUDO_LABELS = 4


def volumes_of(run: Run) -> pd.DataFrame:
    """Volumes that test.csv names files of: image, truth, prediction and mean Dice and IoU of each case."""
    table = run.test
    if table is None or not {"image", "prediction"} <= set(table):
        return pd.DataFrame({"dice": []})
    flat = table["unit"].isin(["mm2", "pixels"]) if "unit" in table else False
    table = table[table["prediction"].str.endswith(NIFTI) & table["image"].str.endswith(NIFTI) & ~flat]
    table = table.assign(truth=table.get("truth", ""))
    plan = {"image": "first", "truth": "first", "prediction": "first", "dice": "mean", "iou": "mean"}
    return table.groupby("case", sort=False).agg(plan)


def volume_rows(run: Run) -> list[dict[str, Any]]:
    """Panels of the volumes to show: all, or from the lowest Dice to the highest in even steps."""
    table = volumes_of(run)
    rows = []
    for rank, place in spaced(table["dice"].to_numpy(), MAXIMUM_VOLUMES):
        files = table.iloc[place]
        row = {"name": files.name, "rank": rank, "panels": [], "missing": None}
        facts = f"mean Dice {score_text(files['dice'])}, mean IoU {score_text(files['iou'])}"
        volume = _volume(run, files, {run.name: run.folder / files["prediction"]})
        if isinstance(volume, str):
            row["missing"] = volume
        else:
            masks = overlays(volume.truth, volume.predictions[run.name], list(class_colors(run.classes).values()))
            at = {plane: volume.busiest(plane) for plane in PLANES}
            row["panels"] = [("image, " + _place(volume, "axial", at["axial"]), "", draw_slice(volume, "axial", at["axial"]))]
            row["panels"] += [(_place(volume, p, i), "", draw_slice(volume, p, i, masks)) for p, i in at.items()]
        rows.append(row | {"facts": facts})
    return rows


def same_volumes(runs: list[Run]) -> list[dict[str, Any]]:
    """The same volumes for the first run of each name, in the slice where truth and predictions have most."""
    tables = {run.name: (run, table) for run in reversed(runs) if len(table := volumes_of(run))}
    tables = {run.name: tables[run.name] for run in runs if run.name in tables}
    if not tables:
        return []
    # Volumes that every method has been tested on; the ranking is that of the first one.
    leader, files_of = next(iter(tables.values()))
    shared = files_of[[all(case in table.index for _, table in tables.values()) for case in files_of.index]]
    rows = []
    for rank, place in spaced(shared["dice"].to_numpy(), MAXIMUM_VOLUMES):
        files = shared.iloc[place]
        row = {"name": files.name, "rank": rank, "facts": f"of {leader.name}", "panels": [], "missing": None}
        predictions = {name: run.folder / table.loc[files.name, "prediction"] for name, (run, table) in tables.items()}
        volume = _volume(leader, files, predictions)
        if isinstance(volume, str):
            row["missing"] = volume
        else:
            index = volume.busiest("axial")
            row["facts"] += f"; {_place(volume, 'axial', index)}"
            row["panels"] = [("image", "", draw_slice(volume, "axial", index))]
            for name, prediction in volume.predictions.items():
                masks = overlays(volume.truth, prediction, list(class_colors(leader.classes).values()))
                dice = f"Dice {score_text(tables[name][1].loc[files.name, 'dice'])}"
                row["panels"].append((name, dice, draw_slice(volume, "axial", index, masks)))
        rows.append(row)
    return rows


def pseudo_label_panels(run: Run) -> list[tuple[str, str, str | None]]:
    """Title, line below and picture of some pseudo-labels from the first to join to the last."""
    joined = run.pseudo_labels.joined
    panels = []
    for place in np.unique(np.linspace(0, len(joined) - 1, min(MAXIMUM_PSEUDO_LABELS, len(joined))).astype(int)):
        entry = joined.iloc[place]
        title = f"{ordinal(place + 1)} of {len(joined)} to join, step {entry['step']}: {entry['name']}"
        facts = [f"Dice {score_text(entry['dice'])}" if entry["dice"] == entry["dice"] else "truth not known"]
        facts += [f"{number(entry['ml'], 1)} ml"] if entry["ml"] == entry["ml"] else []
        facts += [f"nearest: {entry['nearest']}"] if entry["nearest"] else []
        panels.append((title, ", ".join(facts), _pseudo_label_picture(run, entry)))
    return panels if any(picture for *_, picture in panels) or joined["image"].str.endswith(NIFTI).any() else []


def _pseudo_label_picture(run: Run, entry: pd.Series) -> str | None:
    volume = _volume(run, entry, {"": run.folder / "pseudo_labels" / entry["label"]}) if entry["label"] else ""
    if isinstance(volume, str):
        return None
    masks = overlays(volume.truth, volume.predictions[""], list(class_colors(run.classes).values()))
    return draw_slice(volume, "axial", volume.busiest("axial"), masks)


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


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, 21st."""
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if 10 <= number % 100 <= 20 else ending}"
