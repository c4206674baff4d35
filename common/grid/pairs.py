"""Two methods on the same splits: their differences, and the Wilcoxon signed-rank test."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import wilcoxon


@dataclass(frozen=True)
class Pairs:
    """A row against the baseline: number of pairs, mean difference (row minus baseline) and p; NaN where unknown."""

    count: int
    difference: float
    p: float


def pair(values: Mapping[Hashable, float], baseline: Mapping[Hashable, float]) -> Pairs:
    """Pairs the values that both have under the same key (number of labelled images and split), and tests them.

    The test is the two-sided exact Wilcoxon signed-rank test. Pairs without a difference are left out of it, as
    Wilcoxon did. With n pairs it cannot give less than 2 / 2^n: 0.25 for 3, 0.0625 for 5, 0.031 for 6.
    """
    keys = [key for key in values if key in baseline and np.isfinite(values[key]) and np.isfinite(baseline[key])]
    differences = np.array([values[key] - baseline[key] for key in keys], dtype=float)
    if not len(differences):
        return Pairs(0, float("nan"), float("nan"))
    return Pairs(len(differences), float(differences.mean()), signed_rank_p(differences))


def signed_rank_p(differences: np.ndarray) -> float:
    """p of the two-sided exact signed-rank test; NaN for fewer than two differences, 1 where all are zero."""
    if len(differences) < 2:
        return float("nan")
    unequal = differences[differences != 0]
    if not len(unequal):
        return 1.0
    return float(wilcoxon(unequal, alternative="two-sided", method="exact").pvalue)
