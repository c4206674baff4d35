"""What the report of a single run says and shows."""

from __future__ import annotations

from typing import Any

import pandas as pd

from .cases import case_rows
from .charts import Chart, joining_chart, line_chart, lines_of
from .gate import gate_charts, gate_rows
from .latent_map import latent_chart
from .presence_tables import presence_of_run
from .results import (
    BY_UNIT,
    MEAN,
    NAMES,
    OVERLAPS,
    SCORES,
    collect,
    digits_of,
    labels_of,
    scores_in,
    summary_of,
    title_of,
    with_spread,
)
from .runs import BASELINE, Run
from .style import class_colors
from .text import number, plain
from .volume_rows import pseudo_label_row, volume_rows
from .volume_views import OUTCOME_COLORS, PLAIN_COLOR

MAXIMUM_CASE_ROWS = 60
MAXIMUM_CLASS_COLUMNS = 8
# Columns of test.csv that describe a case of a single class beside its scores: title, digits.
FACTS = {
    "truth_size": ("truth, {size}", BY_UNIT),
    "predicted_size": ("prediction, {size}", BY_UNIT),
    "truth_lesions": ("lesions in truth", 0),
    "predicted_lesions": ("lesions in prediction", 0),
}


def run_context(run: Run) -> dict[str, Any]:
    """Everything the template of a single run needs."""
    # First of all, so that a broken file is reported before anything is drawn.
    pictures = case_rows([run])
    part = "test" if run.test is not None else "validation" if run.best is not None else None
    colors = class_colors(run.classes)
    scores = None if part is None else collect([run], part)
    return pictures | {
        "run": run,
        "part": part,
        "classes": None if part is None else _class_table(scores, part),
        "further": None if part is None else _further(scores),
        "presence": None if part is None else presence_of_run(scores),
        "case_table": _case_table(scores) if part == "test" else None,
        "volumes": volume_rows([run]),
        "colors": colors,
        "overlay_colors": overlay_colors(run),
        "charts": training_charts(run, colors),
        "joining": joining_context(run),
        "pseudo_charts": [*pseudo_label_charts(run, colors), *gate_charts(run)],
        "gate": gate_rows(run),
        "notices": _notices(run, part),
        "iterations": None if run.train is None else float(run.train["iteration"].max()),
    }


def overlay_colors(run: Run) -> dict[str, str] | None:
    """Colours of masks over volumes of a single class by what they mean; several classes have their own."""
    plain_color = {"prediction where the truth is not known": PLAIN_COLOR}
    return OUTCOME_COLORS | plain_color if len(run.classes) == 1 else None


def _class_table(table: pd.DataFrame, part: str) -> dict[str, Any]:
    """A row for each class, and one for the mean over them; of a test, with what is over the cases."""
    means, iou = summary_of(table).set_index("class")[list(OVERLAPS)], table.groupby("class")["iou"]
    heads = ["Class", "IoU", "Dice"] + (["deviation of IoU", "lowest IoU", "cases"] if part == "test" else [])
    rows = [(name, [number(value) for value in means.loc[name]]) for name in means.index]
    for name, cells in rows[:-1] if part == "test" else []:
        cells += [number(iou.std()[name]), number(iou.min()[name]), iou.count()[name]]
    rows = rows[:1] if len(rows) == 2 else [*rows[:-1], (NAMES[MEAN], rows[-1][1])]
    return {"heads": heads, "rows": rows, **means.loc[MEAN].to_dict()}


def _further(table: pd.DataFrame) -> dict[str, list] | None:
    """Rows of the scores beyond the overlaps: over cases, each the mean over its classes, and of every class."""
    rows, classes = [], labels_of(table)[1:]
    for score in scores_in(table)[len(OVERLAPS) :]:
        values, digits = table.groupby("case")[score].mean().dropna(), digits_of(SCORES[score].digits, table)
        means = table.groupby("class")[score].mean()
        cells = [with_spread(values, digits=digits), number(values.median(), digits)]
        cells += [number(means[name], digits) for name in classes]
        rows.append((title_of(score, table), [*cells, len(values)]))
    return {"heads": ["Score", "mean", "median", *classes, "cases"], "rows": rows} if rows else None


