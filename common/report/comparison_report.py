"""What the report of several runs says and shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import pandas as pd

from .cases import case_rows
from .charts import Chart, Line, facet_chart, line_chart, paired_chart
from .presence_tables import presence_of_runs
from .results import (
    MEAN,
    NAMES,
    OVERLAPS,
    SCORES,
    cell_of,
    collect,
    compare,
    describe,
    digits_of,
    interval_text,
    kind_of_draws,
    labels_of,
    over_text,
    p_text,
    pairing,
    plus_minus,
    scores_in,
    title_of,
    units_of,
)
from .run_report import joining_context, overlay_colors
from .runs import Run
from .style import CLASS_COLORS, LIGHT, class_colors
from .text import number, plain, setting
from .volume_rows import volume_rows

MAXIMUM_PAIRED_CASES = 40
MAXIMUM_FACET_ROWS = 12


def comparison_context(runs: Sequence[Run], title: str | None, baselines: Mapping[str, str] | None) -> dict[str, Any]:
    """Everything the template of a comparison needs; `baselines` as of `pairing`."""
    names = list(dict.fromkeys(run.name for run in runs))
    part = "validation" if all(run.test is None for run in runs) else "test"
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
        return {"outcome": [], "tables": [], "paired": None, "presence": None, "kind": "split", "over": ""}
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
    tables = [_table(table, pairs, title, columns) for title, columns in plans if columns]
    shown = {name: colors[name] for name in names}
    paired = _paired(table, part, pairs, shown)
    presence = presence_of_runs(table)
    return {"outcome": outcome, "tables": tables, "paired": paired, "presence": presence, "kind": kind, "over": over}


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
    units = dict.fromkeys(unit for run in scored if run.test is not None for unit in units_of(run.test))
    if len(units) > 1:
        notices.append(
            f"Sizes are in {' or '.join(units)}, as each run was evaluated, and do not compare: evaluate all in one."
        )
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


def _table(table: pd.DataFrame, pairs: dict[str, str], title: str, columns: list[tuple[str, str]]) -> dict[str, Any]:
    """Cells of methods x columns (text, best), and of the differences (text, interval, p)."""
    rows, names, several = [], list(dict.fromkeys(table["name"])), over_text(table)[0]
    digits = [digits_of(SCORES[score].digits, table) for score, _ in columns]
    cells = {name: [cell_of(table, name, label, score, several) for score, label in columns] for name in names}
    rounded = [[round(own[place][0], d) for own in cells.values()] for place, d in enumerate(digits)]
    best = [
        getattr(pd.Series(values), SCORES[score].best)() for values, (score, _) in zip(rounded, columns, strict=True)
    ]
    for name, own in cells.items():
        texts = [
            (plus_minus(*cell, digits=d), len(names) > 1 and round(cell[0], d) == top)
            for cell, d, top in zip(own, digits, best, strict=True)
        ]
        of_name = table[table["name"] == name]
        rows.append((name, texts, [of_name.groupby(["split", "seed"]).ngroups, of_name["case"].nunique()]))
    for name, baseline in pairs.items():
        found = [compare(table, name, baseline, label, score).difference for score, label in columns]
        texts = [
            (f"{number(one.mean, d, signed=True)}\n{interval_text(one, d)}\n{p_text(one.p)}".rstrip(), False)
            for one, d in zip(found, digits, strict=True)
        ]
        rows.append((f"{name} − {baseline}", texts, [max(one.draws for one in found), max(one.cases for one in found)]))
    further = title == "Score"
    heads = [title_of(score, table) if further else label for score, label in columns]
    heads = [title, *heads, f"{kind_of_draws(table)}s", "cases"]
    return {"title": title, "further": further, "heads": heads, "rows": rows}


def _paired(table: pd.DataFrame, part: str, pairs: dict[str, str], colors: dict[str, str]) -> Chart | None:
    if not pairs:
        return None
    kind, cases = kind_of_draws(table), table["case"].nunique()
    by_case = part == "test" and cases <= MAXIMUM_PAIRED_CASES and cases * len(pairs) <= 10 * MAXIMUM_PAIRED_CASES
    keys = table["case"] if by_case else [f"{kind} {draw}" for draw in table[kind]]
    table = table.assign(row=keys).sort_values(["split", "seed"], kind="stable")
    plans = {NAMES.get(label, plain(label)): ("iou", label) for label in labels_of(table)}
    if len(plans) == 1:  # one class: the scores beside its IoU say more
        shown = [score for score in scores_in(table) if score in ("iou", "precision", "sensitivity")]
        plans = {SCORES[score].title: (score, MEAN) for score in shown}
    elif table["row"].nunique() > MAXIMUM_FACET_ROWS:
        plans = {NAMES[MEAN]: ("iou", MEAN)}
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
    charts, legend, lines = [], list(colors.items()), "Thin: one line per run; thick: a method's mean over its runs."
    plans = {NAMES.get(label, plain(label)): f"iou_{label}" for label in (MEAN, *runs[0].classes)}
    if len(runs[0].classes) == 1:
        plans = {"IoU": "iou_mean", "Dice": "dice_mean"}
    facets = {title: _lines(runs, "validation", column, colors) for title, column in plans.items()}
    facets = {title: found for title, found in facets.items() if found}
    if facets:
        caption = f"Overlap with the truth on the validation cases (IoU) as training goes on. {lines}"
        charts.append(facet_chart("Validation of all runs", caption, facets, legend))
    losses = _lines(runs, "train", "loss", colors)
    if losses:
        caption = f"What training minimises; the losses of methods with different terms do not compare. {lines}"
        charts.append(replace(line_chart("Training loss", caption, losses, unit=False), legend=legend))
    return charts


def _lines(runs: Sequence[Run], table: str, column: str, colors: dict[str, str]) -> list[Line]:
    """A faint line for each run, and a strong one for the mean of each method that has several."""
    found: dict[str, list[pd.Series]] = {}
    for run in runs:
        values = getattr(run, table)
        if values is not None and column in values and values[column].notna().any():
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
