"""Presence of classes against values worked out by hand and a plain loop over pairs of cases."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from common.metrics import presence_scores

COLUMNS = [
    "cases_with", "cases_without", "sensitivity", "specificity", "auc", "absolute_size_error", "size_error",
]  # fmt: skip


def rows(name, truth, predicted):
    return pd.DataFrame({"class": name, "truth_size": truth, "predicted_size": predicted})


def looped_auc(truth, predicted):
    """The share of pairs of a case with the class and one without that are in the right order."""
    right = pairs = 0.0
    for true, with_it in zip(truth, predicted, strict=True):
        for other, without in zip(truth, predicted, strict=True):
            if true > 0 and other == 0:
                pairs += 1
                right += 1.0 if with_it > without else 0.5 if with_it == without else 0.0
    return right / pairs


def test_counted_by_hand():
    table = pd.concat([rows("srf", [2, 0, 3, 0], [1, 0.5, 0, 0]), rows("irf", [0.5, 0.5, 0, 4], [1, 0.25, 0, 4])])
    table = table.sort_index()  # case after case, as test.csv has them
    found = presence_scores(table)
    assert found.index.tolist() == ["srf", "irf"] and found.columns.tolist() == COLUMNS
    # srf: 1 beats 0.5 and 0; 0 loses to 0.5 and ties with 0
    assert found.loc["srf"].tolist() == [2, 2, 0.5, 0.5, 2.5 / 4, (1 + 0.5 + 3 + 0) / 4, (-1 + 0.5 - 3 + 0) / 4]
    assert found.loc["irf"].tolist() == [3, 1, 1, 1, 1, (0.5 + 0.25) / 4, (0.5 - 0.25) / 4]


@pytest.mark.parametrize("levels", [2, 4, 1000])  # the fewer, the more ties
def test_auc_as_by_pairs(levels):
    for seed in range(10):
        random = np.random.default_rng([seed, levels])
        truth = random.integers(0, 3, 25) * 1e-9  # in ml, a few voxels of retinal OCT
        predicted = random.integers(0, levels, 25) * 1e-9
        found = presence_scores(rows("fluid", truth, predicted)).loc["fluid"]
        assert found["auc"] == pytest.approx(looped_auc(truth, predicted), abs=1e-12)
        assert found["sensitivity"] == np.mean([p > 0 for t, p in zip(truth, predicted, strict=True) if t > 0])
        assert found["specificity"] == np.mean([p == 0 for t, p in zip(truth, predicted, strict=True) if t == 0])
        assert found["cases_with"] == sum(t > 0 for t in truth)


@pytest.mark.parametrize(("predicted", "auc"), [([2, 3, 0, 1], 1), ([0, 0, 1, 2], 0), ([0, 0, 0, 0], 0.5)])
def test_perfect_reversed_and_blind(predicted, auc):
    assert presence_scores(rows("a", [5, 5, 0, 0], predicted)).loc["a", "auc"] == auc


def test_what_is_undefined():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = presence_scores(pd.concat([rows("always", [1, 2], [0, 2]), rows("never", [0, 0], [0, 2])]))
    np.testing.assert_equal(found.loc["always"].tolist(), [2, 0, 0.5, np.nan, np.nan, 0.5, -0.5])
    np.testing.assert_equal(found.loc["never"].tolist(), [0, 2, np.nan, 0.5, np.nan, 1, 1])


def test_rows_without_a_size_are_left_out():
    table = pd.concat([rows("a", [1, np.nan, 0], [1, 1, np.nan]), rows("b", [np.nan], [1])])
    found = presence_scores(table)
    assert found.index.tolist() == ["a"] and found.loc["a", ["cases_with", "cases_without"]].tolist() == [1, 0]
    assert presence_scores(table.iloc[:0]).empty


def test_bad_tables():
    with pytest.raises(ValueError, match=r"columns class, truth_size, .* got none called truth_size: evaluate again"):
        presence_scores(pd.DataFrame({"class": ["a"], "predicted_size": [1]}))
    table = rows("a", [1, 2, 3], [1, 2, 3]).assign(unit=["ml", "", "mm3"])
    with pytest.raises(ValueError, match=r"sizes in one unit, got ml, mm3"):
        presence_scores(table)
