"""The difference of two methods against numbers worked out by hand, plain loops and scipy on raw values."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wilcoxon

from common.report.statistics import Difference, difference, interval, signed_rank_p


def scores(table: list[list[float]]) -> pd.Series:
    """Splits x cases as the series that `difference` takes."""
    index = [(split, 0, f"case{case:03d}") for split, row in enumerate(table) for case in range(len(row))]
    return pd.Series(np.concatenate(table), pd.MultiIndex.from_tuples(index, names=["split", "seed", "case"]))


def plain_interval(table: np.ndarray, resamples: int = 3000) -> tuple[float, float]:
    """Draws and cases drawn anew, one after the other, without any vector arithmetic."""
    rng, means = np.random.default_rng(7), []
    for _ in range(resamples):
        rows = [rng.integers(table.shape[0]) for _ in range(table.shape[0])]
        columns = [rng.integers(table.shape[1]) for _ in range(table.shape[1])]
        values = [table[row, column] for row in rows for column in columns if table[row, column] == table[row, column]]
        if values:
            means.append(sum(values) / len(values))
    return tuple(np.percentile(means, [2.5, 97.5]))


def test_hand_computed_numbers() -> None:
    found = difference(scores([[0.5, 0.7, 0.9], [0.4, 0.8, 0.6]]), scores([[0.4, 0.5, 0.6], [0.5, 0.8, 0.6]]))
    # Differences: 0.1, 0.2, 0.3 in the first draw, -0.1, 0, 0 in the second; by case 0, 0.1, 0.15.
    assert found.mean == pytest.approx(0.5 / 6)
    assert (found.cases, found.draws, found.better) == (3, 2, 1)
    assert found.p == pytest.approx(0.5)  # two differences that are not 0, both above it: 2 / 2^2
    assert found.low < found.mean < found.high
    assert found.draws_p == pytest.approx(1)  # +0.2 and -0.03: one of each sign
    six = difference(scores([[0.5, 0.6]] * 6), scores([[0.4, 0.7 - 0.11 * (draw % 2)] for draw in range(6)]))
    # of the mean over both cases 0, 0.055, 0, 0.055, 0, 0.055; three are not 0: 2 / 2^3
    assert (six.better, six.draws_p) == (3, pytest.approx(0.25))


@pytest.mark.parametrize("draws", [1, 2, 4])
def test_the_interval_is_that_of_a_plain_bootstrap(draws: int) -> None:
    rng = np.random.default_rng(draws)
    table = 0.02 + 0.05 * rng.normal(size=(draws, 12)) + 0.03 * rng.normal(size=(draws, 1))
    table[1:2, 3] = np.nan
    low, high = plain_interval(table)
    assert interval(table) == pytest.approx((low, high), abs=0.1 * (high - low))
    found = difference(scores(table.tolist()), scores((0 * np.nan_to_num(table)).tolist()))
    assert (found.low, found.high) == interval(table)


def test_draws_that_disagree_make_the_interval_wide() -> None:
    cases = np.linspace(-0.01, 0.01, 20)
    agree, disagree = np.stack([cases + 0.05] * 4), np.stack([cases + shift for shift in (-0.1, 0.0, 0.1, 0.2)])
    assert agree.mean() == pytest.approx(disagree.mean())
    narrow, wide = interval(agree), interval(disagree)
    assert narrow[1] - narrow[0] < 0.02
    assert wide[1] - wide[0] > 0.15


@pytest.mark.parametrize("cases", [5, 20, 70])
def test_wilcoxon_is_of_the_means_over_draws(cases: int) -> None:
    rng = np.random.default_rng(cases)
    method, baseline = rng.uniform(size=(2, 3, cases))
    expected = wilcoxon(method.mean(0), baseline.mean(0)).pvalue
    assert difference(scores(method.tolist()), scores(baseline.tolist())).p == pytest.approx(expected)


def test_a_difference_in_the_last_bit_is_none() -> None:
    assert signed_rank_p(np.array([0.1 + 0.2 - 0.3, 0.0])) == 1
    assert signed_rank_p(np.array([0.1, 0.2, 0.3, 0.1 + 0.2 - 0.3])) == pytest.approx(0.25)
    assert np.isnan(signed_rank_p(np.array([0.1])))


def test_what_only_one_has_is_left_out() -> None:
    method, baseline = scores([[0.5, np.nan, 0.9, 0.7], [0.6, 0.2, 0.8, 0.9]]), scores([[0.4, 0.5, np.nan, 0.6]])
    found = difference(method, baseline)
    assert found.mean == pytest.approx(0.1)
    assert (found.cases, found.draws, found.better) == (2, 1, 1)


def test_one_case_has_neither_interval_nor_p() -> None:
    found = difference(scores([[0.5], [0.7]]), scores([[0.4], [0.5]]))
    assert found.mean == pytest.approx(0.15)
    assert (found.cases, found.draws, found.better) == (1, 2, 2)
    assert np.isnan([found.low, found.high, found.p]).all()


def test_no_common_case() -> None:
    found = difference(scores([[0.5, np.nan]]), scores([[np.nan, 0.6]]))
    assert isinstance(found, Difference)
    assert (found.cases, found.draws, found.better) == (0, 0, 0)
    assert np.isnan([found.mean, found.low, found.high, found.p]).all()


def nested(values: np.ndarray) -> pd.Series:
    """Splits x seeds x cases."""
    index = pd.MultiIndex.from_product([range(size) for size in values.shape], names=["split", "seed", "case"])
    return pd.Series(values.ravel(), index)


def test_seeds_of_a_split_are_no_draws_of_their_own() -> None:
    """They share its labelled images: as many seeds as one likes do not narrow what three splits leave open."""
    rng = np.random.default_rng(0)
    of_splits = np.array([-0.1, 0.0, 0.2])[:, None, None] + 0.01 * rng.normal(size=(3, 1, 20))
    values = of_splits + 0.01 * rng.normal(size=(3, 5, 20))
    found = difference(nested(values), nested(np.zeros_like(values)))
    assert (found.draws, found.cases, found.better) == (3, 20, 2)
    assert (found.low, found.high) == interval(values.mean(axis=1))
    single = difference(nested(values[:1]), nested(np.zeros_like(values[:1])))
    assert single.draws == 5 and (single.low, single.high) == interval(values[0])


def test_what_is_paired_beside_cases_is_averaged() -> None:
    """A class that one of the two lacks in a case does not count there."""
    index = pd.MultiIndex.from_tuples(
        [(0, 0, "x", "a"), (0, 0, "x", "b"), (0, 0, "y", "a"), (0, 0, "y", "b")],
        names=["split", "seed", "case", "class"],
    )
    found = difference(pd.Series([0.9, np.nan, 0.7, 0.8], index), pd.Series([0.8, 0.1, 0.4, 0.3], index))
    assert found.mean == pytest.approx((0.1 + (0.3 + 0.5) / 2) / 2) and found.cases == 2
