"""What the report of a single run of lesion segmentation says and shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from .charts import Chart, Line, line_chart
from .latent_map import latent_chart
from .lesion_charts import joining_chart
from .lesion_results import SCORES
from .lesion_rows import pseudo_label_panels, volume_rows
from .lesion_runs import LesionRun
from .lesion_views import OUTCOME_COLORS, PLAIN_COLOR
from .results import with_spread
from .run_report import explains_pseudo_labels, run_length, training_charts
from .runs import BASELINE
from .text import score_text

# Columns of volumes.csv: title, digits.
SUMMARY = {
    "dice": ("Dice", 3),
    "precision": ("precision", 3),
    "sensitivity": ("sensitivity", 3),
    "lesion_f1": ("lesion F1", 3),
    "lesion_precision": ("lesion precision", 3),
    "lesion_sensitivity": ("lesion sensitivity", 3),
    "load_error_ml": ("load error, ml", 2),
    "load_error": ("|load error|, ml", 2),
}
VOLUME_COLUMNS = {
    **{name: SUMMARY[name] for name in SCORES},
    "truth_ml": ("truth, ml", 2),
    "predicted_ml": ("prediction, ml", 2),
    "truth_lesions": ("lesions in truth", 0),
    "predicted_lesions": ("lesions in prediction", 0),
}
VIEWS = {"outcome_colors": OUTCOME_COLORS, "plain_color": PLAIN_COLOR}


def lesion_run_context(run: LesionRun) -> dict[str, Any]:
    """Everything the template of a single run needs."""
    table = run.volumes
    return VIEWS | {
        "run": run.run,
        "mean": None if table is None else score_text(table["dice"].mean()),
        "volumes": 0 if table is None else len(table),
        "summary": [] if table is None else _summary(table),
        "per_volume": None if table is None else _per_volume(table),
        "cases": [] if table is None else volume_rows(run),
        "charts": _training_charts(run),
        "joining": joining_context(run),
        "without_joining": _withoutjoining_context(run),
        "notices": _notices(run),
        "length": run_length(run.run),
    }


def _notices(run: LesionRun) -> list[str]:
    notices = []
    if run.run.stopped_after is not None:
        notices.append(f"Training has not come to its end: this is its state after {run.run.stopped_after}.")
    if run.run.train is None:
        notices.append("There is no training log: the run stopped before its first logged iteration.")
    if run.volumes is None:
        notices.append("There are no scores yet: this run has not been evaluated on test volumes.")
    return notices


def _summary(table: pd.DataFrame) -> list[dict[str, str]]:
    table = table.assign(load_error=table["load_error_ml"].abs())
    rows = []
    for name, (title, digits) in SUMMARY.items():
        if name in table:
            values = table[name].dropna()
            median = f"{values.median():.{digits}f}".replace("-", "−") if len(values) else "–"
            rows.append(
                {
                    "title": title,
                    "mean": with_spread(values, digits=digits),
                    "median": median,
                    "volumes": len(values),
                }
            )
    return rows


def _per_volume(table: pd.DataFrame) -> dict[str, Any]:
    columns = {name: look for name, look in VOLUME_COLUMNS.items() if name in table}
    rows = [
        (
            row["case"],
            ["–" if pd.isna(row[name]) else f"{row[name]:.{digits}f}" for name, (_, digits) in columns.items()],
        )
        for _, row in table.sort_values("dice", na_position="last").iterrows()
    ]
    return {"titles": [title for title, _ in columns.values()], "rows": rows}


def _training_charts(run: LesionRun) -> list[Chart]:
    table, charts = run.run.validation, []
    if table is not None:
        lines = [
            Line(name, table["iteration"], table[column], color, strong=color == "ink")
            for name, column, color in (("Dice", "dice_mean", "ink"), ("IoU", "iou_mean", "series-1"))
            if column in table and table[column].notna().any()
        ]
        caption = "Overlap with the truth on the validation volumes as training goes on, 1 is perfect."
        charts += [line_chart("Validation", caption, lines)] if lines else []
    return charts + training_charts(replace(run.run, validation=None), {})


def joining_context(run: LesionRun) -> dict[str, Any] | None:
    """Map, steps, Dice and pictures of the pseudo-labels; `None` for a run that has made none."""
    labels = run.pseudo_labels
    if labels is None:
        return None
    return {
        "name": f"{run.method}, seed {run.seed}",
        "map": None if run.latents is None else latent_chart(run.latents),
        "dice": joining_chart(labels.joined),
        "steps": _steps(labels.joined),
        "pictures": pseudo_label_panels(run) if len(labels.joined) else [],
        "joined": len(labels.joined),
        "set_aside": labels.set_aside,
    }


def _steps(joined: pd.DataFrame) -> list[dict[str, Any]]:
    rows = []
    for step, images in joined.groupby("step"):
        known = images["dice"].notna().sum()
        rows.append(
            {
                "step": step,
                "joined": len(images),
                "score": _mean(images["score"], 2),
                "dice": _mean(images["dice"], 3) + (f" ({known} known)" if 0 < known < len(images) else ""),
                "lesion_ml": with_spread(images["lesion_ml"], digits=1),
            }
        )
    return rows


def _mean(values: pd.Series, digits: int) -> str:
    return f"{values.mean():.{digits}f}" if values.notna().any() else "–"


def _withoutjoining_context(run: LesionRun) -> str:
    if run.method == BASELINE:
        return explains_pseudo_labels(run.run)
    return "No image has joined the training set of this run, or none was noted down."
