"""Tables on classes that some test cases lack: whether they are found where they are, and only there."""

from __future__ import annotations

from typing import Any

import pandas as pd

from .results import BY_UNIT, MEAN, digits_of, labels_of, over_text, plus_minus, title_of
from .text import number

SIZES, DRAW = ["truth_size", "predicted_size"], ["name", "split", "seed"]
AUC = "ROC AUC"


def known_sizes(table: pd.DataFrame) -> pd.DataFrame | None:
    """The rows of a table of scores that tell sizes; `None` where no case lacks a class, as far as they tell."""
    if not set(SIZES) <= set(table):
        return None
    known = table.dropna(subset=SIZES)
    return known if (known["truth_size"] == 0).any() else None


def presence_of_run(table: pd.DataFrame) -> dict[str, list] | None:
    """A row for each class; `None` where there is nothing to tell."""
    known = known_sizes(table)
    if known is None:
        return None
    from common.metrics import presence_scores  # MONAI is slow to import, and only needed here

    digits, rows = digits_of(BY_UNIT, table), []
    for name, own in presence_scores(known).iterrows():
        cells = [f"{own[column]:.0f}" for column in ("cases_with", "cases_without")]
        cells += [number(own[column]) for column in ("sensitivity", "specificity", "auc")]
        cells += [number(own["absolute_size_error"], digits), number(own["size_error"], digits, signed=True)]
        rows.append((name, cells))
    errors = [title_of(score, table) for score in ("absolute_size_error", "size_error")]
    heads = ["Class", "cases with it", "without it", "sensitivity", "specificity", AUC, *errors]
    return {"heads": heads, "rows": rows}


def presence_of_runs(table: pd.DataFrame) -> dict[str, Any] | None:
    """AUC and size error of each name, means over its draws; `None` where there is nothing to tell.

    `tables` have heads and rows like the other tables of a comparison, best in bold; `over` says what they hold.
    """
    known = known_sizes(table)
    if known is None:
        return None
    from common.metrics import presence_scores  # MONAI is slow to import, and only needed here

    draws = known.groupby(DRAW, sort=False)
    found = pd.concat({key: presence_scores(own) for key, own in draws}, names=DRAW)
    scores = {"auc": (AUC, 3, "max")}
    scores["absolute_size_error"] = title_of("absolute_size_error", table), digits_of(BY_UNIT, table), "min"
    names, labels = list(dict.fromkeys(table["name"])), labels_of(table)
    tables = [_table(found[score], names, labels, *how) for score, how in scores.items() if found[score].notna().any()]
    several, over = over_text(table)
    return {"tables": tables, "over": over if several else ""}


def _table(values: pd.Series, names: list[str], labels: list[str], title: str, digits: int, best: str) -> dict:
    """Cells (text, best) of names x labels, of values of name, split, seed and class; no column where all are NaN."""
    of_draws = values.unstack("class")
    of_draws = of_draws.assign(**{MEAN: of_draws.mean(axis=1)}).reindex(columns=labels).dropna(axis=1, how="all")
    groups = of_draws.groupby(level="name")
    means, deviations = groups.mean().reindex(names), groups.std().reindex(names)
    rounded = means.round(digits)
    bold = rounded == getattr(rounded, best)()
    bold &= len(names) > 1
    rows = []
    for name in names:
        places = [(name, label) for label in means]
        texts = [(plus_minus(means.loc[p], deviations.loc[p], digits=digits), bold.loc[p]) for p in places]
        rows.append((name, texts, []))
    return {"heads": [title, *means], "rows": rows}