def _case_table(table: pd.DataFrame) -> dict[str, Any]:
    """A row of scores for each case, the lowest mean Dice first."""
    classes, unit = labels_of(table)[1:], lambda title: title_of(title, table)
    scores = [score for score in ("dice", *scores_in(table)) if score != "absolute_size_error"]
    means = table.groupby("case", sort=False)[list(dict.fromkeys(scores))].mean()
    columns = {unit(score): (means[score], SCORES[score].digits) for score in means}
    if 1 < len(classes) <= MAXIMUM_CLASS_COLUMNS:
        dice = table.pivot(index="case", columns="class", values="dice")
        columns |= {f"Dice, {plain(name)}": (dice[name], 3) for name in classes}
    if not classes:
        own = table.set_index("case")
        columns |= {unit(title): (own[name], digits) for name, (title, digits) in FACTS.items() if name in own}
    order = means["dice"].sort_values(na_position="last", kind="stable").index
    columns = {title: (values, digits_of(digits, table)) for title, (values, digits) in columns.items()}
    rows = [(case, [number(values[case], digits) for values, digits in columns.values()]) for case in order]
    return {"heads": ["Case", *columns], "rows": rows[:MAXIMUM_CASE_ROWS], "cases": len(rows)}


def _notices(run: Run, part: str | None) -> list[str]:
    notices = []
    if run.stopped_after is not None:
        notices.append(f"Training has not come to its end: this is its state after {run.stopped_after}.")
    if run.train is None:
        notices.append("There is no training log: the run stopped before its first logged iteration.")
    if part == "validation":
        text = "This run has not been evaluated on its test part. The scores are those of its best validation epoch"
        notices.append(f"{text} ({run.best['epoch']:.0f}), which flatter a model because the epoch was chosen by them.")
    if part is None:
        notices.append("There are no scores yet: the run was stopped before its first validation.")
    return notices


def training_charts(run: Run, colors: dict[str, str]) -> list[Chart]:
    """Validation scores, loss terms, and the learning rate where it varies."""
    charts, best = [], run.best
    if run.validation is not None:
        several = len(run.classes) > 1
        mean = {"iou_mean": ("mean over classes", "ink")} if several else {"dice_mean": ("Dice", "ink")}
        lines = lines_of(run.validation, _of_classes("iou", colors) | mean)
        marks = [] if best is None else [(best["iteration"], best["iou_mean"])]
        caption = "IoU (overlap with the truth, 1 is perfect) on the validation cases as training goes on."
        if best is not None:
            caption += f" The large dot is the best epoch, {best['epoch']:.0f}: mean {number(best['iou_mean'])}."
        charts.append(line_chart("Validation", caption, lines, marks=marks))
    if run.train is not None:
        terms = [name for name in run.train if name.startswith("loss_")]
        columns = {name: (name.removeprefix("loss_"), f"series-{place + 1}") for place, name in enumerate(terms)}
        lines = lines_of(run.train, columns | {"loss": ("total", "ink")})
        caption = "What training minimises, at every logged iteration; lower is better."
        # A single term is the total: drawing it twice would only puzzle.
        lines, more = (lines, " The coloured lines are its terms.") if len(lines) > 2 else (lines[-1:], "")
        charts.append(line_chart("Training loss", caption + more, lines, unit=False))
        if run.train.get("learning_rate", pd.Series(dtype=float)).nunique() > 1:
            caption, lines = "Step size of the optimizer.", lines_of(run.train, {"learning_rate": ("", "ink")})
            charts.append(line_chart("Learning rate", caption, lines, unit=False, smooth=False))
    return charts


def _of_classes(prefix: str, colors: dict[str, str]) -> dict[str, tuple[str, str]]:
    return {f"{prefix}_{name}": (name, color) for name, color in colors.items()}


