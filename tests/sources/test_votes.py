"""Labels by the votes of each class's references: by hand, and against loops in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sources.plain_references import EAST, FAN, drawn_labels, normal, plain_distances, plain_votes

from common.sources.nearest import by_class as module
from common.sources.nearest import labels_by_class


@pytest.mark.parametrize("multilabel", [True, False])
@pytest.mark.parametrize("k", [1, 4, 1000, 0.1, 0.57])
def test_votes_equal_plain_loops(k, multilabel):
    queries, references, labels = normal(15, 1), normal(100, 2), drawn_labels(100, multilabel)
    found = labels_by_class(queries, references, labels, k, num_classes=2 if multilabel else 3, votes=True)
    np.testing.assert_array_equal(found.labels.numpy(), plain_votes(queries, references, labels, k))
    nearest = labels_by_class(queries, references, labels, k)
    assert torch.equal(found.distances, nearest.distances) and found.labels.dtype == labels.dtype
    assert torch.equal(found.labels, nearest.labels) == (k == 1)  # with a vote each, the nearest's counts most


@pytest.mark.parametrize(("k", "voted"), [(1, 0), (2, 0), (3, 1), (0.4, 0), (1.0, 1)])
def test_votes_by_hand(k, voted):
    """The nearest is of class 0, at distance 0; its mean with 0.4 is 0.2, and with 1 it is 0.467; class 1 has 0.3."""
    references = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.8, 0.6], [0.6, -0.8]])
    found = labels_by_class(EAST, references, torch.tensor([0, 0, 0, 1, 1]), k, votes=True)
    assert found.labels.tolist() == [voted]


def signs(number, seed):
    """Vectors of +1 and -1 of norm 4, whose similarities are multiples of 1/8 in any precision."""
    return torch.randint(0, 2, (number, 16), generator=torch.Generator().manual_seed(seed)) * 2.0 - 1


@pytest.mark.parametrize("multilabel", [True, False])
def test_of_equally_near_classes_the_first_is_voted(multilabel):
    queries, references, labels = signs(60, 1), signs(40, 2), drawn_labels(40, multilabel)
    found = labels_by_class(queries, references, labels, 2, votes=True)
    np.testing.assert_array_equal(found.labels.numpy(), plain_votes(queries, references, labels, 2))
    if not multilabel:
        distances = np.sort(plain_distances(queries, references, labels, 2, 3), 1)
        assert (distances[:, 0] == distances[:, 1]).any()


def test_combinations_of_classes_by_hand():
    """Nearest is the one of both classes; the mean of its references is farther than that of the first class alone."""
    references = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [0.8, -0.6], [0.6, 0.8]])
    labels = torch.tensor([[1, 1], [1, 1], [1, 0], [1, 0], [0, 0]])
    found = labels_by_class(EAST, references, labels, 2, votes=True)  # 0.5, 0.2 and, of the background, 0.4
    assert found.labels.tolist() == [[1, 0]] and found.labels.dtype == labels.dtype
    assert found.distances[0].tolist() == pytest.approx([0.4, 0.1, 0.5])  # the first class has the nearest, too
    assert labels_by_class(EAST, references, labels, 1, votes=True).labels.tolist() == [[1, 1]]
    assert labels_by_class(EAST, references, labels, 2, votes=True, background=False).labels.tolist() == [[1, 0]]


def test_nothing_similar_is_the_first_label_that_there_is():
    """Background where there is any; nothing is voted that no reference has."""
    west = torch.tensor([[-1.0, 0.0]])
    for classes, expected in (([2, 0, 1, 2], 0), ([2, 1, 1, 2], 1)):
        found = labels_by_class(west, FAN[:4], torch.tensor(classes), 2, num_classes=3, votes=True)
        assert found.labels.tolist() == [expected] and found.distances.tolist() == [[1, 1, 1]]
    labels = torch.tensor([[1, 0], [1, 1], [0, 0], [1, 0]])
    assert labels_by_class(west, FAN[:4], labels, 1, votes=True).labels.tolist() == [[0, 0]]


def test_classes_alone_are_asked_once(monkeypatch):
    """Candidates that are a class, or the background, on its own have its distance."""
    asked, whole = [], module.distances_to

    def watched(queries, references, groups, k):
        asked.append(len(groups))
        return whole(queries, references, groups, k)

    monkeypatch.setattr(module, "distances_to", watched)
    labels_by_class(EAST, FAN, torch.tensor([0, 0, 1, 1, 2]), 2, votes=True)
    labels_by_class(EAST, FAN, torch.tensor([[0], [0], [1], [1], [1]]), 2, votes=True)
    labels_by_class(EAST, FAN, torch.tensor([[0, 0], [0, 1], [1, 1], [1, 1], [0, 0]]), 2, votes=True)
    assert asked == [3, 2, 4]  # of the last, the first class is where both are
