"""Distances to classes by a share of each class's own references: by hand, and against NumPy loops in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from sources.plain_references import plain_distances, plain_votes

from common.sources.nearest import by_class as module
from common.sources.nearest import labels_by_class, reference_labels
from common.weights.class_entropy import entropy_weight

# similarities to (1, 0): 1, 0.8, 0.6, 0, -1
FAN = torch.tensor([[2.0, 0.0], [0.4, 0.3], [0.6, 0.8], [0.0, 5.0], [-1.0, 0.0]])
EAST = torch.tensor([[3.0, 0.0]])


def normal(number, seed, features=6):
    return torch.randn(number, features, generator=torch.Generator().manual_seed(seed)) + 0.3


def drawn_labels(number, multilabel, seed=3):
    """Classes of very different sizes: of 100 references some 70, 25 and 5."""
    generator = torch.Generator().manual_seed(seed)
    if multilabel:
        return (torch.rand(number, 2, generator=generator) < torch.tensor([0.3, 0.06])).long()
    return torch.multinomial(torch.tensor([0.7, 0.25, 0.05]), number, True, generator=generator)


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        (1, [0.0, 0.4]),
        (2, [0.1, 0.7]),  # (0 + 0.2) / 2, (0.4 + 1) / 2
        (9, [0.1, 0.8]),  # two of the first class, (0.4 + 1 + 1) / 3 of the other
        (0.01, [0.0, 0.4]),  # at least one of each
        (0.5, [0.0, 0.7]),  # one of two; of three, one and a half is two
        (1.0, [0.1, 0.8]),
        (None, [0.1, 0.8]),
    ],
)
def test_by_hand(k, expected):
    found = labels_by_class(EAST, FAN, torch.tensor([0, 0, 1, 1, 1]), k, num_classes=3)
    assert found.distances[0].tolist() == pytest.approx([*expected, 1.0])  # there is no reference of the third class
    assert found.labels.tolist() == [0]


def test_classes_that_overlap_by_hand():
    labels = torch.tensor([[1, 1], [0, 1], [1, 0], [0, 0], [0, 0]])
    found = labels_by_class(EAST, FAN, labels, 0.5)
    assert found.distances[0].tolist() == pytest.approx([1.0, 0.0, 0.0]) and found.labels.tolist() == [[1, 1]]
    found = labels_by_class(EAST, FAN, labels, 2, background=False)
    assert found.distances[0].tolist() == pytest.approx([0.2, 0.1])


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("multilabel", [True, False])
@pytest.mark.parametrize("k", [1, 4, 1000, 0.02, 0.1, 0.57, 1.0])
def test_equals_plain_loops(k, multilabel, background):
    queries, references, labels = normal(15, 1), normal(100, 2), drawn_labels(100, multilabel)
    classes = 2 if multilabel else 4  # the last one has no reference
    found = labels_by_class(queries, references, labels, k, num_classes=classes, background=background)
    expected = plain_distances(queries, references, labels, k, classes, background)
    np.testing.assert_allclose(found.distances.numpy(), expected, rtol=0, atol=1e-6)
    nearest = reference_labels(queries, references, labels, 7, num_classes=classes, background=background)
    assert torch.equal(found.labels, nearest.labels)
    assert found.labels.dtype == labels.dtype and found.distances.dtype == torch.float32


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


def test_one_of_each_class_is_the_distance_to_its_nearest():
    """As among all references (eq. 5)."""
    queries, references, labels = normal(15, 1), normal(100, 2), drawn_labels(100, True)
    found = labels_by_class(queries, references, labels, 1)
    expected = reference_labels(queries, references, labels, None)
    torch.testing.assert_close(found.distances, expected.distances, rtol=0, atol=1e-6)


def test_a_small_class_is_as_clear_as_a_large_one():
    """Two clusters of 200 and 8 references: with k above 8, the weight of the paper says whose is whose by size."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[1.0, 0.4, 0.0], [0.0, 0.4, 1.0]])
    labels = torch.tensor([0] * 200 + [1] * 8)
    references, queries = centres[labels] + 0.05 * torch.randn(208, 3, generator=generator), centres

    def weights(search, k):
        found = search(queries, references, labels, k)
        assert found.labels.tolist() == [0, 1]
        return entropy_weight(found.distances.T[None, :, :, None]).flatten().tolist()

    large, small = weights(reference_labels, 0.57)
    assert large > 0.99 and small < 0.6
    large, small = weights(labels_by_class, 0.57)
    assert abs(large - small) < 0.1 and min(large, small) > 0.3


