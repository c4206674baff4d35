"""Rows of overlays: the saved cases of one run, or of several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .cases import OTHER, Case, case_scores, draw_image, draw_masks, draw_weight, load_cases, weight_ceiling
from .runs import Run
from .style import class_colors

MAXIMUM_CASES = 6
KINDS = {"prediction": "Prediction", "pseudo_label": "Pseudo-label", "weight": "Weight"}


def case_rows(runs: Sequence[Run]) -> dict[str, Any]:
    """The same cases for all names, at most `MAXIMUM_CASES`, preferring those that most names saved.

    `cases` has a row of panels and scores for each, `ceiling` ends the scale of the weights, if any is shown.
    """
    names = list(dict.fromkeys(run.name for run in runs))
    saved: dict[tuple, dict[str, tuple[Case, Run]]] = {}
    for run in runs:
        for case in load_cases(run):
            saved.setdefault((run.draw, case.part, case.name), {})[run.name] = (case, run)
    chosen = [key for key, found in saved.items() if any(case.role != OTHER for case, _ in found.values())]
    keys = sorted(chosen, key=lambda key: (key[1] != "test", -len(saved[key])))
    keys = sorted(keys[:MAXIMUM_CASES], key=lambda key: key[0])
    shown = [case for key in keys for case, _ in saved[key].values()]
    ceiling = weight_ceiling(shown)
    columns = [(name, "prediction") for name in names]
    columns += [
        (name, kind)
        for name in names
        for kind in ("pseudo_label", "weight")
        if any(name in saved[key] and getattr(saved[key][name][0], kind) is not None for key in keys)
    ]
    return {
        "cases": [_row(key, saved[key], columns, ceiling) for key in keys],
        "ceiling": ceiling if any(case.weight is not None for case in shown) else None,
    }


def _row(key: tuple, found: dict[str, tuple[Case, Run]], columns: list[tuple[str, str]], ceiling: float) -> dict:
    (split, seed), part, name = key
    several = len(dict(columns)) > 1
    first, run = next(iter(found.values()))
    shades = list(class_colors(run.classes).values())
    panels = [("Image", "", draw_image(first.image)), ("Truth", "", draw_masks(first.image, first.truth, shades))]
    for method, kind in columns:
        title = KINDS[kind] if not several else method if kind == "prediction" else f"{KINDS[kind]} of {method}"
        case = found[method][0] if method in found else None
        panels.append((title, "", _draw(case, kind, shades, ceiling)))
    roles = [f"{case.role} of {method}" if several else case.role for method, (case, _) in found.items()]
    facts = [f"{part} case of split {split}" + (f", seed {seed}" if seed else "")]
    facts += [role for role in roles if not role.startswith(OTHER)]
    scores = {method: case_scores(*found[method]) for method in dict(columns) if method in found}
    means = {method: _mean(values.values()) for method, values in scores.items()}
    return {"name": name, "facts": "; ".join(facts), "missing": None, "panels": panels, "scores": scores, "means": means}


def _draw(case: Case | None, kind: str, shades: list[str], ceiling: float) -> str | None:
    values = None if case is None else getattr(case, kind)
    if values is None:
        return None
    return draw_weight(values, ceiling) if kind == "weight" else draw_masks(case.image, values, shades)


def _mean(scores: Sequence[float]) -> float:
    known = [score for score in scores if score == score]
    return float(np.mean(known)) if known else float("nan")
