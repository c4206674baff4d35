"""Pixels for which the nearest labelled pixel says the same, against loops, and as a part of methods."""

from __future__ import annotations

import pytest
import torch
from methods.plain_terms import Pixels, losses, nearest_labels, picture_batch, random_batch

from common.label_space import LabelSpace
from common.methods import FixMatch, ReferenceMatch, Step, UniMatch
from common.pseudo_label import Grid, PseudoLabel
from common.settings import described, differences
from common.sources import Prediction
from common.weights import ReferenceAgreement


@pytest.fixture
def network(labels):
    return Pixels(3, labels.num_outputs, 6.0)


def test_it_is_whether_the_nearest_reference_says_the_same(labels, network):
    batch = random_batch(labels, 6)
    step = Step(labels, network, batch)
    pseudo = Prediction()(step)
    weight = ReferenceAgreement(6)(step, pseudo)
    expected = (torch.from_numpy(nearest_labels(batch)) == labels.hard(pseudo.label)).float()
    assert weight.shape == expected.shape and 0 < weight.mean() < 1
    torch.testing.assert_close(weight, expected)
    grid = Grid.of_cells((6, 6), 3)
    some = ReferenceAgreement(6)(step, PseudoLabel(grid.of(pseudo.label), grid, {}))
    torch.testing.assert_close(some, grid.of(expected))


def test_fixmatch_with_it_is_reference_match(labels, network):
    batch = picture_batch(labels)
    own = ReferenceMatch(labels, 0.7, reference_size=12, query_size=None)
    view = own.terms["unsupervised"].view
    expected, _ = losses(own, network, batch)
    found, _ = losses(FixMatch(labels, 0.7, view, added_weight=ReferenceAgreement(12)), network, batch)
    torch.testing.assert_close(found, expected)


def test_unimatch_asks_once_for_both_of_its_terms(labels, network, monkeypatch):
    added = ReferenceAgreement(8)
    calls = []
    monkeypatch.setattr(added.references, "forward", lambda step: calls.append(1) or Prediction()(step))
    losses(UniMatch(labels, 0.7, added_weight=added), network, random_batch(labels, 16))
    assert len(calls) == 1


def test_a_run_goes_on_with_as_many_references(labels):
    small, large = (described(FixMatch(labels, added_weight=ReferenceAgreement(size))) for size in (8, 64))
    assert len(differences(small, large)) == 1


def test_what_it_cannot_work_with(multilabel):
    assert UniMatch(multilabel, added_weight=ReferenceAgreement()).needs.class_cover
    with pytest.raises(ValueError, match="reference_size must be at least 1, got 0"):
        ReferenceAgreement(0)
    one = LabelSpace(["lesion"], "multilabel")
    FixMatch(one, added_weight=ReferenceAgreement())  # lesion and background
    step = Step(multilabel, Pixels(3, 2), {"unlabeled": random_batch(multilabel)["unlabeled"]})
    assert ReferenceAgreement()(step, Prediction()(step)).all()
