"""Which images are to be annotated next: by hand-made networks and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from common.annotation import STRATEGIES, AnnotationOrder
from common.annotation.order import disagreement, farthest_first
from common.batches import Batches
from common.methods import FixMatch, Supervised


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
    for item, patient in zip(unlabeled.data, patients or (), strict=False):
        item["patient"] = patient
    method = method or Supervised(labels)
    batches = Batches(store(known), unlabeled, labels, method, labeled_batch=2, **options)
    return AnnotationOrder(method, Bright(labels), batches)


def test_disagreement_is_that_of_probabilities():
    one, other = torch.rand(2, 3, 4, 5), torch.rand(2, 3, 4, 5)
    for image, found in enumerate(disagreement(one, other)):
        dice = []
        for p, q in zip(one[image].double().numpy(), other[image].double().numpy(), strict=True):
            dice.append((2 * (p * q).sum() + 1) / ((p**2).sum() + (q**2).sum() + 1))
        assert found.item() == pytest.approx(1 - np.mean(dice))
    assert disagreement(torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)).item() == 0


def test_farthest_first_against_loops():
    rng = np.random.default_rng(0)
    labeled, unlabeled = rng.normal(size=(3, 5)), rng.normal(size=(9, 5))
    order, scores = farthest_first(torch.from_numpy(labeled), torch.from_numpy(unlabeled))
    chosen = [*labeled]
    for place, score in zip(order, scores, strict=True):
        left = [i for i in range(9) if not any((unlabeled[i] == c).all() for c in chosen)]
        nearest = {i: min(np.linalg.norm(unlabeled[i] - c) for c in chosen) for i in left}
        assert place == max(nearest, key=nearest.get)
        assert score == pytest.approx(nearest[place])
        chosen.append(unlabeled[place])
    assert sorted(order) == list(range(9))


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
