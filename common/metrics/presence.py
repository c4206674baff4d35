"""Whether a class is in a case at all, and how much of it: detection and errors of size over cases."""

from __future__ import annotations

import math

import pandas as pd
import torch
from monai.metrics import compute_roc_auc

NEEDED = ("class", "truth_size", "predicted_size")


def presence_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Scores of each class over the cases of a table as ``test.csv``; NaN where a score is undefined.

    A case has the class where ``truth_size`` is above 0; it is detected where ``predicted_size`` is. The area under the
    ROC curve (AUC) has ``predicted_size`` as the score of a case: it is the share of all pairs of a case with the class
    and one without in which more is predicted in the former, a tie counting half (Mann-Whitney). Errors are
    ``predicted_size`` minus ``truth_size`` over all cases, absolute (the AVD of RETOUCH, Bogunovic et al. 2019) and
    signed.

    Args:
        table: a row for each case and class with the columns ``class``, ``truth_size`` and ``predicted_size``; rows
            without a size are left out. Where it has a column ``unit``, that is one unit.

    Returns:
        A row for each class, in the table's order: ``cases_with`` and ``cases_without`` (numbers of cases that have the
        class and that do not), ``sensitivity`` (share of those with it in which it is detected; undefined where there
        is none), ``specificity`` (share of those without it in which it is not; undefined where there is none), ``auc``
        (undefined where all cases have the class, or none), ``absolute_size_error`` and ``size_error`` (means, in the
        table's unit).

    Raises:
        ValueError: if a column is missing, or sizes are in several units.
    """
    missing = [name for name in NEEDED if name not in table]
    if missing:
        raise ValueError(
            f"table must have the columns {', '.join(NEEDED)}, got none called {', '.join(missing)}: evaluate again."
        )
    units = [] if "unit" not in table else [unit for unit in table["unit"].dropna().unique() if unit]
    if len(units) > 1:
        raise ValueError(f"table must have sizes in one unit, got {', '.join(units)}: take the rows of one unit.")
    groups = dict(list(table.dropna(subset=["truth_size", "predicted_size"]).groupby("class", sort=False)))
    return pd.DataFrame([of_class(own) for own in groups.values()], pd.Index(groups, name="class"))


def of_class(table: pd.DataFrame) -> dict[str, float | int]:
    """Scores of the rows of one class."""
    present, detected = table["truth_size"] > 0, table["predicted_size"] > 0
    error, auc = table["predicted_size"] - table["truth_size"], math.nan
    if present.any() and not present.all():  # MONAI warns else
        sizes = torch.tensor(table["predicted_size"].to_numpy(float))
        auc = float(compute_roc_auc(sizes, torch.tensor(present.to_numpy(int))))
    return {
        "cases_with": int(present.sum()),
        "cases_without": int((~present).sum()),
        "sensitivity": float(detected[present].mean()),
        "specificity": float((~detected)[~present].mean()),
        "auc": auc,
        "absolute_size_error": float(error.abs().mean()),
        "size_error": float(error.mean()),
    }
