"""Paired differences and the signed-rank test against values computed by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from common.grid.pairs import pair, signed_rank_p


def by_hand(differences):
    """p of the two-sided signed-rank test, by going through all 2^n signs."""
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1
    middle = ranks.sum() / 2
    found = abs(ranks[np.asarray(differences) > 0].sum() - middle)
    signs = itertools.product([0, 1], repeat=len(ranks))
    return np.mean([abs(np.dot(sign, ranks) - middle) >= found for sign in signs])


@pytest.mark.parametrize("differences", [(0.1, 0.2, 0.3), (0.1, -0.2, 0.3), (-1, 2, 3, 4, -5.5), (1, 2)])
def test_p_by_all_signs(differences):
    assert signed_rank_p(np.array(differences)) == pytest.approx(by_hand(differences))


def test_smallest_p_of_n_pairs():
    for count in (2, 3, 5, 6, 9):
        assert signed_rank_p(np.arange(1, count + 1) / 10) == pytest.approx(2 / 2**count)


def test_too_few_pairs_and_pairs_without_a_difference():
    assert math.isnan(signed_rank_p(np.array([0.3])))
    assert signed_rank_p(np.zeros(3)) == 1.0
    assert signed_rank_p(np.array([0.0, 0.1, 0.2, 0.3])) == pytest.approx(0.25)


def test_pairs_are_of_the_same_key():
    pairs = pair({(3, 0): 0.7, (3, 1): 0.8, (6, 0): 0.9, (6, 1): float("nan")}, {(3, 1): 0.5, (3, 0): 0.6, (6, 1): 1})
    assert pairs.count == 2
    assert pairs.difference == pytest.approx((0.1 + 0.3) / 2)
    assert pairs.p == pytest.approx(0.5)
    assert pair({}, {0: 1.0}).count == 0
