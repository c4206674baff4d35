"""The Triton search against a NumPy float64 loop and the plain top-k form; on the CPU in Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os
import sys

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when it is imported
triton = pytest.importorskip("triton", reason="the kernels need Triton, which is not installed")

from common.sources.nearest import kernels  # noqa: E402
from common.sources.nearest.plain import plain_reference_labels  # noqa: E402

if DEVICE == "cpu" and any(isinstance(f, triton.JITFunction) for f in (triton.language.max, kernels.best_kernel)):
    pytest.skip("Triton was imported before its interpreter was chosen. Run this file alone.", allow_module_level=True)

SMALL = kernels.Blocks(queries=32, references=64, programs=4, warps=4)  # several tiles and shares of small numbers
EVERY = 10**6


@pytest.fixture(autouse=True)
def products_that_do_not_depend_on_the_place(monkeypatch):
    """A tensor core adds up all pairs in one order. BLAS does not, so that the interpreter gets float64, rounded."""
    if DEVICE == "cpu":
        from triton.runtime import interpreter

        def dot(self, a, b, d, *options):
            product = d.data + a.data.astype(np.float64) @ b.data.astype(np.float64)
            return interpreter.TensorHandle(product.astype(np.float32), d.dtype.scalar)

        monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", dot)


def search(queries: Tensor, references: Tensor, members: Tensor, k: int, blocks: kernels.Blocks = SMALL):
    found = kernels.search_on_device(queries.to(DEVICE), references.to(DEVICE), members.to(DEVICE), k, blocks)
    return tuple(part.cpu() for part in found)


def numpy_form(queries, references, members, k):
    """Eq. 3-5 in float64, a query at a time; neighbours are all at least as similar as the k-th."""
    queries, references, members = (
        np.asarray(a, t) for a, t in ((queries, np.float64), (references, np.float64), (members, bool))
    )
    nearest, similarity = [], []
    for u in queries:
        product = np.sqrt((references**2).sum(1)) * np.sqrt((u**2).sum())
        cosine = np.maximum((references * u).sum(1) / (product + 1e-8), 0)
        near = cosine >= np.sort(cosine)[::-1][min(k, len(cosine)) - 1]
        nearest.append(cosine.argmax())  # the first of equals
        similarity.append([(cosine * (near & m)).max() for m in members])
    return np.array(nearest), np.array(similarity).T


def same(found, expected):
    nearest, similarity = found
    assert nearest.dtype == torch.int64 and similarity.dtype == torch.float32
    np.testing.assert_array_equal(nearest.numpy(), expected[0])
    np.testing.assert_allclose(similarity.numpy(), expected[1], rtol=0, atol=1e-6)
    assert ((similarity.numpy() > 0) == (expected[1] > 0)).all()


def check(queries, references, members, k, blocks=SMALL):
    same(search(queries, references, members, k, blocks), numpy_form(queries, references, members, k))


def signs(number: int, seed: int, features: int = 16) -> Tensor:
    """Vectors of +1 and -1 of norm 4: their similarities are multiples of 1/8, exact in float32 and full of ties."""
    return torch.randint(0, 2, (number, features), generator=torch.Generator().manual_seed(seed)) * 2.0 - 1


def normal(number: int, seed: int, features: int = 24) -> Tensor:
    return torch.randn(number, features, generator=torch.Generator().manual_seed(seed)) + 0.3


def make_members(number: int, classes: int, kind: str, seed: int = 0) -> Tensor:
    """Multi-class: every reference in one class. Multi-label: in some, and some in none."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "multilabel":
        return torch.rand(classes, number, generator=generator) < 0.2
    return torch.randint(0, classes, (number,), generator=generator) == torch.arange(classes).unsqueeze(1)


PLANE = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]])  # similarities to (1, 0): 1, 0.6, 0, -1


def test_hand_computed():
    members = torch.tensor([[0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 1, 1]])
    for k, expected in ((1, [0, 1, 0]), (2, [0.6, 1, 0]), (4, [0.6, 1, 0])):
        nearest, similarity = search(torch.tensor([[2.0, 0.0]]), PLANE, members, k)
        assert nearest.tolist() == [0]
        assert similarity[:, 0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["multiclass", "multilabel"])
