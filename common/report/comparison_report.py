"""What the report of several runs says and shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import pandas as pd

from .cases import case_rows
from .charts import Chart, Line, facet_chart, line_chart, paired_chart
from .results import (
    MEAN,
    OVERLAPS,
    SCORES,
    cell_of,
    collect,
    compare,
    describe,
    interval_text,
    kind_of_draws,
    labels_of,
    over_text,
    p_text,
    pairing,
    plus_minus,
    scores_in,
    title_of,
)
from .run_report import joining_context, overlay_colors
from .runs import Run
from .style import CLASS_COLORS, LIGHT, class_colors
from .text import number, plain, setting
from .volume_rows import volume_rows

MAXIMUM_PAIRED_CASES = 40
MAXIMUM_FACET_ROWS = 12
NAMES = {MEAN: "mean over classes"}


def comparison_context(
    runs: Sequence[Run], title: str | None = None, baselines: Mapping[str, str] | None = None
) -> dict:
    """Everything the template of a comparison needs; `baselines` as of `pairing`."""
    names, part = list(dict.fromkeys(run.name for run in runs)), "test"
    if all(run.test is None for run in runs):
        part = "validation"
    scored = [run for run in runs if (run.test if part == "test" else run.best) is not None]
    pairs = pairing(names, baselines)
    subjects = [name for name in names if name in pairs]
    against = list(dict.fromkeys(pairs.values()))
    colors = {name: method_color(place) for place, name in enumerate(names)}
    first = {run.name: run for run in reversed(runs) if run.pseudo_labels is not None}
    return case_rows(runs) | {
        "runs": runs,
        "subject": title or " against ".join(", ".join(part) for part in (subjects or names, against) if part),
        "names": names,
        "part": part,
        "colors": class_colors(runs[0].classes),
        "overlay_colors": overlay_colors(runs[0]),
        "method_colors": colors,
        "draws": len({run.draw for run in runs}),
        "notices": _notices(runs, scored, part),
        **_scores(scored, part, pairs, colors),
        "volumes": volume_rows(runs),
        "joinings": [joining_context(first[name]) for name in names if name in first],
        "curves": _curves(runs, colors),
        **compare_settings(runs, names),
    }


def _scores(runs: Sequence[Run], part: str, pairs: dict[str, str], colors: dict[str, str]) -> dict[str, Any]:
    """Sentences, tables and the paired chart; nothing of these where no run has scores."""
    if not runs:
        return {"outcome": [], "tables": [], "paired": None, "kind": "split", "over": ""}
    table = collect(runs, part)
    several, over = over_text(table)
    kind, names = kind_of_draws(table), list(dict.fromkeys(table["name"]))
    pairs = {name: baseline for name, baseline in pairs.items() if {name, baseline} <= set(names)}
    outcome = [describe(compare(table, name, baseline), kind) for name, baseline in pairs.items()]
    if not outcome:
        scores = [f"{name} {plus_minus(*cell_of(table, name, MEAN, 'iou', several))}" for name in names]
        outcome = [f"{', '.join(scores)} mean IoU; there is no other method to compare it with yet."]
    plans = [(SCORES[s].title, [(s, label) for label in labels_of(table)]) for s in OVERLAPS]
    plans.append(("Score", [(s, MEAN) for s in scores_in(table)[len(OVERLAPS) :] if SCORES[s].best]))
    tables = [_table(table, pairs, title, columns, several) for title, columns in plans if columns]
    shown = {name: colors[name] for name in names}
    return {
        "outcome": outcome,
        "tables": tables,
        "paired": _paired(table, part, pairs, shown),
        "kind": kind,
        "over": over,
    }


def method_color(place: int) -> str:
    """The colour of the method at this place: of the theme's series, then of the classes' palette."""
    own = len(LIGHT.series)
    return f"series-{place}" if place < own else CLASS_COLORS[(place - own) % len(CLASS_COLORS)]


def _notices(runs: Sequence[Run], scored: list[Run], part: str) -> list[str]:
    notices = []
    if not scored:
        return ["No run has scores yet: all were stopped before their first validation."]
    if part == "validation":
        notices.append(
            "No run has been evaluated on its test part. The scores are those of each run's best validation "
            "epoch, which flatter a model because the epoch was chosen by them."
        )
    left_out = [f"{run.name} split {run.split}, seed {run.seed}" for run in runs if run not in scored]
    if left_out:
        notices.append(f"Left out of tables, with no {part} scores yet: {'; '.join(left_out)}.")
    draws, cases = {}, {}
    for run in scored:
        draws.setdefault(run.name, set()).add(run.draw)
        cases.setdefault(run.name, set()).update([] if run.test is None else run.test["case"])
    for what, found in (("run on the same splits and seeds", draws), ("tested on the same cases", cases)):
        if len(set(map(frozenset, found.values()))) > 1:
            notices.append(
                f"The methods were not {what}. Differences and the sentence above use what both methods have; "
                "the rows of the tables use all of each method."
            )
    return notices


def _table(
    table: pd.DataFrame, pairs: dict[str, str], title: str, columns: list[tuple[str, str]], several: bool
) -> dict[str, Any]:
    """Cells of methods x columns (text, best), and of the differences (text, interval, p)."""
    rows, names, digits = [], list(dict.fromkeys(table["name"])), [SCORES[score].digits for score, _ in columns]
    means = {name: [cell_of(table, name, label, score, several) for score, label in columns] for name in names}
    rounded = pd.DataFrame({name: [round(cell[0], d) for cell, d in zip(means[name], digits)] for name in names})
    best = [getattr(rounded.loc[place], SCORES[score].best)() for place, (score, _) in enumerate(columns)]
    for name in names:
        own = table[table["name"] == name]
        texts = [plus_minus(*cell, digits=d) for cell, d in zip(means[name], digits)]
        tops = [len(names) > 1 and value == top for value, top in zip(rounded[name], best)]
        rows.append((name, list(zip(texts, tops)), [own.groupby(["split", "seed"]).ngroups, own["case"].nunique()]))
    for name, baseline in pairs.items():
        found = [compare(table, name, baseline, label, score).difference for score, label in columns]
        lines = [(number(x.mean, d, signed=True), interval_text(x, d), p_text(x.p)) for x, d in zip(found, digits)]
        cells = [("\n".join(filter(None, texts)), False) for texts in lines]
        rows.append((f"{name} − {baseline}", cells, [max(x.draws for x in found), max(x.cases for x in found)]))
    further = title == "Score"
    heads = [title_of(score, table) if further else label for score, label in columns]
    heads = [title, *heads, f"{kind_of_draws(table)}s", "cases"]
    return {"title": title, "further": further, "heads": heads, "rows": rows}


def _paired(table: pd.DataFrame, part: str, pairs: dict[str, str], colors: dict[str, str]) -> Chart | None:
    if not pairs:
        return None
    cases = table["case"].nunique()
    by_case = part == "test" and cases <= MAXIMUM_PAIRED_CASES
    kind = kind_of_draws(table)
    draws = {"split": "split {0}", "seed": "seed {1}", "draw": "split {0}, seed {1}"}[kind]
    keys = table["case"] if by_case else [draws.format(*draw) for draw in table[["split", "seed"]].to_numpy()]
    table = table.assign(row=keys).sort_values(["split", "seed"], kind="stable")
    plans = {NAMES.get(label, plain(label)): ("iou", label) for label in labels_of(table)}
    if len(plans) == 1:  # one class: the scores beside its IoU say more
        shown = [score for score in scores_in(table) if score in ("iou", "precision", "sensitivity")]
        plans = {SCORES[score].title: (score, MEAN) for score in shown}
    elif table["row"].nunique() > MAXIMUM_FACET_ROWS:
        plans = dict([next(iter(plans.items()))])
    facets = {}
    for title, (score, label) in plans.items():
        rows = table if label == MEAN else table[table["class"] == label]
        means = rows.groupby(["row", "name", "class"], sort=False)[score].mean()
        facets[title] = means.groupby(level=["row", "name"], sort=False).mean().unstack("name")
    order = next(iter(facets.values()))
    order = order.sort_values(next(iter(pairs.values()))).index if by_case else order.index
    facets = {title: values.reindex(index=order, columns=list(colors)) for title, values in facets.items()}
    what = "case" if by_case else kind
    caption = (
        f"{'Scores' if len(labels_of(table)) == 1 else 'IoU'} of each baseline (open dot) and of the other methods "
        f"(filled dots) on the same {what}{f', means over {kind}s' if by_case else ''}. A solid line means the method "
        "is better there, a dotted line that it is worse. Each small chart has its own scale."
    )
    return paired_chart(f"Every {what} on its own", caption, facets, pairs, colors)


def _curves(runs: Sequence[Run], colors: dict[str, str]) -> list[Chart]:
    """Validation scores and training loss of all runs."""
    charts = []
    validated = [run for run in runs if run.validation is not None]
    if validated:
        plans = {NAMES.get(label, plain(label)): f"iou_{label}" for label in (MEAN, *runs[0].classes)}
        if len(runs[0].classes) == 1:
            plans = {"IoU": "iou_mean", "Dice": "dice_mean"}
        facets = {title: _lines(validated, "validation", column, colors) for title, column in plans.items()}
        caption = (
            f"{'Overlap' if len(runs[0].classes) == 1 else 'IoU'} on the validation cases as training goes on. Thin: "
            "one line per run; thick: a method's mean over its runs."
        )
        facets = {title: lines for title, lines in facets.items() if lines}
        charts.append(facet_chart("Validation of all runs", caption, facets, list(colors.items())))
    losses = _lines([run for run in runs if run.train is not None], "train", "loss", colors)
    if losses:
        caption = (
            "What training minimises, one line per run and a method's mean. The losses of different methods have "
            "different terms and do not compare."
        )
        charts.append(replace(line_chart("Training loss", caption, losses, unit=False), legend=list(colors.items())))
    return charts


def _lines(runs: Sequence[Run], table: str, column: str, colors: dict[str, str]) -> list[Line]:
    """A faint line for each run, and a strong one for the mean of each method that has several."""
    found: dict[str, list[pd.Series]] = {}
    for run in runs:
        values = getattr(run, table)
        if column in values and values[column].notna().any():
            found.setdefault(run.name, []).append(values.set_index("iteration")[column])
    lines = [Line(n, y.index.to_series(), y, colors[n], faint=True) for n, tables in found.items() for y in tables]
    for name, tables in found.items():
        # Only iterations that every run reached: a mean over fewer would jump where one ends.
        mean = pd.concat(tables, axis=1, join="inner").mean(axis=1)
        if len(mean):
            lines.append(Line(name, mean.index.to_series(), mean, colors[name], strong=True))
    return lines


def compare_settings(runs: Sequence[Run], names: list[str]) -> dict[str, Any]:
    """Settings that all runs share, and those in which the methods differ."""
    shared, differing = {}, []
    for key in dict.fromkeys(chain.from_iterable(run.settings for run in runs)):
        values = {name: {str(run.settings.get(key, "")) for run in runs if run.name == name} for name in names}
        if len(set().union(*values.values())) == 1:
            shared[key] = runs[0].settings[key]
        elif all(len(found) == 1 for found in values.values()):
            own = {run.name: run.settings.get(key) for run in runs}
            differing.append((key, ["–" if own[name] is None else setting(own[name]) for name in names]))
    return {"shared_settings": shared, "differing_settings": differing}
