"""Two methods on the same test cases: the mean difference, its bootstrap interval and the Wilcoxon test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import wilcoxon

RESAMPLES = 5000
LEVEL = 0.95


DRAW, CASE = ("split", "seed"), "case"


@dataclass(frozen=True)
class Difference:
    """A method minus a baseline on test cases that both have; NaN where there is nothing to say.

    Attributes:
        mean: mean over draws and cases.
        low, high: 95 % bootstrap interval of the mean, where draws and cases are drawn anew.
        p: of the two-sided Wilcoxon signed-rank test over the cases, each the mean over its draws.
        cases: number of cases.
        draws: number of draws of the training that both have: splits, or seeds of a single split.
        better: number of draws in which the method is better.
        draws_p: p of the same test over the draws, each the mean over its cases; with n draws at least 2 / 2^n.
    """

    mean: float
    low: float
    high: float
    p: float
    cases: int
    draws: int
    better: int
    draws_p: float


def difference(method: pd.Series, baseline: pd.Series) -> Difference:
    """Pairs two series of scores, and tests them.

    Cases are what a test is of: two trainings scored on one patient are not two patients. But how much depends on which
    images were labelled is in the draws, so that the interval draws both anew, independently of each other: it is wide
    where the draws disagree. With a single draw it is over cases alone. Seeds of one split share its labelled images:
    their mean is the split's, and only with a single split are they draws of their own.

    Args:
        method: scores; NaN where undefined, which is left out, as is what only one of the two has. Levels of the index
            are split, seed and case, and whatever else is paired one by one (class, column of a table), over which the
            differences of a case are averaged.
        baseline: scores with the same levels.
    """
    paired = pd.concat([method, baseline], axis=1, keys=["method", "baseline"], join="inner").dropna()
    if paired.empty:
        nan = float("nan")
        return Difference(nan, nan, nan, nan, 0, 0, 0, nan)
    found = (paired["method"] - paired["baseline"]).groupby(level=[*DRAW, CASE]).mean()
    draw = "split" if found.index.get_level_values("split").nunique() > 1 else "seed"
    table = found.groupby(level=[draw, CASE]).mean().unstack(CASE)
    of_cases, of_draws = table.mean(axis=0).to_numpy(), table.mean(axis=1).to_numpy()
    values = table.to_numpy()
    low, high = interval(values)
    better, p = int((of_draws > 0).sum()), signed_rank_p(of_cases)
    mean, draws_p = float(np.nanmean(values)), signed_rank_p(of_draws)
    return Difference(mean, low, high, p, len(of_cases), len(of_draws), better, draws_p)


def interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Percentile interval of the mean of ``values`` (draws, cases), NaN where a draw lacks a case.

    Rows and columns are drawn with replacement, `RESAMPLES` times. NaN for fewer than two cases.
    """
    draws, cases = values.shape
    if cases < 2:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    of_draws = rng.multinomial(draws, np.full(draws, 1 / draws), RESAMPLES).astype(float)
    of_cases = rng.multinomial(cases, np.full(cases, 1 / cases), RESAMPLES).astype(float)
    known = np.isfinite(values)
    total = ((of_draws @ np.where(known, values, 0)) * of_cases).sum(1)
    number = ((of_draws @ known) * of_cases).sum(1)
    means = total[number > 0] / number[number > 0]
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def signed_rank_p(differences: np.ndarray) -> float:
    """p of the two-sided Wilcoxon signed-rank test (POPCORN sec. 3.4), exact for up to 50 differences without ties.

    Differences of 0 are left out, as Wilcoxon did. NaN for fewer than two differences, 1 where all are 0.
    """
    # a mean over draws may differ from another in the last bit alone, which is no difference
    differences = np.round(np.asarray(differences, dtype=float), 12)
    if len(differences) < 2:
        return float("nan")
    unequal = differences[differences != 0]
    return float(wilcoxon(unequal).pvalue) if len(unequal) else 1.0
