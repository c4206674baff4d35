"""Reference labels against hand-computed values, a NumPy float64 loop and the plain top-k form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor

from common.sources.nearest import labels as module
from common.sources.nearest import reference_labels, tiles
from common.sources.nearest.plain import plain_reference_labels


def numpy_form(queries, references, labels, k, classes, background=True):
    """Eq. 3-5 in float64, a query and a class at a time; neighbours are all at least as similar as the k-th."""
    queries, references, labels = (np.asarray(a, np.float64) for a in (queries, references, labels))
    if labels.ndim == 2:
        members = [labels[:, j] == 1 for j in range(classes)]
        members = [(labels == 0).all(1), *members] if background else members
    else:
        members = [labels == j for j in range(classes)]
    chosen, distances = [], []
    for u in queries:
        product = np.sqrt((references**2).sum(1)) * np.sqrt((u**2).sum())
        distance = 1 - np.maximum((references * u).sum(1) / (product + 1e-8), 0)
        near = distance <= np.sort(distance)[min(k, len(distance)) - 1]
        chosen.append(labels[distance.argmin()])  # the first of equals
        distances.append([distance[near & m].min() if (near & m).any() else 1.0 for m in members])
    return np.array(chosen), np.array(distances)


def same(found, expected):
    np.testing.assert_array_equal(found[0].numpy(), np.asarray(expected[0]))
    np.testing.assert_allclose(found[1].numpy(), np.asarray(expected[1]), rtol=0, atol=1e-6)


def signs(number: int, seed: int, features: int = 16) -> Tensor:
    """Vectors of +1 and -1 of norm 4: their similarities are multiples of 1/8, exact in float32 and full of ties."""
    return torch.randint(0, 2, (number, features), generator=torch.Generator().manual_seed(seed)) * 2.0 - 1


def normal(number: int, seed: int, features: int = 24) -> Tensor:
    return torch.randn(number, features, generator=torch.Generator().manual_seed(seed)) + 0.3


def make_labels(number: int, classes: int, multilabel: bool, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if multilabel:
        return (torch.rand(number, classes, generator=generator) < 0.15).long()
    return torch.randint(0, classes, (number,), generator=generator)


PLANE = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]])  # similarities to (1, 0): 1, 0.6, 0, -1


def test_hand_computed_multiclass():
    found = reference_labels(torch.tensor([[2.0, 0.0]]), PLANE, torch.tensor([2, 0, 1, 1]), k=None, num_classes=3)
    assert found.labels.tolist() == [2]
    assert found.distances[0].tolist() == pytest.approx([0.4, 1.0, 0.0])


def test_hand_computed_multilabel():
    labels = torch.tensor([[1, 1], [0, 0], [0, 1], [1, 0]])
    found = reference_labels(torch.tensor([[2.0, 0.0]]), PLANE, labels, k=2)
    assert found.labels.tolist() == [[1, 1]] and found.labels.dtype == labels.dtype
    assert found.distances[0].tolist() == pytest.approx([0.4, 0.0, 0.0])


@pytest.mark.parametrize(
    ("k", "present"), [(1, [2]), (2, [0, 2]), (3, [0, 2]), (0.25, [2]), (0.5, [0, 2]), (99, [0, 2])]
)
def test_number_and_share_of_neighbours(k, present):
    """The third and fourth reference are at distance 1, so that being among the nearest makes no difference."""
    found = reference_labels(torch.tensor([[2.0, 0.0]]), PLANE, torch.tensor([2, 0, 1, 1]), k, num_classes=3)
    assert (found.distances[0] < 1).nonzero().flatten().tolist() == present


def test_ties_at_the_kth_neighbour_are_neighbours():
    references = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8], [0.6, 0.8]])
    found = reference_labels(torch.tensor([[1.0, 0.0]]), references, torch.tensor([0, 1, 2, 3]), k=2)
    assert found.distances[0].tolist() == pytest.approx([0, 0.4, 0.4, 0.4])
    found = reference_labels(torch.tensor([[1.0, 0.0]]), references, torch.tensor([0, 1, 2, 3]), k=1)
    assert found.distances[0].tolist() == pytest.approx([0, 1, 1, 1])


@pytest.mark.parametrize("order", [[3, 1, 2], [1, 3, 2], [2, 1, 3], [1, 1, 0]])
def test_first_of_equally_near_references_gives_the_label(order):
    references = torch.tensor([[0.0, 1.0], [3.0, 4.0], [3.0, 4.0], [3.0, 4.0]])
    found = reference_labels(torch.tensor([[3.0, 4.0]]), references, torch.tensor([0, *order]), k=2, num_classes=4)
    assert found.labels.tolist() == order[:1]


@pytest.mark.parametrize("query", [[-1.0, -1.0], [0.0, 0.0]])
def test_nothing_similar_takes_the_first_label_and_is_far_from_all(query):
    references = torch.tensor([[0.5, 1.0], [1.0, 1.0], [1.0, 0.1]])
    found = reference_labels(torch.tensor([query]), references, torch.tensor([1, 0, 2]), k=2)
    assert found.labels.tolist() == [1]
    assert found.distances.tolist() == [[1.0, 1.0, 1.0]]


def test_epsilon_of_tiny_features_is_that_of_the_equation():
    queries, references = normal(20, 1) * 1e-5, normal(50, 2) * torch.logspace(-6, 0, 50).unsqueeze(1)
    queries[3] = references[7] = 0
    labels = make_labels(50, 3, False, 3)
    same(reference_labels(queries, references, labels, 20), numpy_form(queries, references, labels, 20, 3))


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("k", [1, 2, 30, 77, 150, 151, 1000])
@pytest.mark.parametrize("make", [signs, normal])
def test_equals_numpy_form(make, k, background, multilabel):
    references = make(150, 0)
    references[::3] = references[torch.arange(0, 150, 3) // 2]  # duplicates with other labels
    queries = torch.cat([make(21, 1), references[:10], -references[:2]])
    labels = make_labels(150, 5, multilabel, 2)
    found = reference_labels(queries, references, labels, k, num_classes=5, background=background)
    same(found, numpy_form(queries, references, labels, k, 5, background))


@pytest.mark.parametrize("chunk_size", [1, (7, 20), (32, 16), (64, 5000), 100_000])
@pytest.mark.parametrize("k", [1, 300, None])
def test_chunk_size_does_not_matter(chunk_size, k):
    references = torch.cat([normal(500, 0), normal(500, 0)])  # every reference twice, in other places of other tiles
    queries, labels = torch.cat([normal(101, 1), references[:30]]), make_labels(1000, 4, True, 2)
    whole = reference_labels(queries, references, labels, k)
    found = reference_labels(queries, references, labels, k, chunk_size=chunk_size)
    assert all(torch.equal(a, b) for a, b in zip(found, whole, strict=True))


def test_more_queries_than_are_kept_at_once(monkeypatch):
    monkeypatch.setattr(module, "QUERIES_AT_ONCE", 64)
    queries, references, labels = normal(333, 0), normal(200, 1), make_labels(200, 3, True, 2)
    same(
        reference_labels(queries, references, labels, 0.3, chunk_size=16),
        plain_reference_labels(queries, references, labels, 60, 3),
    )


@pytest.mark.parametrize("features", [3, 24, 64, 130])
@pytest.mark.parametrize("copies", [3, 2000])
def test_duplicates_are_never_strictly_closer(features, copies):
    """Copies of one reference lie all over the tiles. One of them counted as closer would push the last class out."""
    reference = normal(1, 0, features)
    queries = torch.cat([normal(200, 1, features).abs() * reference.sign(), reference])
    references = torch.cat([reference.expand(copies, -1), -normal(1, 3, features).abs() * reference.sign()])
    labels = torch.arange(copies + 1) % 3
    found = reference_labels(queries, references, labels, k=1, num_classes=3)
    assert (found.distances < 1).all()
    assert (found.distances == found.distances[:, :1]).all()
    assert (found.labels == 0).all()


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("share", [0.02, 0.25, 0.5, 1.0])
def test_equals_plain_form_at_realistic_size(share, multilabel):
    centres = normal(6, 9, 64)
    labels = make_labels(6000, 6, multilabel, 1)
    references = normal(6000, 0, 64) * 0.7
    references += (labels.float() if multilabel else torch.eye(6)[labels]) @ centres
    queries = normal(700, 2, 64) * 0.7 + centres[torch.arange(700) % 6]
    found = reference_labels(queries, references, labels, share, num_classes=6)
    same(found, plain_reference_labels(queries, references, labels, round(share * 6000), 6))
    assert share > 0.02 or (found.distances == 1).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_computed_in_float32(dtype):
    queries, references, labels = normal(50, 0).to(dtype), normal(300, 1).to(dtype), make_labels(300, 4, False, 2)
    found = reference_labels(queries, references, labels, 100)
    assert found.distances.dtype == torch.float32
    same(found, numpy_form(queries.double(), references.double(), labels, 100, 4))


def test_autocast_and_gradients_stay_outside():
    queries, references = normal(50, 0).requires_grad_(), normal(300, 1).requires_grad_()
    labels = make_labels(300, 4, False, 2)
    expected = reference_labels(queries, references, labels, 100)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = reference_labels(queries, references, labels, 100)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert not found.distances.requires_grad


def test_lower_matmul_precision_stays_outside():
    queries, references, labels = normal(64, 0, 64), normal(320, 1, 64), make_labels(320, 4, False, 2)
    expected = reference_labels(queries, references, labels, 100)
    chosen = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        found = reference_labels(queries, references, labels, 100)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(chosen)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_float64_products_where_float32_depends_on_the_place(monkeypatch):
    queries, references, labels = normal(50, 0), normal(300, 1), make_labels(300, 4, True, 2)
    expected = reference_labels(queries, references, labels, 100)
    monkeypatch.setattr(tiles, "same_everywhere", lambda *shape: False)
    same(reference_labels(queries, references, labels, 100), expected)


def test_literal_formula_is_far_from_all_classes_in_background():
    """A query deep in background: its neighbours carry the all-zero label, and every class is at distance 1."""
    references = torch.cat([signs(1, 0).expand(40, -1), -signs(1, 0).expand(20, -1)])
    labels = torch.cat([torch.zeros(40, 2), torch.ones(20, 2)])
    query = signs(1, 0)
    literal = reference_labels(query, references, labels, 30, background=False)
    default = reference_labels(query, references, labels, 30)
    assert literal.labels.tolist() == default.labels.tolist() == [[0, 0]]
    assert literal.distances.tolist() == [[1, 1]]
    assert default.distances.tolist() == [[0, 1, 1]]


def test_seventy_two_classes():
    labels = make_labels(400, 72, True, 0)
    queries, references = normal(30, 1), normal(400, 2)
    same(reference_labels(queries, references, labels, 0.5), numpy_form(queries, references, labels, 200, 72))


def test_no_queries():
    found = reference_labels(torch.zeros(0, 2), PLANE, torch.tensor([[1, 0]] * 4))
    assert [tuple(part.shape) for part in found] == [(0, 2), (0, 3)]


def test_without_the_check_what_is_not_finite_shows_in_the_distances():
    queries, references = normal(20, 0), normal(60, 1)
    queries[3, 2] = math.nan
    labels = make_labels(60, 3, False, 2)
    found = reference_labels(queries, references, labels, 10, check=False)
    assert found.distances[3].isnan().any()
    rest = torch.arange(20) != 3
    same(
        [part[rest] for part in found], [part[rest] for part in reference_labels(normal(20, 0), references, labels, 10)]
    )
    references[7, 0] = math.nan
    assert reference_labels(normal(20, 0), references, labels, 60, check=False).distances.isnan().any(1).all()


def test_metadata_of_images_stays_outside():
    queries, references, labels = normal(9, 0), normal(30, 1), make_labels(30, 3, False, 2)
    found = reference_labels(MetaTensor(queries), MetaTensor(references), MetaTensor(labels), 10)
    assert all(type(part) is Tensor for part in found)
    same(found, reference_labels(queries, references, labels, 10))


BAD = {
    "k must be": {"k": 0},
    r"k must be .* got 1\.5": {"k": 1.5},
    "k must be .* got -0.5": {"k": -0.5},
    "k must be .* got True": {"k": True},
    "same number of features": {"queries": torch.ones(3, 5)},
    "queries must be a floating-point tensor": {"queries": torch.ones(3, 2, dtype=torch.long)},
    "references must be a floating-point": {"references": torch.ones(4, 2, 1)},
    "references must hold at least one": {"references": torch.ones(0, 2)},
    "queries must be finite.* 1 of 2 rows": {"queries": torch.tensor([[1.0, 2.0], [math.nan, 1.0]])},
    "references must be finite": {"references": PLANE / 0},
    "labels must be class indices": {"labels": torch.tensor([0, 1])},
    "labels must be 0 to 2.* got 3": {"labels": torch.tensor([0, 1, 3, 2])},
    "labels must be 0 to 2.* got -1": {"labels": torch.tensor([0, 1, -1, 2])},
    "labels must be whole numbers": {"labels": torch.tensor([0.0, 1, 1, 2])},
    "labels must be 0 or 1.* got 2": {"labels": torch.tensor([[0, 1, 2]] * 4)},
    "num_classes must be 2": {"labels": torch.tensor([[0, 1]] * 4)},
    "two or more classes": {"labels": torch.tensor([[1]] * 4), "num_classes": 1, "background": False},
    "two or more classes to compare, got 1": {"labels": torch.tensor([0, 0, 0, 0]), "num_classes": 1},
    "chunk_size must be": {"chunk_size": (0, 5)},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arguments(message):
    arguments = {"queries": torch.ones(3, 2), "references": PLANE, "labels": torch.tensor([0, 1, 1, 2])}
    arguments |= {"num_classes": 3} | BAD[message]
    with pytest.raises(ValueError, match=message):
        reference_labels(**arguments)
