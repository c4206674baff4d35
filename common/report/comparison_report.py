"""What the report of several runs says and shows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from .case_rows import same_cases
from .charts import Chart, Line, facet_chart, paired_chart
from .results import MEAN, collect, compare, describe, methods_of, with_spread
from .runs import Run
from .style import class_colors
from .text import plain

MAXIMUM_PAIRED_ROWS = 40


def comparison_context(runs: list[Run]) -> dict[str, Any]:
    """Everything the template of a comparison needs."""
    classes = runs[0].classes
    part = "test" if any(run.test is not None for run in runs) else "validation"
    scored = [run for run in runs if (run.test if part == "test" else run.best) is not None]
    methods = list(dict.fromkeys(run.method for run in runs))
    context = {
        "runs": runs,
        "classes": classes,
        "methods": methods,
        "part": part,
        "colors": class_colors(classes),
        "method_colors": {name: f"series-{index}" for index, name in enumerate(methods)},
        "splits": sorted({run.split for run in runs}),
        "notices": _notices(runs, scored, part),
        "outcome": [],
        "tables": [],
        "paired": None,
    }
    if scored:
        results = collect(scored, part)
        order = methods_of(results)
        context["outcome"] = _outcome(results, order)
        context["tables"] = [_table(results, order, score) for score in ("iou", "dice")]
        context["paired"] = _paired(results, order, context["method_colors"])
    context["curves"] = _curves(runs, context["method_colors"])
    return context | same_cases(runs, methods, list(context["colors"].values())) | compare_settings(runs)


def _outcome(results: pd.DataFrame, methods: list[str]) -> list[str]:
    if len(methods) > 1:
        return [describe(compare(results, name, methods[0])) for name in methods[1:]]
    scores = with_spread(_scores(results, methods[0], MEAN, "iou"))
    return [f"{methods[0]} {scores} mean IoU; there is no other method to compare it with yet."]


def _notices(runs: list[Run], scored: list[Run], part: str) -> list[str]:
    notices = []
    if not scored:
        return ["No run has scores yet: all were stopped before their first validation."]
    if part == "validation":
        notices.append(
            "No run has been evaluated on its test part. The scores are those of each run's best validation "
            "epoch, which flatter a model because the epoch was chosen by them."
        )
    left_out = [f"{run.method} split {run.split}" for run in runs if run not in scored]
    if left_out:
        reason = "no test scores yet" if part == "test" else "no validation scores yet"
        notices.append(f"Left out of tables, with {reason}: {', '.join(left_out)}.")
    splits = {name: {run.split for run in scored if run.method == name} for name in {run.method for run in scored}}
    if len({frozenset(values) for values in splits.values()}) > 1:
        notices.append(
            "The methods were not run on the same splits. Differences and the sentence above use the splits "
            "that both methods have; the rows of the table use all splits of each method."
        )
    return notices


def _scores(results: pd.DataFrame, method: str, label: str, score: str) -> pd.Series:
    return results.loc[(results["method"] == method) & (results["label"] == label), score]


def _table(results: pd.DataFrame, methods: list[str], score: str) -> dict[str, Any]:
    labels = [MEAN, *(label for label in dict.fromkeys(results["label"]) if label != MEAN)]
    best = {
        label: max((round(_scores(results, name, label, score).mean(), 3) for name in methods), default=np.nan)
        for label in labels
    }
    rows = []
    for name in methods:
        values = {label: _scores(results, name, label, score) for label in labels}
        cells = [
            (with_spread(values[label]), len(methods) > 1 and round(values[label].mean(), 3) == best[label])
            for label in labels
        ]
        rows.append(
            {
                "name": name,
                "splits": results.loc[results["method"] == name, "split"].nunique(),
                "cells": cells,
            }
        )
    differences = []
    for name in methods[1:]:
        pairs = [compare(results, name, methods[0], label, score).difference for label in labels]
        differences.append(
            {
                "name": f"{name} − {methods[0]}",
                "splits": len(compare(results, name, methods[0], score=score).splits),
                "cells": [with_spread(values, signed=True) for values in pairs],
            }
        )
    return {
        "score": {"iou": "IoU", "dice": "Dice"}[score],
        "labels": labels,
        "rows": rows,
        "differences": differences,
    }


def _paired(results: pd.DataFrame, methods: list[str], colors: dict[str, str]) -> Chart | None:
    baseline = methods[0]
    splits = {name: compare(results, name, baseline).splits for name in methods[1:]}
    rows = sum(map(len, splits.values()))
    if not rows:
        return None
    labels = [MEAN, *(label for label in dict.fromkeys(results["label"]) if label != MEAN)]
    # So many rows would need a page per class: the mean alone tells the outcome.
    labels = labels if rows <= MAXIMUM_PAIRED_ROWS else labels[:1]
    facets = {
        "mean over classes" if label == MEAN else plain(label): [
            compare(results, name, baseline, label) for name in methods[1:]
        ]
        for label in labels
    }
    caption = (
        f"IoU of {baseline} (open dot) and of the other method (filled dot) on the same split. "
        "A solid line means the method is better there, a dotted line that it is worse. "
        "Each small chart has its own scale."
    )
    shown = {name: colors[name] for name in methods}
    return paired_chart("Every split on its own", caption, facets, splits, shown)


def _curves(runs: list[Run], colors: dict[str, str]) -> Chart | None:
    validated = [run for run in runs if run.validation is not None]
    if not validated:
        return None
    facets = {}
    for label in (MEAN, *runs[0].classes):
        lines = [
            Line(
                run.method,
                run.validation["iteration"],
                run.validation[f"iou_{label}"],
                colors[run.method],
                faint=True,
            )
            for run in validated
        ]
        lines += _mean_lines(validated, f"iou_{label}", colors)
        facets["mean over classes" if label == MEAN else plain(label)] = lines
    caption = (
        "IoU on the validation images as training goes on. Thin: one line per run; "
        "thick: a method's mean over its splits."
    )
    return facet_chart("Validation of all runs", caption, facets, list(colors.items()))


def _mean_lines(runs: list[Run], column: str, colors: dict[str, str]) -> Iterator[Line]:
    for method in dict.fromkeys(run.method for run in runs):
        tables = [run.validation.set_index("iteration")[column] for run in runs if run.method == method]
        # Only iterations that every split reached: a mean over fewer would jump where one ends.
        mean = pd.concat(tables, axis=1, join="inner").mean(axis=1)
        if len(mean):
            yield Line(method, mean.index.to_series(), mean, colors[method], strong=True)


def compare_settings(runs: list[Run]) -> dict[str, Any]:
    """Settings that all runs share, and those in which the methods differ."""
    names = list(dict.fromkeys(chain.from_iterable(run.settings for run in runs)))
    shared, differing = {}, {}
    for name in names:
        values = {run.method: {str(r.settings.get(name, "")) for r in runs if r.method == run.method} for run in runs}
        if len(set().union(*values.values())) == 1:
            shared[name] = runs[0].settings[name]
        elif all(len(found) == 1 for found in values.values()):
            differing[name] = {run.method: run.settings.get(name) for run in runs}
    return {"shared_settings": shared, "differing_settings": differing}
