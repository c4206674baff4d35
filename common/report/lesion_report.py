"""What the report of lesion segmentation runs says and shows: a single run, or methods x seeds side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from .charts import Chart, Line, line_chart
from .comparison_report import compare_settings
from .latent_map import latent_chart
from .lesion_charts import joining_chart, volume_chart
from .lesion_results import (
    SCORES,
    TITLES,
    collect_volumes,
    compare_volumes,
    outcome,
    p_text,
    volume_means,
    wilcoxon_p,
)
from .lesion_rows import comparison_rows, pseudo_label_panels, volume_rows
from .lesion_runs import LesionRun, find_lesion_runs
from .lesion_views import OUTCOME_COLORS, PLAIN_COLOR
from .results import methods_of, with_spread
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


def lesion_page(folder: Path | str) -> tuple[str, dict[str, Any]]:
    """The template of the page for `folder`, and what it needs."""
    runs, several = find_lesion_runs(folder)
    if several:
        return "lesion_comparison.html", lesion_comparison_context(runs)
    return "lesion_run.html", lesion_run_context(runs[0])


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
        "joining": _joining(run),
        "without_joining": _without_joining(run),
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
        (row["case"], ["–" if pd.isna(row[name]) else f"{row[name]:.{digits}f}" for name, (_, digits) in columns.items()])
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


def _joining(run: LesionRun) -> dict[str, Any] | None:
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


def _without_joining(run: LesionRun) -> str:
    if run.method == BASELINE:
        return explains_pseudo_labels(run.run)
    return "No image has joined the training set of this run, or none was noted down."


def lesion_comparison_context(runs: list[LesionRun]) -> dict[str, Any]:
    """Everything the template of a comparison needs."""
    methods = list(dict.fromkeys(run.method for run in runs))
    colors = {name: f"series-{index}" for index, name in enumerate(methods)}
    results = collect_volumes(runs)
    scored = methods_of(results)
    shown = {name: colors[name] for name in scored}
    first = {run.method: run for run in reversed(runs) if run.pseudo_labels is not None}
    return VIEWS | {
        "runs": [run.run for run in runs],
        "methods": methods,
        "method_colors": colors,
        "volumes": results["volume"].nunique(),
        "outcome": _outcomes(results, scored),
        "table": _table(results, scored) if scored else None,
        "paired": volume_chart(results, shown, ("dice", "precision", "sensitivity")) if scored else None,
        "cases": comparison_rows(runs),
        "joinings": [_joining(first[method]) for method in methods if method in first],
        "curves": _curves(runs, colors),
        "notices": _comparison_notices(runs, results),
    } | compare_settings([run.run for run in runs])


def _outcomes(results: pd.DataFrame, methods: list[str]) -> list[str]:
    if BASELINE in methods and len(methods) > 1:
        return [outcome(results, method) for method in methods[1:]]
    return [
        f"{method} {with_spread(volume_means(results, 'dice')[method])} mean Dice; there is no "
        f"{'other method' if method == BASELINE else BASELINE} to compare it with yet."
        for method in methods
    ]


def _comparison_notices(runs: list[LesionRun], results: pd.DataFrame) -> list[str]:
    left_out = [f"{run.method} seed {run.seed}" for run in runs if run.volumes is None]
    if len(left_out) == len(runs):
        return ["No run has been evaluated on test volumes yet."]
    notices = [f"Left out of tables, with no test scores yet: {', '.join(left_out)}."] if left_out else []
    seeds = results.groupby("method")["seed"].agg(frozenset)
    if seeds.nunique() > 1:
        notices.append("The methods were not run with the same seeds; each volume's score is the mean over those.")
    volumes = results.groupby("method")["volume"].agg(frozenset)
    if volumes.nunique() > 1:
        notices.append(
            "The methods were not tested on the same volumes. Differences use the volumes that both methods have; "
            "the rows of the table use all volumes of each method."
        )
    return notices


def _table(results: pd.DataFrame, methods: list[str]) -> dict[str, Any]:
    """Cells of methods x scores (text, best), and of the differences to the baseline (text, p)."""
    digits = {score: 2 if score == "load_error" else 3 for score in TITLES}
    means = {score: volume_means(results, score) for score in TITLES}
    rows = []
    for method in methods:
        own = results[results["method"] == method]
        cells = []
        for score in TITLES:
            rounded = means[score].mean().round(digits[score])
            best = rounded.min() if score == "load_error" else rounded.max()
            text = with_spread(means[score][method], digits=digits[score])
            cells.append((text, len(methods) > 1 and rounded[method] == best))
        rows.append(
            {"name": method, "cells": cells, "volumes": own["volume"].nunique(), "seeds": own["seed"].nunique()}
        )
    differences = []
    for method in methods[1:] if methods[0] == BASELINE else []:
        pairs = [(score, compare_volumes(results, method, score=score).difference) for score in TITLES]
        cells = [(with_spread(d, signed=True, digits=digits[s]), p_text(wilcoxon_p(d))) for s, d in pairs]
        differences.append({"name": f"{method} − {BASELINE}", "cells": cells, "volumes": len(pairs[0][1])})
    return {"titles": list(TITLES.values()), "rows": rows, "differences": differences}


def _curves(runs: list[LesionRun], colors: dict[str, str]) -> list[Chart]:
    """The loss of all runs, and their validation Dice where they have one."""
    plans = (
        ("Training loss", "train", "loss", "The losses of different methods have different terms and do not compare."),
        ("Validation", "validation", "dice_mean", "Dice on the validation volumes as training goes on."),
    )
    charts = []
    for title, table, column, caption in plans:
        lines = [
            Line(run.method, values["iteration"], values[column], colors[run.method])
            for run in runs
            if (values := getattr(run.run, table)) is not None and column in values and values[column].notna().any()
        ]
        if lines:
            chart = line_chart(title, f"One line for each run. {caption}", lines, unit=column != "loss")
            charts.append(replace(chart, legend=list(colors.items())))
    return charts
