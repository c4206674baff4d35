"""Ranks within each class against loops over pixels, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from given import GivenWeight
from methods.plain_terms import Pixels, losses, picture_batch

from common.label_space import LabelSpace
from common.methods import RPG, BalancedRPG, Method, NearestNeighbor, RPGPlus, Step
from common.pseudo_label import PseudoLabel
from common.sources import Prediction
from common.terms import Match
from common.weights import ClassEntropy, Confidence, DetectorAgreement, PredictionAgreement, WithinClass
from common.weights.within_class import mid_ranks

ROW = LabelSpace(["a", "b"], "multiclass")


def ranked(labels, weight, label):
    return WithinClass(GivenWeight(weight))(Step(labels, None, {}), PseudoLabel(label))


def plain(weight, label):
    """Each pixel of each channel against all others with the same label, ``B C ...`` each."""
    found = np.zeros(label.shape)
    for c in range(label.shape[1]):
        own, said = weight[:, c if weight.shape[1] > 1 else 0], label[:, c]
        for place in np.ndindex(own.shape):
            others = own[said == said[place]]
            ranks = [rank for rank, value in enumerate(sorted(others), 1) if value == own[place]]
            mine = sum(ranks) / len(ranks)  # the mean of equals
            found[(place[0], c, *place[1:])] = (mine - 0.5) / len(others)
    return found


def test_by_hand():
    """Four pixels of class 0, two of class 1, one of class 2."""
    label = torch.tensor([0.0, 1, 0, 2, 0, 1, 0]).view(1, 1, 1, 7)
    weight = torch.tensor([0.2, 0.9, 0.0, 0.5, 0.2, 0.8, 0.7]).view(1, 1, 1, 7)
    expected = [2 / 4, 1.5 / 2, 0.5 / 4, 0.5, 2 / 4, 0.5 / 2, 3.5 / 4]  # of class 0 two are equal, second and third
    assert ranked(ROW, weight, label).flatten().tolist() == pytest.approx(expected)


def test_classes_that_overlap_by_hand():
    """A weight of the pixel is ranked among those of each class, and among those that are not of it."""
    label = torch.tensor([[[[1.0, 1, 0, 0]], [[0, 1, 0, 0]]]])
    weight = torch.tensor([0.4, 0.1, 0.3, 0.2]).view(1, 1, 1, 4)
    found = ranked(LabelSpace(["a", "b"]), weight, label)
    assert found[0, 0, 0].tolist() == pytest.approx([3 / 4, 1 / 4, 3 / 4, 1 / 4])
    assert found[0, 1, 0].tolist() == pytest.approx([5 / 6, 1 / 2, 3 / 6, 1 / 6])


@pytest.mark.parametrize("of_classes", [False, True])
@pytest.mark.parametrize("size", [(5, 4), (3, 4, 2)])
def test_equals_loops(labels, size, of_classes):
    rng = np.random.default_rng(0)
    channels = labels.num_classes if labels.multilabel else 1
    weight = rng.integers(0, 9, (2, channels if of_classes else 1, *size)) / 8  # many are equal
    label = rng.integers(0, 2 if labels.multilabel else 3, (2, channels, *size))
    label[:, :, 0] = 0  # classes differ in size
    found = ranked(labels, torch.from_numpy(weight).float(), torch.from_numpy(label).float())
    np.testing.assert_allclose(found.numpy(), plain(weight, label), atol=1e-6)
    assert found.shape == label.shape and found.dtype == torch.float32 and found.min() > 0 and found.max() < 1
    for c in range(channels):
        for value in np.unique(label[:, c]):
            assert found[:, c][torch.from_numpy(label[:, c] == value)].mean().item() == pytest.approx(0.5)


def test_soft_labels_are_what_they_say(labels):
    outputs = torch.randn(2, labels.num_outputs, 4, 4, generator=torch.Generator().manual_seed(0))
    weight = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    found = [ranked(labels, weight, label) for label in (labels.probabilities(outputs), labels.predict(outputs))]
    assert torch.equal(*found)


def test_of_one_class_or_one_value_and_what_is_not_finite():
    assert (ranked(ROW, torch.full((2, 1, 3, 3), 0.3), torch.ones(2, 1, 3, 3)) == 0.5).all()
    found = mid_ranks(torch.tensor([0.1, math.nan, 0.3, math.inf, -1.0]), torch.tensor([0, 1, 1, 1, -1]))
    assert found.isnan().tolist() == [False, True, False, False, False]
    assert found[[0, 4]].tolist() == [0.5, 0.5] and found[2] < found[3]


def test_many_values_keep_their_order():
    """As many as three images at full resolution have: float32 has digits enough."""
    generator = torch.Generator().manual_seed(0)
    values, groups = torch.rand(200_000, generator=generator), torch.randint(0, 3, (200_000,), generator=generator)
    found = mid_ranks(values, groups)
    for group in range(3):
        mine = found[groups == group][values[groups == group].argsort()]
        assert mine.diff().min() >= 0
        expected = (torch.arange(len(mine)) + 0.5) / len(mine)
        torch.testing.assert_close(mine, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", [NearestNeighbor, RPG, RPGPlus, BalancedRPG])
def test_it_takes_the_size_of_a_class_out_of_the_weight(labels, kind):
    """RPG's weight by k nearest of all references favours the largest class; its ranks are the same in each."""
    batch, network = picture_batch(labels), Pixels(3, labels.num_outputs, 4.0)
    options = {"neighbors": 0.3, "query_size": None}
    terms, step = losses(kind(labels, weight=WithinClass(ClassEntropy()), **options), network, batch)
    noted = step.notes["unsupervised"]
    plain_weight = ClassEntropy()(step, noted.pseudo)
    np.testing.assert_allclose(noted.weight, plain(plain_weight.numpy(), noted.pseudo.label.numpy()), atol=1e-6)
    assert noted.weight.mean().item() == pytest.approx(0.5) and torch.isfinite(terms["unsupervised"])
    added = kind(labels, weight=WithinClass(ClassEntropy()), added_weight=PredictionAgreement(), **options)
    _, step = losses(added, network, batch)
    assert (step.notes["unsupervised"].weight == 0).any()


def test_parts_within_are_asked_as_they_are(multilabel):
    assert Method(multilabel, {"match": Match(Prediction(), WithinClass(DetectorAgreement(0.9)))}).needs.boxes
    with pytest.raises(ValueError, match="threshold must be in"):
        Method(multilabel, {"match": Match(Prediction(), WithinClass(Confidence(0.4)))})
    with pytest.raises(ValueError, match=r"ClassEntropy asks for the distances .* got Prediction"):
        Match(Prediction(), WithinClass(ClassEntropy()))
    with pytest.raises(ValueError, match=r"WithinClass ranks one of common\.weights, ClassEntropy say, got 'ClassEn"):
        WithinClass("ClassEntropy")
