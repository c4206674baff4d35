"""What the report of several lesion segmentation runs says and shows: methods x seeds side by side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from .charts import Chart, Line, line_chart
from .comparison_report import compare_settings
from .lesion_charts import volume_chart
from .lesion_report import VIEWS, joining_context
from .lesion_results import TITLES, collect_volumes, compare_volumes, outcome, p_text, volume_means, wilcoxon_p
from .lesion_rows import comparison_rows
from .lesion_runs import LesionRun
from .results import methods_of, with_spread
from .runs import BASELINE


def lesion_comparison_context(runs: list[LesionRun]) -> dict[str, Any]:
    """Everything the template of a comparison needs."""
    methods = list(dict.fromkeys(run.method for run in runs))
    colors = {name: f"series-{index}" for index, name in enumerate(methods)}
    results = collect_volumes(runs)
    scored = methods_of(results)
    shown = {name: colors[name] for name in scored}
    first = {run.method: run for run in reversed(runs) if run.pseudo_labels is not None}
    return (
        VIEWS
        | {
            "runs": [run.run for run in runs],
            "methods": methods,
            "method_colors": colors,
            "volumes": results["volume"].nunique(),
            "outcome": _outcomes(results, scored),
            "table": _table(results, scored) if scored else None,
            "paired": volume_chart(results, shown, ("dice", "precision", "sensitivity")) if scored else None,
            "cases": comparison_rows(runs),
            "joinings": [joining_context(first[method]) for method in methods if method in first],
            "curves": _curves(runs, colors),
            "notices": _comparison_notices(runs, results),
        }
        | compare_settings([run.run for run in runs])
    )


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
