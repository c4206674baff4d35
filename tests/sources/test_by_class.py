"""Distances to classes by a share of each class's own references: by hand, and against NumPy loops in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from sources.plain_references import EAST, FAN, drawn_labels, normal, plain_distances

from common.sources.nearest import by_class as module
from common.sources.nearest import labels_by_class, reference_labels
from common.weights.class_entropy import entropy_weight


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
