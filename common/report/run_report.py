"""What the report of a single run says and shows."""

from __future__ import annotations

from typing import Any

import pandas as pd

from .case_rows import case_row
from .cases import load_cases, weight_ceiling
from .charts import Chart, Line, line_chart
from .results import MEAN, collect
from .runs import BASELINE, Run
from .style import class_colors
from .text import plain, score_text


def run_context(run: Run) -> dict[str, Any]:
    """Everything the template of a single run needs."""
    # First of all, so that a broken file is reported before anything is drawn.
    cases = load_cases(run)
    ceiling = weight_ceiling(cases)
    part = "test" if run.test is not None else "validation" if run.best is not None else None
    colors = class_colors(run.classes)
    return {
        "run": run,
        "part": part,
        "table": _class_table(run, part),
        "colors": colors,
        "charts": training_charts(run, colors),
        "pseudo_charts": pseudo_label_charts(run, colors),
        "cases": [case_row(case, run, colors, ceiling) for case in cases],
        "ceiling": ceiling,
        "notices": _notices(run, part),
        "length": run_length(run),
    }


def _class_table(run: Run, part: str | None) -> list[dict[str, Any]]:
    if part is None:
        return []
    rows = collect([run], part).to_dict("records")
    for row in rows:
        if part == "test" and row["label"] != MEAN:
            scores = run.test.loc[run.test["label"] == row["label"], "iou"].dropna()
            row |= {"cases": len(scores), "deviation": scores.std(), "lowest": scores.min()}
    return rows


def _notices(run: Run, part: str | None) -> list[str]:
    notices = []
    if run.stopped_after is not None:
        notices.append(f"Training has not come to its end: this is its state after {run.stopped_after}.")
    if run.train is None:
        notices.append("There is no training log: the run stopped before its first logged iteration.")
    if part == "validation":
        notices.append(
            f"This run has not been evaluated on its test part. The scores are those of its best validation "
            f"epoch ({run.best['epoch']:.0f}), which flatter a model because the epoch was chosen by them."
        )
    if part is None:
        notices.append("There are no scores yet: the run was stopped before its first validation.")
    return notices


def run_length(run: Run) -> dict[str, float | None]:
    return {"iterations": _last(run.train, "iteration"), "epochs": _last(run.train, "epoch")}


def _last(table: pd.DataFrame | None, column: str) -> float | None:
    if table is None or column not in table or not table[column].notna().any():
        return None
    return float(table[column].max())


def training_charts(run: Run, colors: dict[str, str]) -> list[Chart]:
    """Validation scores, loss terms, and the learning rate where it varies."""
    charts = []
    if run.validation is not None:
        charts.append(_validation_chart(run, colors))
    if run.train is not None:
        charts.append(_loss_chart(run))
        rate = run.train.get("learning_rate")
        if rate is not None and rate.nunique() > 1:
            caption = "Step size of the optimizer at every iteration."
            lines = [Line("learning rate", run.train["iteration"], rate, "ink")]
            charts.append(line_chart("Learning rate", caption, lines, unit=False, smooth=False))
    return charts


def _validation_chart(run: Run, colors: dict[str, str]) -> Chart:
    table, best = run.validation, run.best
    lines = [Line(plain(name), table["iteration"], table[f"iou_{name}"], colors[name]) for name in run.classes]
    lines.append(Line("mean over classes", table["iteration"], table["iou_mean"], "ink", strong=True))
    marks = [] if best is None else [(best["iteration"], best["iou_mean"])]
    caption = "IoU (overlap with the truth, 1 is perfect) on the validation images as training goes on."
    if best is not None:
        caption += f" The large dot is the best epoch, {best['epoch']:.0f}: mean {score_text(best['iou_mean'])}."
    return line_chart("Validation", caption, lines, marks=marks)


def _loss_chart(run: Run) -> Chart:
    table = run.train
    terms = [name for name in table if name.startswith("loss_") and table[name].notna().any()]
    lines = [
        Line(plain(name.removeprefix("loss_")), table["iteration"], table[name], f"series-{index + 1}")
        for index, name in enumerate(terms)
    ]
    # A single term is the total: drawing it twice would only puzzle.
    lines = lines if len(terms) > 1 else []
    lines.append(Line("total", table["iteration"], table["loss"], "ink", strong=True))
    caption = "What training minimises, at every logged iteration; lower is better."
    if len(terms) > 1:
        caption += " The coloured lines are its terms."
    return line_chart("Training loss", caption, lines, unit=False)


def pseudo_label_charts(run: Run, colors: dict[str, str]) -> list[Chart]:
    """What the pseudo-labels were while training; empty for a method without them."""
    if run.train is None:
        return []
    hidden = "the truth, which is known for these unlabelled images but hidden from training"
    plans = (
        (
            "Pseudo-label accuracy",
            f"Share of pixels whose pseudo-label equals, in every class, {hidden}.",
            _overall(run, "pseudo_accuracy", "accuracy"),
        ),
        (
            "Pseudo-label IoU",
            f"Overlap of the pseudo-labels with {hidden}.",
            _per_class(run, "pseudo_iou", colors),
        ),
        (
            "Pixels that count",
            "Share of the unlabelled images' pixels with a weight over 0.1: training learns from these.",
            _overall(run, "pixel_share", "pixels that count"),
        ),
        (
            "Weight of the pseudo-labels",
            "Mean weight of the pixels by the class of their pseudo-label: 0 is ignored, 1 counts in full.",
            _per_class(run, "weight", colors) + _overall(run, "weight_mean", "all pixels"),
        ),
    )
    return [line_chart(title, caption, lines) for title, caption, lines in plans if lines]


def _overall(run: Run, column: str, label: str) -> list[Line]:
    known = column in run.train and run.train[column].notna().any()
    return [Line(label, run.train["iteration"], run.train[column], "ink", strong=True)] if known else []


def _per_class(run: Run, prefix: str, colors: dict[str, str]) -> list[Line]:
    return [
        Line(plain(name), run.train["iteration"], run.train[f"{prefix}_{name}"], colors[name])
        for name in run.classes
        if f"{prefix}_{name}" in run.train and run.train[f"{prefix}_{name}"].notna().any()
    ]


def explains_pseudo_labels(run: Run) -> str:
    """Why a run has no curves about pseudo-labels."""
    if run.method == BASELINE:
        return f"{BASELINE} learns from the labelled images alone and makes no pseudo-labels."
    return "This run logged nothing about pseudo-labels."