@pytest.mark.parametrize("k", [1, 2, 70, 149, EVERY])
@pytest.mark.parametrize("make", [signs, normal])
def test_equals_numpy_form(make, k, kind):
    references = make(150, 0)
    references[::3] = references[torch.arange(0, 150, 3) // 2]  # duplicates with other labels
    queries = torch.cat([make(21, 1), references[:10], -references[:2]])
    check(queries, references, make_members(150, 5, kind), k)


@pytest.mark.parametrize("kind", ["multiclass", "multilabel"])
@pytest.mark.parametrize("classes", [1, 2, 3, 14, 15, 16, 70])
def test_number_of_classes(classes, kind):
    """From 15 classes on the count takes more than one pass; from 63 on some share a bit of the sorting key."""
    check(normal(20, 0), normal(160, 1), make_members(160, classes, kind), 12)


@pytest.mark.parametrize("limits", [1, 2, 5])
@pytest.mark.parametrize("k", [1, 30, 99])
def test_number_of_passes_does_not_matter(monkeypatch, limits, k):
    monkeypatch.setattr(kernels, "LIMITS", limits)
    check(signs(20, 0), signs(100, 1), make_members(100, 9, "multilabel"), k)


@pytest.mark.parametrize("features", [2, 3, 16, 40, 64, 65, 256])
def test_number_of_features(features):
    check(normal(17, 0, features), normal(70, 1, features) * 0.9, make_members(70, 3, "multiclass"), 20)


@pytest.mark.parametrize(("queries", "references"), [(1, 1), (1, 65), (32, 64), (33, 63), (50, 300)])
@pytest.mark.parametrize("k", [1, EVERY])
def test_sizes_beside_those_of_the_blocks(queries, references, k):
    check(normal(queries, 0), normal(references, 1), make_members(references, 3, "multilabel"), k)


@pytest.mark.parametrize("blocks", [(16, 16, 1, 4, 1), (32, 16, 3, 4, 2), (64, 64, 1000, 4, 3), (128, 128, 1024, 8, 2)])
def test_blocks_do_not_matter(blocks):
    queries, references, members = normal(40, 0), normal(140, 1), make_members(140, 4, "multilabel")
    check(queries, references, members, 50, kernels.Blocks(*blocks))


def test_default_blocks():
    queries, references, members = signs(30, 0), signs(140, 1), make_members(140, 3, "multiclass")
    same(search(queries, references, members, 20, None), numpy_form(queries, references, members, 20))


@pytest.mark.parametrize("kind", ["multiclass", "multilabel"])
def test_equals_plain_form(kind):
    members = make_members(300, 6, kind)
    queries, references = normal(60, 0, 64), normal(300, 1, 64)
    labels = members.T.long() if kind == "multilabel" else members.int().argmax(0)
    members = torch.cat([~members.any(0, keepdim=True), members]) if kind == "multilabel" else members
    nearest, similarity = search(queries, references, members, 40)
    expected = plain_reference_labels(queries, references, labels, 40, 6)
    assert torch.equal(labels[nearest], expected[0])
    torch.testing.assert_close(1 - similarity.T.clamp(max=1), expected[1], rtol=0, atol=1e-6)


def test_arguments_that_are_not_contiguous():
    queries, references, members = normal(24, 0, 20).T, normal(24, 1, 90).T, make_members(90, 5, "multilabel")
    check(queries, references, members.T.contiguous().T, 30)


@pytest.mark.parametrize("copies", [[40, 3, 120], [5, 4], [31, 32, 33]])
def test_first_of_equally_near_references(copies):
    """In the given order, wherever they lie in the tiles, and whatever their classes."""
    references, query = -normal(150, 0).abs(), normal(1, 1).abs()
    references[copies] = query
    members = torch.arange(150) % 4 == torch.arange(4).unsqueeze(1)
    nearest, similarity = search(query, references, members, 1)
    assert nearest.item() == min(copies)
    expected = [float(any(place % 4 == c for place in copies)) for c in range(4)]
    assert similarity[:, 0].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("features", [3, 24, 64, 130])
def test_duplicates_are_never_strictly_closer(features):
    """Copies of one reference lie all over the tiles. One of them counted as closer would push the last class out."""
    reference = normal(1, 0, features)
    queries = torch.cat([normal(20, 1, features).abs() * reference.sign(), reference])
    references = torch.cat([reference.expand(200, -1), -normal(1, 3, features).abs() * reference.sign()])
    nearest, similarity = search(queries, references, torch.arange(201) % 3 == torch.arange(3).unsqueeze(1), 1)
    assert (similarity > 0).all()
    assert (similarity == similarity[:1]).all()
    assert (nearest == 0).all()


def test_ties_at_the_kth_neighbour_are_neighbours():
    references = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8], [0.6, 0.8]])
    for k, expected in ((2, [1, 0.6, 0.6, 0.6]), (1, [1, 0, 0, 0])):
        _, similarity = search(torch.tensor([[1.0, 0.0]]), references, torch.eye(4), k)
        assert similarity[:, 0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 5, 40, EVERY])
