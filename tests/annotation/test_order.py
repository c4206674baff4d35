"""Which images are to be annotated next: by hand-made networks and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from common.annotation import STRATEGIES, AnnotationOrder
from common.annotation.order import dice_parts, farthest_first
from common.batches import Batches
from common.methods import FixMatch, SegMatch, Supervised


class Bright(nn.Module):
    """Says that the last class is where the image is brighter than 0.5; its bottleneck is the image."""

    def __init__(self, labels) -> None:
        super().__init__()
        self.slopes = 10.0 * torch.arange(int(labels.multilabel), labels.num_classes + 1).view(1, -1, 1, 1)

    def forward(self, image, bottleneck_only=False):
        return image if bottleneck_only else self.slopes * (image - 0.5)


def order_of(store, labels, values, method=None, patients=None, size=(16, 16), **options) -> AnnotationOrder:
    """Of images of one value each, called a, b and so on; labelled ones are of value 0.25 and 1."""
    label = np.ones((labels.num_classes if labels.multilabel else 1, *size), np.uint8)
    known = {
        f"known {value}": {"image": np.full((1, *size), value, np.float32), "label": label * number}
        for value, number in ((0.25, 1), (1, 1 if labels.multilabel else 2))
    }
    images = {chr(97 + i): {"image": np.full((1, *size), value, np.float32)} for i, value in enumerate(values)}
    unlabeled = store(images)
    for item, patient in zip(unlabeled.data, patients or range(len(values)), strict=True):
        item["patient"] = patient
    method = method or Supervised(labels)
    batches = Batches(store(known), unlabeled, labels, method, labeled_batch=2, **options)
    return AnnotationOrder(method, Bright(labels), batches)


def test_the_parts_of_dice_are_those_of_probabilities():
    one, other = torch.rand(2, 3, 4, 5) ** 3, torch.rand(2, 3, 4, 5) ** 3
    found = dice_parts(one, other)
    for image, label in np.ndindex(2, 3):
        p, q = (np.where(part > 0.05, part, 0) for part in (one[image, label].numpy(), other[image, label].numpy()))
        assert found[image, 0, label].item() == pytest.approx(2 * (p * q).sum() + 1, rel=1e-5)
        assert found[image, 1, label].item() == pytest.approx((p**2).sum() + (q**2).sum() + 1, rel=1e-5)
    nothing = dice_parts(torch.full((1, 1, 8, 8), 0.001), torch.full((1, 1, 8, 8), 0.04))
    assert nothing.tolist() == [[[1.0], [1.0]]]


def test_farthest_first_against_loops():
    rng = np.random.default_rng(0)
    labeled, unlabeled = rng.normal(size=(3, 5)), rng.normal(size=(9, 5))
    groups = [[0, 4], [1], [2, 3, 8], [5], [6, 7]]
    order, scores = farthest_first(torch.from_numpy(labeled), torch.from_numpy(unlabeled), groups)
    known, left = [*labeled], list(range(5))
    for place, score in zip(order, scores, strict=True):
        each = [min(np.linalg.norm(row - k) for k in known) for row in unlabeled]
        means = {number: np.mean([each[row] for row in groups[number]]) for number in left}
        assert place == max(means, key=means.get)
        assert score == pytest.approx(means[place])
        known += [unlabeled[row] for row in groups[place]]
        left.remove(place)
    assert not left


def test_copies_of_what_is_labelled_are_worth_nothing(store, multilabel):
    """However far their mean is from each of them."""
    order = order_of(store, multilabel, [0.25, 1.0, 0.5], patients=["copies", "copies", "new"])
    assert [place.name for place in order.places("distance", by="patient")] == ["new", "copies"]


def test_equal_images_are_worth_the_same(store, multilabel):
    """Whatever batch they are in, and however the list is ordered."""
    values = [0.6] * 9 + [0.5, 0.3] + [0.6] * 9
    order = order_of(store, multilabel, values)
    scores = order.scores("disagreement")
    same = scores[[row for row, value in enumerate(values) if value == 0.6]]
    np.testing.assert_allclose(same, same[0], rtol=1e-6)
    again = order_of(store, multilabel, values[::-1]).scores("disagreement")
    np.testing.assert_allclose(again[::-1], scores, rtol=1e-6)


def test_random_gives_patients_of_few_images_no_better_chance(store, multilabel):
    values, patients = np.linspace(0.1, 0.9, 10), ["one"] + ["many"] * 9
    order, first = order_of(store, multilabel, values, patients=patients), 0
    for order.seed in range(200):
        first += order.places("random", by="patient")[0].name == "one"
    assert 75 < first < 125


def test_equal_scores_are_told_and_in_a_random_order(store, multilabel, caplog):
    gate = SegMatch(multilabel, gate="identity")
    order = order_of(store, multilabel, np.linspace(0.1, 0.9, 9), gate, unlabeled_batch=1)
    names = [place.name for place in order.places("weight")]
    assert names != sorted(names)
    assert "weight is 0 of all, which are in a random order" in caplog.text


def test_a_gate_gives_its_score(store, multilabel):
    gate = SegMatch(multilabel, gate="mean_confidence", threshold=0.99)
    places = order_of(store, multilabel, [0.02, 0.5, 0.9], gate, unlabeled_batch=1).places("weight")
    assert [place.name for place in places] == ["b", "c", "a"]
    assert 0 < places[2].score < places[1].score < places[0].score


def test_what_changes_with_its_brightness_comes_first(store, multilabel):
    places = order_of(store, multilabel, [0.99, 0.5, 0.02]).places("disagreement")
    assert places[0].name == "b"
    assert places[0].score > 2 * places[1].score


def test_what_counts_least_comes_first(store, labels):
    order = order_of(store, labels, [1.0, 0.5, 0.02], FixMatch(labels, threshold=0.9), unlabeled_batch=1)
    places = order.places("weight")
    assert places[0].name == "b"
    assert places[0].score == 1
    assert min(place.score for place in places) == 0


def test_what_is_far_from_all_that_is_labelled_comes_first(store, multilabel):
    places = order_of(store, multilabel, [0.875, 0.5, 0.625]).places("distance")
    assert [place.name for place in places] == ["c", "a", "b"]  # b is near c, once that has been taken
    assert [place.score for place in places] == pytest.approx([0.375, 0.125, 0.125])


def test_a_patient_is_the_mean_of_the_images(store, multilabel):
    order = order_of(store, multilabel, [0.99, 0.5, 0.02, 0.6], patients=["p", "q", "p", "q"])
    images = {place.name: place.score for place in order.places("disagreement")}
    places = order.places("disagreement", by="patient")
    assert [(place.name, place.rows) for place in places] == [("q", (1, 3)), ("p", (0, 2))]
    assert places[0].score == pytest.approx((images["b"] + images["d"]) / 2)


def test_windows_cover_an_image(store, multilabel):
    order = order_of(store, multilabel, [0.5], size=(40, 24), patch_size=(16, 16))
    seen = np.zeros((40, 24), int)
    for first in order.firsts(0):
        seen[first[0] : first[0] + 16, first[1] : first[1] + 16] += 1
    assert seen.min() == 1
    assert len(order.firsts(0)) == 6
    assert len(order.places("disagreement")) == 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_order_each_time(store, multilabel, strategy):
    order = order_of(store, multilabel, [0.1, 0.6, 0.3], FixMatch(multilabel), unlabeled_batch=1)
    assert order.places(strategy) == order.places(strategy)
    assert {place.name for place in order.places(strategy)} == {"a", "b", "c"}


def test_the_farthest_comes_first_unless_another_order_is_wanted(store, multilabel):
    order = order_of(store, multilabel, [0.25, 1.0, 0.5])
    assert order.places() == order.places("distance")


def test_distances_need_features(store, multilabel):
    order = order_of(store, multilabel, [0.1, 0.2])
    order.network = torch.nn.Conv2d(1, 2, 1)
    with pytest.raises(ValueError, match=r"distance needs a network that gives its features, .*got a Conv2d"):
        order.places()


def test_errors(store, multilabel):
    order = order_of(store, multilabel, [0.1])
    with pytest.raises(ValueError, match=r"strategy must be one of .*, got 'entropy' and 'image'"):
        order.places("entropy")
    with pytest.raises(ValueError, match="got 'random' and 'voxel'"):
        order.places("random", by="voxel")
    with pytest.raises(ValueError, match="weight needs a method that weighs pseudo-labels, got Supervised"):
        order.places("weight")
    order.unlabeled = None
    with pytest.raises(ValueError, match="must be unlabelled images to choose from"):
        order.places("random")