@pytest.mark.parametrize("most", [1, 60, 10_000])
def test_memory_is_bounded_whatever_the_pool(most, monkeypatch):
    """Tiles are of at most so many similarities, of one query at least; results are the same."""
    queries, references, labels = normal(15, 1), normal(100, 2), drawn_labels(100, True)
    expected, tiles, whole = labels_by_class(queries, references, labels, 0.3), [], module.similarities

    def watched(*arguments):
        tiles.append(whole(*arguments))
        return tiles[-1]

    monkeypatch.setattr(module, "TILE", {"cpu": (1, most)})
    monkeypatch.setattr(module, "similarities", watched)
    found = labels_by_class(queries, references, labels, 0.3)
    torch.testing.assert_close(found.distances, expected.distances, rtol=0, atol=1e-6)
    assert all(tile.numel() <= most or len(tile) == 1 for tile in tiles)
    assert sum(len(tile) for tile in tiles) == 3 * 15


def test_features_that_are_zero_tiny_or_of_half_precision():
    queries, references = normal(20, 1) * 1e-5, normal(50, 2) * torch.logspace(-6, 0, 50).unsqueeze(1)
    queries[3] = references[7] = 0
    labels = drawn_labels(50, False)
    found = labels_by_class(queries, references, labels, 0.4)
    np.testing.assert_allclose(
        found.distances.numpy(), plain_distances(queries, references, labels, 0.4, 3), rtol=0, atol=1e-6
    )
    assert (found.distances[3] == 1).all()
    half = queries.mul(1e5).bfloat16(), references.bfloat16()
    found = labels_by_class(*half, labels, 0.4)
    np.testing.assert_allclose(found.distances.numpy(), plain_distances(*half, labels, 0.4, 3), rtol=0, atol=1e-6)


def test_what_is_not_finite_is_not_hidden():
    queries, references, labels = normal(6, 1), normal(30, 2), drawn_labels(30, False)
    queries[2, 1] = math.nan
    found = labels_by_class(queries, references, labels, 0.4, check=False)
    assert found.distances.isnan().any(1).tolist() == [False, False, True, False, False, False]
    with pytest.raises(ValueError, match="queries must be finite, got NaN"):
        labels_by_class(queries, references, labels, 0.4)
    references[4, 0] = math.inf
    with pytest.raises(ValueError, match="references must be finite"):
        labels_by_class(normal(6, 1), references, labels, 0.4)
    found = labels_by_class(normal(6, 1), references, labels, 0.4, check=False)
    assert found.distances[:, labels[4]].isnan().all()


def test_no_gradients_no_metadata_and_no_queries():
    queries, references = MetaTensor(normal(6, 1)), normal(30, 2).requires_grad_()
    found = labels_by_class(queries, references, drawn_labels(30, True), 0.4)
    assert not found.distances.requires_grad and type(found.distances) is torch.Tensor
    found = labels_by_class(queries[:0], references, drawn_labels(30, True), 0.4)
    assert found.distances.shape == (0, 3) and found.labels.shape == (0, 2)


@pytest.mark.parametrize("k", [0, -2, 1.5, 0.0])
def test_a_number_of_neighbours_out_of_range_is_refused(k):
    with pytest.raises(ValueError, match="k must be a positive whole number of neighbours or a share"):
        labels_by_class(EAST, FAN, torch.tensor([0, 0, 1, 1, 1]), k)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("multilabel", [True, False])
def test_a_gpu_gives_what_the_host_gives(multilabel):
    given = normal(500, 1), normal(700, 2), drawn_labels(700, multilabel)
    found, expected = labels_by_class(*[each.cuda() for each in given], 0.3), labels_by_class(*given, 0.3)
    assert torch.equal(found.labels.cpu(), expected.labels)
    torch.testing.assert_close(found.distances.cpu(), expected.distances, rtol=0, atol=1e-5)