def pseudo_label_charts(run: Run, colors: dict[str, str]) -> list[Chart]:
    """What the pseudo-labels were while training; empty for a method without them."""
    hidden = "the truth, which is known for these unlabelled images but hidden from training"
    equal = f"Share of pixels whose pseudo-label equals, in every class, {hidden}."
    ranks = "Of pairs of a right and a wrong pixel, the share in which the right one has the higher value, ties half."
    trust = (
        "Share of wrong pixels among those with a probability over 0.95, and how far probabilities are from accuracy."
    )
    counts = "Share of the unlabelled images' pixels with a weight over 0.1: training learns from these."
    weight = "Mean weight of the pixels by the class of their pseudo-label: 0 is ignored, 1 counts in full."
    weights = _of_classes("weight", colors) | {"weight_mean": ("all pixels", "ink")}
    right, known = _weight_columns(run)
    sure = {"confident_wrong": ("confident and wrong", "ink"), "calibration_error": ("calibration error", "series-1")}
    plans = (
        ("Pseudo-label accuracy", f"{equal} Each pixel counts alike, or as its weight says.", right),
        ("Does the weight know what is right?", ranks, known),
        ("Wrong though confident", trust, sure),
        ("Pseudo-label IoU", f"Overlap of the pseudo-labels with {hidden}.", _of_classes("pseudo_iou", colors)),
        ("Pixels that count", counts, {"pixel_share": ("pixels that count", "ink")}),
        ("Weight of the pseudo-labels", weight, weights),
    )
    plans += _term_plans(run, colors)
    found = [] if run.train is None else [(*words, lines_of(run.train, columns)) for *words, columns in plans]
    return [line_chart(title, caption, lines) for title, caption, lines in found if lines]


def _term_plans(run: Run, colors: dict[str, str]) -> tuple[tuple[str, str, dict[str, tuple[str, str]]], ...]:
    """Of the terms that compare outputs: whose gradients there are, of which classes, and what is learnt already."""
    columns = () if run.train is None else run.train
    terms = [name.removeprefix("agreement_") for name in columns if name.startswith("agreement_")]
    if len(terms) < 2:
        return ()
    lines = {name: (name, f"series-{place + 1}") for place, name in enumerate(terms)}
    share = "Of the terms that compare outputs with a label, each one's share of the gradient of these outputs."
    learnt = "Share of pixels, as they count, in which the outputs say already what the term asks: the rest is learnt."
    seen = "Share of right pixels in what the network says of each term's view, by the truth hidden from training."
    classes = "Share of the term's gradient that comes from pixels labelled as the class."
    return (
        ("Gradient by term", share, {f"gradient_{name}": line for name, line in lines.items()}),
        *((f"Gradient of {name} by class", classes, _of_classes(f"gradient_{name}", colors)) for name in terms),
        ("Agreement with what is asked", learnt, {f"agreement_{name}": line for name, line in lines.items()}),
        ("Accuracy on the view", seen, {f"view_accuracy_{name}": line for name, line in lines.items()}),
    )


def _weight_columns(run: Run) -> tuple[dict[str, tuple[str, str]], dict[str, tuple[str, str]]]:
    """Columns of what is right, and of what knows it, of the weight and of its factors."""
    right = {"pseudo_accuracy": ("all alike", "muted"), "accuracy_weight": ("as weighted", "ink")}
    known = {"auc_weight": ("the weight", "ink"), "auc_probability": ("the network's probability", "series-1")}
    names = [
        name.removeprefix("accuracy_")
        for name in (() if run.train is None else run.train)
        if name.startswith("accuracy_")
    ]
    for place, part in enumerate(name for name in names if name != "weight"):
        right[f"accuracy_{part}"] = f"by {part} alone", f"series-{place + 2}"
        known[f"auc_{part}"] = f"{part} alone", f"series-{place + 2}"
    return right, known


def explains_pseudo_labels(run: Run) -> str:
    """Why a run has no curves about pseudo-labels."""
    if BASELINE in (run.method, run.name):
        return f"{BASELINE} learns from the labelled images alone and makes no pseudo-labels."
    return "This run logged nothing about pseudo-labels."


def joining_context(run: Run) -> dict[str, Any] | None:
    """Map, steps, Dice and pictures of the pseudo-labels that joined the training set; `None` if the run has none."""
    if run.pseudo_labels is None:
        return None
    joined = run.pseudo_labels.joined
    return {
        "name": run.name,
        "map": None if run.latents is None else latent_chart(run.latents),
        "dice": joining_chart(joined),
        "steps": [_step(step, images) for step, images in joined.groupby("step")],
        "pictures": pseudo_label_row(run),
        "joined": len(joined),
        "set_aside": [(image, [reason]) for image, reason in run.pseudo_labels.set_aside],
    }


def _step(step: int, images: pd.DataFrame) -> tuple[int, list[Any]]:
    known = images["dice"].notna().sum()
    dice = number(images["dice"].mean()) + (f" ({known} known)" if 0 < known < len(images) else "")
    return step, [len(images), number(images["score"].mean(), 2), dice, with_spread(images["ml"], digits=1)]
