"""Scores of all runs in one table, the paired comparison with the baseline, and both as text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from common.files import replacing

from .runs import BASELINE, Run, find_runs

COLUMNS = ["method", "split", "label", "iou", "dice"]
MEAN = "mean"


@dataclass(frozen=True)
class Comparison:
    """A method against the baseline over the splits that both have; `difference` is method minus baseline."""

    method: str
    baseline: str
    method_scores: np.ndarray
    baseline_scores: np.ndarray
    splits: list[int]

    @property
    def difference(self) -> np.ndarray:
        return self.method_scores - self.baseline_scores


def summarize(runs_dir: Path | str) -> pd.DataFrame:
    """Test scores of every run, one row per method, split and label; label "mean" is the mean over classes.

    A class's score is the mean over the test cases in which it occurs in truth or prediction; a class that
    occurs in none is left empty and out of the mean over classes. Runs without test.csv are left out.

    Raises:
        FileNotFoundError: if the folder is missing, holds no run, or no run was evaluated on its test part.
    """
    runs, _ = find_runs(runs_dir)
    tested = [run for run in runs if run.test is not None]
    if not tested:
        raise FileNotFoundError(f"{runs_dir} must hold a run with test.csv, got none: evaluate the runs first")
    return collect(tested, "test")


def collect(runs: list[Run], part: str) -> pd.DataFrame:
    """The table of `summarize` from loaded runs; part "validation" takes each run's best epoch instead."""
    return pd.concat([_scores(run, part) for run in runs], ignore_index=True)[COLUMNS]


def _scores(run: Run, part: str) -> pd.DataFrame:
    if part == "test":
        scores = run.test.groupby("label")[["iou", "dice"]].mean().reindex(list(run.classes))
    else:
        cells = {s: [run.best.get(f"{s}_{name}", np.nan) for name in run.classes] for s in ("iou", "dice")}
        scores = pd.DataFrame(cells, index=list(run.classes), dtype=float)
    scores.loc[MEAN] = scores.mean()
    return scores.rename_axis("label").reset_index().assign(method=run.method, split=run.split)


def write_results(results: pd.DataFrame, path: Path | str) -> Path:
    """Write the table of `summarize` as CSV with the columns method, split, label, iou, dice."""
    missing = [name for name in COLUMNS if name not in results]
    if missing:
        raise ValueError(f"results must have the columns {', '.join(COLUMNS)}, got none named {', '.join(missing)}")
    with replacing(path) as temporary:
        results[COLUMNS].to_csv(temporary, index=False)
    return Path(path)


def methods_of(results: pd.DataFrame) -> list[str]:
    """Methods in the order of every table and figure: the baseline first, then by name."""
    return sorted(results["method"].unique(), key=lambda method: (method != BASELINE, method))


def compare(results: pd.DataFrame, method: str, baseline: str, label: str = MEAN, score: str = "iou") -> Comparison:
    """Pair a method with the baseline split by split; splits that only one of them has are left out."""
    table = results[results["label"] == label].pivot(index="split", columns="method", values=score)
    pairs = table[[baseline, method]].dropna()
    return Comparison(method, baseline, pairs[method].to_numpy(), pairs[baseline].to_numpy(), pairs.index.tolist())


def spread(values: np.ndarray) -> float:
    """Sample standard deviation (n - 1), NaN for fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def with_spread(values: np.ndarray | pd.Series, signed: bool = False, digits: int = 3) -> str:
    """Mean ± standard deviation over splits, e.g. "0.712 ± 0.031"; a dash where there is no value."""
    values = np.asarray(values, dtype=float)
    values = values[~np.isnan(values)]
    if not len(values):
        return "–"
    mean = f"{values.mean():{'+' if signed else ''}.{digits}f}"
    # A typographic minus is as wide as a plus; a rounded zero has no sign.
    mean = mean[1:] if mean[0] in "+-" and float(mean) == 0 else mean.replace("-", "−")
    return mean if len(values) < 2 else f"{mean} ± {spread(values):.{digits}f}"


def describe(comparison: Comparison, score: str = "mean IoU", unit: str = "split") -> str:
    """The outcome in one sentence, honest when the method loses; `unit` is what scores are paired over."""
    count = len(comparison.difference)
    method, baseline = comparison.method, comparison.baseline
    if not count:
        return f"{method} and {baseline} have no {unit} in common and cannot be compared."
    difference = float(comparison.difference.mean())
    wins, losses = int((comparison.difference > 0).sum()), int((comparison.difference < 0).sum())
    size = f"{abs(difference):.3f}"
    opening = f"{method} {with_spread(comparison.method_scores)} against {baseline} "
    opening += f"{with_spread(comparison.baseline_scores)} {score}"
    if count == 1:
        verdict = "no difference" if size == "0.000" else f"{'better' if difference > 0 else 'worse'} by {size}"
        return f"{opening} in a single {unit}: {verdict}."
    if size == "0.000":
        verdict = f"better in {wins} of {count}, no difference on average"
    elif difference > 0:
        verdict = f"better in {wins} of {count}, " + (f"by {size}" if wins > losses else f"yet {size} higher")
        verdict += " on average"
    elif losses > wins:
        verdict = f"worse in {losses} of {count}, by {size} on average"
    else:
        verdict = f"better in {wins} of {count}, yet {size} lower on average"
    return f"{opening} over {count} {unit}s; {verdict}."


def format_table(results: pd.DataFrame, score: str = "iou") -> str:
    """Methods x classes as text: mean ± standard deviation over splits, then differences to the baseline."""
    methods = methods_of(results)
    labels = list(dict.fromkeys(results["label"]))
    cells = results.groupby(["method", "label"])[score].apply(with_spread)
    rows = [["", *(label.replace("_", " ") for label in labels)]]
    rows += [[method, *(cells[method, label] for label in labels)] for method in methods]
    for method in methods[1:]:
        differences = [compare(results, method, methods[0], label, score).difference for label in labels]
        rows.append([f"{method} − {methods[0]}", *(with_spread(values, signed=True) for values in differences)])
    name = {"iou": "IoU", "dice": "Dice"}.get(score, score)
    splits = results["split"].nunique()
    over = f"mean ± standard deviation over {splits} splits" if splits > 1 else "one split"
    return "\n".join([f"{name}, {over}", *text_table(rows, len(methods))])


def text_table(rows: list[list[str]], methods: int) -> list[str]:
    """Lines of a table in columns: the head is ruled off, differences stand apart from the `methods` first rows."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    lines.insert(1, "-" * (sum(widths) + 2 * len(widths) - 2))
    if len(rows) > 1 + methods:
        lines.insert(2 + methods, "")
    return lines