def test_absent_class_and_classes_of_one(k):
    members = torch.zeros(4, 90, dtype=torch.uint8)
    members[0, 88] = members[1, 3] = 1
    members[2, 5:] = 1  # and the last class has no reference at all, some references no class
    queries, references = normal(20, 0), normal(90, 1)
    check(queries, references, members, k)
    assert (search(queries, references, members, k)[1][3] == 0).all()


def test_nearest_without_a_class_still_counts_as_neighbour():
    members = torch.tensor([[0, 1, 0, 0], [0, 0, 1, 1]])
    nearest, similarity = search(torch.tensor([[1.0, 0.0]]), PLANE, members, 1)
    assert nearest.tolist() == [0] and similarity.tolist() == [[0], [0]]
    assert search(torch.tensor([[1.0, 0.0]]), PLANE, members, 2)[1][:, 0].tolist() == pytest.approx([0.6, 0])


@pytest.mark.parametrize("k", [1, 20, EVERY])
def test_nothing_similar_takes_the_first_reference(k):
    references = normal(70, 0).abs()
    references[40] = 0
    queries = torch.cat([-normal(17, 1).abs(), torch.zeros(1, 24)])
    nearest, similarity = search(queries, references, make_members(70, 3, "multiclass"), k)
    assert (nearest == 0).all() and (similarity == 0).all()


@pytest.mark.parametrize("k", [20, EVERY])
def test_epsilon_of_tiny_features_is_that_of_the_equation(k):
    queries, references = normal(20, 1) * 1e-5, normal(50, 2) * torch.logspace(-6, 0, 50).unsqueeze(1)
    queries[3] = references[7] = 0
    check(queries, references, make_members(50, 3, "multiclass"), k)


def test_tiniest_and_huge_features_keep_their_direction():
    queries, references = normal(20, 1) * 1e-35, normal(50, 2) * 1e35
    expected = numpy_form(normal(20, 1), normal(50, 2), make_members(50, 3, "multiclass"), 10)
    same(search(queries, references, make_members(50, 3, "multiclass"), 10), expected)


@pytest.mark.parametrize("k", [10, EVERY])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_queries_that_are_not_finite_have_no_similarity(k, value):
    queries, references, members = normal(20, 0), normal(60, 1), make_members(60, 3, "multiclass")
    expected = numpy_form(queries, references, members, k)
    queries[4, 7] = value
    nearest, similarity = search(queries, references, members, k)
    assert similarity[:, 4].isnan().all() and nearest[4] == 0
    others = torch.arange(20) != 4
    same((nearest[others], similarity[:, others]), (expected[0][others], expected[1][:, others]))
    references[50, 2] = value
    assert search(queries, references, members, k)[1].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_of_features(dtype):
    queries, references, members = normal(20, 0).to(dtype), normal(90, 1).to(dtype), make_members(90, 4, "multiclass")
    expected = numpy_form(queries.double(), references.double(), members, 30)
    same(search(queries, references, members, 30), expected)


def test_gradients_stay_outside():
    queries, references = normal(20, 0).requires_grad_(), normal(90, 1).requires_grad_()
    assert not search(queries, references, make_members(90, 4, "multiclass"), 30)[1].requires_grad


class NoWaiting(TorchDispatchMode):
    """Fails where an operation needs a value on the host, or a size that depends on values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        waits = ("local_scalar", "nonzero", "unique", "masked_select", "is_nonzero", "equal.default", "bincount")
        assert not any(name in str(func) for name in waits), func
        if "aten.index" in str(func) and isinstance(args[1], (list, tuple)):
            assert all(index is None or index.dtype is not torch.bool for index in args[1]), func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("k", [10, EVERY])
def test_the_host_never_waits(k):
    queries, references = normal(20, 0).to(DEVICE), normal(90, 1).to(DEVICE)
    members = make_members(90, 16, "multiclass").to(DEVICE)
    kernels.search_on_device(queries, references, members, k, SMALL)  # compiles
    if DEVICE == "cpu":
        with NoWaiting():
            kernels.search_on_device(queries, references, members, k, SMALL)
        return
    mode = torch.cuda.get_sync_debug_mode()
    try:
        torch.cuda.set_sync_debug_mode("error")
        kernels.search_on_device(queries, references, members, k, SMALL)
    finally:
        torch.cuda.set_sync_debug_mode(mode)


def test_available_needs_a_gpu_and_triton(monkeypatch):
    assert not kernels.available("cpu")
    monkeypatch.setitem(sys.modules, "triton", None)  # the import fails
    spec = importlib.util.spec_from_file_location("without_triton", kernels.__file__)
    without = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, without)
    spec.loader.exec_module(without)
    assert without.triton is None and not without.available("cuda")
