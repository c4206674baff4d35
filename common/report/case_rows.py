"""Rows of overlays: one case of one run, or the same case for every method."""

from __future__ import annotations

from typing import Any

import numpy as np

from .cases import OTHER, Case, case_scores, draw_image, draw_masks, draw_weight, load_cases, weight_ceiling
from .runs import Run

MAXIMUM_CASES = 6
TITLES = {"pseudo_label": "Pseudo-label", "weight": "Weight"}


def case_row(case: Case, run: Run, colors: dict[str, str], ceiling: float) -> dict[str, Any]:
    """The panels and scores of one case of one run; `ceiling` ends the weights' colour scale."""
    shades = [colors[name] for name in run.classes]
    panels = [
        ("Image", draw_image(case.image)),
        ("Truth", draw_masks(case.image, case.truth, shades)),
        ("Prediction", draw_masks(case.image, case.prediction, shades)),
    ]
    panels += [(title, _draw(case, kind, shades, ceiling)) for kind, title in TITLES.items() if _has(case, kind)]
    scores = case_scores(case, run)
    return {
        "name": case.name,
        "role": case.role,
        "part": case.part,
        "panels": panels,
        "scores": scores,
        "mean": _mean(scores),
        "weighted": case.weight is not None,
    }


def same_cases(runs: list[Run], methods: list[str], shades: list[str]) -> dict[str, Any]:
    """The same cases for all methods, at most `MAXIMUM_CASES`, preferring those that most methods saved."""
    saved: dict[tuple[int, str, str], dict[str, tuple[Case, Run]]] = {}
    for run in runs:
        for case in load_cases(run, others=True):
            saved.setdefault((run.split, case.part, case.name), {}).setdefault(run.method, (case, run))
    chosen = [key for key, found in saved.items() if any(case.role != OTHER for case, _ in found.values())]
    keys = sorted(chosen, key=lambda key: (key[1] != "test", -len(saved[key])))
    keys = sorted(keys[:MAXIMUM_CASES], key=lambda key: key[0])
    extras = [
        (method, kind)
        for method in methods
        for kind in TITLES
        if any(method in saved[key] and _has(saved[key][method][0], kind) for key in keys)
    ]
    ceiling = weight_ceiling(case for key in keys for case, _ in saved[key].values())
    return {
        "cases": [_comparison_row(key, saved[key], methods, extras, shades, ceiling) for key in keys],
        "ceiling": ceiling,
        "case_columns": [
            "Image",
            "Truth",
            *methods,
            *(f"{TITLES[kind]} of {method}" for method, kind in extras),
        ],
        "weighted": any(kind == "weight" for _, kind in extras),
    }


def _comparison_row(
    key: tuple[int, str, str],
    by_method: dict[str, tuple[Case, Run]],
    methods: list[str],
    extras: list[tuple[str, str]],
    shades: list[str],
    ceiling: float,
) -> dict[str, Any]:
    split, part, name = key
    first = next(iter(by_method.values()))[0]
    cases = {method: case for method, (case, _) in by_method.items()}
    panels = [draw_image(first.image), draw_masks(first.image, first.truth, shades)]
    panels += [_draw(cases.get(method), "prediction", shades, ceiling) for method in methods]
    panels += [_draw(cases.get(method), kind, shades, ceiling) for method, kind in extras]
    scores = {method: case_scores(*by_method[method]) for method in methods if method in by_method}
    return {
        "name": name,
        "part": part,
        "split": split,
        "roles": [f"{case.role} of {method}" for method, case in cases.items() if case.role != OTHER],
        "panels": panels,
        "scores": scores,
        "means": {method: _mean(values) for method, values in scores.items()},
    }


def _draw(case: Case | None, kind: str, shades: list[str], ceiling: float) -> str | None:
    if case is None or not _has(case, kind):
        return None
    if kind == "weight":
        return draw_weight(case.weight, ceiling)
    return draw_masks(case.image, getattr(case, kind), shades)


def _has(case: Case, kind: str) -> bool:
    return getattr(case, kind) is not None


def _mean(scores: dict[str, float]) -> float:
    values = np.asarray(list(scores.values()), dtype=float)
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
