"""Scores over volumes, the paired comparison with the baseline and its Wilcoxon test, as tables and as text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import wilcoxon

from common.files import replacing

from .lesion_runs import LesionRun, find_lesion_runs
from .results import Comparison, describe, methods_of, text_table, with_spread
from .runs import BASELINE
from .text import count

SCORES = ("dice", "precision", "sensitivity", "lesion_f1")
TITLES = {
    "dice": "Dice",
    "precision": "precision",
    "sensitivity": "sensitivity",
    "lesion_f1": "lesion F1",
    "load_error": "|load error| (ml)",
}
COLUMNS = ["method", "seed", "volume", *SCORES]
SIGNIFICANT = 0.05


def lesion_results(folder: Path | str) -> pd.DataFrame:
    """Test scores of every run in `folder`: one row per run and volume; undefined scores are NaN.

    Returns:
        A table with the columns method, seed, volume, dice, precision, sensitivity and lesion_f1. Runs without
        volumes.csv are left out.

    Raises:
        FileNotFoundError: if the folder holds no run, or none was evaluated.
        ValueError: if a file of a run is malformed, or the runs cannot be compared.
    """
    runs, _ = find_lesion_runs(folder)
    if all(run.volumes is None for run in runs):
        raise FileNotFoundError(f"{folder} must hold a run with volumes.csv, got none: evaluate the runs first")
    return collect_volumes(runs)[COLUMNS]


def write_lesion_results(folder: Path | str) -> Path:
    """Write `lesion_results` as results.csv in `folder`."""
    results = lesion_results(folder)
    path = Path(folder) / "results.csv"
    with replacing(path) as temporary:
        results.to_csv(temporary, index=False)
    return path


def collect_volumes(runs: list[LesionRun]) -> pd.DataFrame:
    """The table of `lesion_results` from loaded runs, and load_error: the lesion load's absolute error in ml."""
    tables = [
        run.volumes[["case", *SCORES]]
        .rename(columns={"case": "volume"})
        .assign(method=run.method, seed=run.seed, load_error=run.volumes["load_error_ml"].abs())
        for run in runs
        if run.volumes is not None
    ]
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=[*COLUMNS, "load_error"])
    return table[[*COLUMNS, "load_error"]]


def volume_means(results: pd.DataFrame, score: str) -> pd.DataFrame:
    """A score by volume (rows) and method (columns), each the mean over the seeds in which it is defined.

    Volumes are the units of all statistics: two seeds on one patient are not two independent observations.
    """
    table = results.groupby(["volume", "method"])[score].mean().unstack("method")
    return table.reindex(columns=methods_of(results))


def compare_volumes(results: pd.DataFrame, method: str, baseline: str = BASELINE, score: str = "dice") -> Comparison:
    """Pair a method with the baseline volume by volume; volumes without a score of both are left out."""
    pairs = volume_means(results, score)[[baseline, method]].dropna()
    return Comparison(method, baseline, pairs[method].to_numpy(), pairs[baseline].to_numpy(), pairs.index.tolist())


def wilcoxon_p(difference: np.ndarray) -> float:
    """Two-sided p of the Wilcoxon signed-rank test of paired differences (POPCORN sec. 3.4); NaN if all are 0."""
    # A mean over seeds may differ from another in the last bit alone, which is no difference.
    difference = np.round(difference, 12)
    if not difference.any():
        return float("nan")
    return float(wilcoxon(difference).pvalue)


def p_text(p: float) -> str:
    """A p-value as it is printed: "p = 0.021", "p < 0.001", nothing where there is none."""
    if np.isnan(p):
        return ""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def outcome(results: pd.DataFrame, method: str) -> str:
    """The comparison of mean Dice with the baseline in one sentence, with what the test can say and what not."""
    comparison = compare_volumes(results, method)
    sentence = describe(comparison, "mean Dice", "volume")
    volumes, p = len(comparison.difference), wilcoxon_p(comparison.difference)
    if volumes < 2 or np.isnan(p):
        return sentence
    sentence = f"{sentence.removesuffix('.')} (Wilcoxon {p_text(p)}"
    if p < SIGNIFICANT:
        return f"{sentence})."
    # n differences of one sign give the smallest p there is, 2 / 2^n.
    if 2 ** (1 - volumes) >= SIGNIFICANT:
        return f"{sentence}; {volumes} volumes are too few for p < {SIGNIFICANT} whatever the scores)."
    return f"{sentence}, not significant)."


def format_lesion_table(results: pd.DataFrame) -> str:
    """Methods x scores as text: mean ± standard deviation over volumes, then differences to Supervised with p."""
    methods = methods_of(results)
    means = {score: volume_means(results, score) for score in SCORES}
    rows = [["", *(TITLES[score] for score in SCORES)]]
    rows += [[method, *(with_spread(means[score][method]) for score in SCORES)] for method in methods]
    if methods[0] == BASELINE:
        for method in methods[1:]:
            pairs = [compare_volumes(results, method, score=score).difference for score in SCORES]
            cells = [", ".join(filter(None, (with_spread(d, signed=True), p_text(wilcoxon_p(d))))) for d in pairs]
            rows.append([f"{method} − {BASELINE}", *cells])
    volumes, seeds = results["volume"].nunique(), results["seed"].nunique()
    over = f"mean ± standard deviation over {count(volumes, 'volume')}" if volumes > 1 else "one volume"
    over += f", each the mean over {seeds} seeds" if seeds > 1 else ""
    over += "; p of the paired Wilcoxon test" if len(rows) > 1 + len(methods) else ""
    return "\n".join([over, *text_table(rows, len(methods))])
