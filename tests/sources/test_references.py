"""Pseudo-labels of whole images: eq. 2-7 against NumPy, and the traps of resampling and of background."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import torch
from sources.plain_references import random_task, step_of, tensors

from common.label_space import LabelSpace
from common.sources import Grid, References
from common.terms import Match
from common.weights import ClassEntropy

EPSILON = 1e-8


def at_centres(maps, size):
    """Maps (B, C, W, H) at the pixel under the centre of each of ``size`` cells along an axis."""
    rows, columns = (np.floor((np.arange(min(size, n)) + 0.5) * max(n / size, 1)).astype(int) for n in maps.shape[2:])
    return maps[:, :, rows][:, :, :, columns]


def back_to_size(maps, shape):
    """Each pixel of ``shape`` takes the value of the cell that its centre lies in."""
    rows, columns = (
        np.floor((np.arange(n) + 0.5) * cells / n).astype(int) for n, cells in zip(shape, maps.shape[2:], strict=True)
    )
    return maps[:, :, rows][:, :, :, columns]


def plain_source(references, label, queries, labels, k, reference_size, query_size, background=True):
    """Equations 2 to 7 pixel by pixel in float64, at the queries: label, class distances and weight."""
    references, label = at_centres(references, reference_size), at_centres(label, reference_size)
    queries = queries if query_size is None else at_centres(queries, query_size)
    shape = (queries.shape[0], *queries.shape[2:], -1)
    pool = np.moveaxis(references, 1, -1).reshape(-1, references.shape[1])
    pool_label = np.moveaxis(label, 1, -1).reshape(-1, label.shape[1])
    if labels.multilabel:
        members = pool_label > 0
        if background:
            members = np.column_stack([~members.any(axis=1), members])
    else:
        members = pool_label == np.arange(labels.num_outputs)
    found, distances, weights = [], [], []
    for query in np.moveaxis(queries, 1, -1).reshape(-1, queries.shape[1]):
        cosine = pool @ query / (np.linalg.norm(pool, axis=1) * np.linalg.norm(query) + EPSILON)
        distance = 1 - np.maximum(cosine, 0)
        found.append(pool_label[distance.argmin()])
        nearest = np.argsort(distance)[:k]
        delta = np.array([min([1.0, *distance[nearest][member[nearest]]]) for member in members.T])
        p = (1 - delta + EPSILON) / (1 - delta + EPSILON).sum()
        distances.append(delta)
        weights.append(1 + (p * np.log(p)).sum() / math.log(len(p)))
    return [np.moveaxis(np.reshape(rows, shape), -1, 1) for rows in (found, distances, weights)]


def found_by(source, labels, task, **options):
    """Pseudo-label, class distances and their weight."""
    step = step_of(labels, *task, **options)
    pseudo = source(step)
    return pseudo, (pseudo.label, pseudo.known["distances"], ClassEntropy()(step, pseudo))


def same(found, expected):
    np.testing.assert_array_equal(found[0].numpy(), expected[0])
    np.testing.assert_allclose(found[1].numpy(), expected[1], atol=1e-6)
    np.testing.assert_allclose(found[2].numpy(), expected[2], atol=1e-5)


@pytest.mark.parametrize("query_size", [5, 7, None])
@pytest.mark.parametrize("k", [1, 9, 10_000])
def test_label_distances_and_weight_are_the_plain_formulas(labels, k, query_size):
    task = random_task(labels)
    expected = plain_source(*task, labels, k, 5, query_size)
    pseudo, found = found_by(References(k, 5, query_size), labels, tensors(*task))
    same(found, expected)
    assert list(pseudo.known) == ["distances", "predicted"] and pseudo.label.dtype == torch.float32
    if query_size is None:
        assert pseudo.grid is None
        return
    for map_, plain in zip((found[0], found[2]), (expected[0], expected[2]), strict=True):
        np.testing.assert_allclose(pseudo.grid.filled(map_).numpy(), back_to_size(plain, (10, 12)), atol=1e-5)


@pytest.mark.parametrize("query_size", [5, None])
def test_it_knows_what_the_network_says_at_the_queries(labels, query_size):
    """A matrix times the features of the queries' own pixels, whatever the references say."""
    task = random_task(labels)
    step = step_of(labels, *tensors(*task))
    head = step.network.final_conv
    queries = task[2] if query_size is None else at_centres(task[2], query_size)
    matrix, bias = head.weight.detach().numpy()[..., 0, 0], head.bias.detach().numpy()
    expected = np.einsum("oc,bcij->boij", matrix, queries) + bias[None, :, None, None]
    predicted = References(9, 5, query_size)(step).known["predicted"]
    np.testing.assert_allclose(predicted.numpy(), expected, atol=1e-5)
    assert not predicted.requires_grad and predicted.dtype == torch.float32


@pytest.mark.parametrize("background", [True, False])
def test_background_as_a_class_and_the_literal_formula(multilabel, background):
    task = random_task(multilabel, seed=1)
    expected = plain_source(*task, multilabel, 12, 6, 6, background)
    same(found_by(References(12, 6, 6, background), multilabel, tensors(*task))[1], expected)


def test_a_share_of_the_pool_is_that_many_neighbours(labels):
    task = tensors(*random_task(labels))
    share = found_by(References(0.5, 4, 4), labels, task)[1]  # 2 images of 4 x 4 are 32 references
    count = found_by(References(16, 4, 4), labels, task)[1]
    for first, second in zip(share, count, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_by_hand(multiclass):
    """Three references, one of each class, at right angles: a row of 3 pixels with d = 3 features."""
    references = torch.eye(3).reshape(1, 3, 3, 1)
    label = torch.tensor([0.0, 1.0, 2.0]).reshape(1, 1, 3, 1)
    half, third = math.sqrt(1 / 2), math.sqrt(1 / 3)
    queries = torch.tensor([[0.0, 2.0, 0.0], [0.0, half, half], [third] * 3, [-1.0, 0.0, 0.0]]).T.reshape(1, 3, 4, 1)
    _, (found, distances, weight) = found_by(References(3, 3, None), multiclass, (references, label, queries))
    expected = [[1.0, 0.0, 1.0], [1.0, 1 - half, 1 - half], [1 - third] * 3, [1.0, 1.0, 1.0]]
    torch.testing.assert_close(distances[0, :, :, 0].T, torch.tensor(expected), atol=1e-6, rtol=0)
    # one class alone; two classes at equal distance leave 1 - ln 2 / ln 3; three, and none at all, leave nothing
    expected = torch.tensor([1.0, 1 - math.log(2) / math.log(3), 0.0, 0.0])
    torch.testing.assert_close(weight.flatten(), expected, atol=1e-5, rtol=0)
    assert found.flatten()[0] == 1
    # with k = 1 the first query sees one class only
    _, (_, _, weight) = found_by(References(1, 3, None), multiclass, (references, label, queries))
    torch.testing.assert_close(weight.flatten()[0], torch.tensor(1.0), atol=1e-5, rtol=0)


def test_multilabel_background_counts_unless_the_formula_is_taken_literally(multilabel):
    """A pixel whose neighbours are all background: sure to be background, and weightless in eq. 5-7 as printed."""
    references = torch.zeros(1, 2, 4, 4)
    references[:, 0, :2], references[:, 1, 2:] = 1, 1  # the upper half looks one way, the lower half another
    label = torch.zeros(1, 2, 4, 4)
    label[:, 0, 2:] = 1  # and only the lower half is lung
    task = references, label, references
    _, (found, _, weight) = found_by(References(8, 4, 4, background=True), multilabel, task)
    torch.testing.assert_close(found, label)
    torch.testing.assert_close(weight, torch.ones_like(weight), atol=1e-4, rtol=0)
    _, (found, _, weight) = found_by(References(8, 4, 4, background=False), multilabel, task)
    torch.testing.assert_close(found, label)
    assert weight[:, :, :2].max() < 1e-4
    assert weight[:, :, 2:].min() > 0.99


def disc(size, radius=0.3):
    """A disc about the centre of the image; half the pixels of its edge on either side."""
    rows, columns = np.meshgrid(*[(np.arange(n) + 0.5) / n - 0.5 for n in size], indexing="ij")
    return (rows**2 + columns**2 < radius**2).astype(np.float32)[None, None]


def centre_of_mass(mask):
    return np.argwhere(mask[0, 0] > 0).mean(axis=0) + 0.5


def distinctive(size, channels=24, seed=0):
    """Features of which no two pixels' are alike."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(1, channels, *size)).astype(np.float32))


ORGAN = LabelSpace(["organ"], "multilabel")


def perfect_match(label, reference_size, query_size):
    """What a label becomes that goes through the references and back to the image's size."""
    features = distinctive(label.shape[2:])
    pseudo, _ = found_by(
        References(50, reference_size, query_size), ORGAN, (features, torch.from_numpy(label), features)
    )
    return (pseudo.label if pseudo.grid is None else pseudo.grid.filled(pseudo.label)).numpy()


def in_cell_corners(monkeypatch):
    """Puts the resampling of the trap in place of the cell centres."""
    of_cells = Grid.of_cells
    monkeypatch.setattr(Grid, "of_cells", lambda size, number, phases=None: of_cells(size, number, [0.0] * len(size)))


SIZES = [(32, 32), (40, 24), (36, 36), (30, 29), (50, 33)]  # multiples of 8, and not


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("size", [*SIZES, (5, 7)], ids=str)
def test_the_loss_sees_the_label_of_its_own_pixel(size, corners, monkeypatch):
    """At the queries a perfect match's label is the label itself, whichever pixels they are."""
    if corners:
        in_cell_corners(monkeypatch)
    label = torch.from_numpy(np.random.default_rng(2).integers(0, 2, (1, 1, *size)).astype(np.float32))
    pseudo, (found, _, weight) = found_by(References(50, 8, 8), ORGAN, (distinctive(size), label, distinctive(size)))
    torch.testing.assert_close(found, label if pseudo.grid is None else pseudo.grid.of(label), rtol=0, atol=0)
    assert found.shape == (1, 1, min(8, size[0]), min(8, size[1])) == weight.shape


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_label_that_the_grid_can_hold_comes_back_exactly(size):
    grid = np.random.default_rng(1).integers(0, 2, (1, 1, 8, 8)).astype(np.float32)
    label = back_to_size(grid, size)
    np.testing.assert_array_equal(perfect_match(label, 8, 8), label)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_finer_label_comes_back_from_cell_centres(size):
    label = np.random.default_rng(2).integers(0, 2, (1, 1, *size)).astype(np.float32)
    np.testing.assert_array_equal(perfect_match(label, 8, 8), back_to_size(at_centres(label, 8), size))


@pytest.mark.parametrize("size", [*SIZES, (5, 7)], ids=str)
def test_full_resolution_gives_any_label_itself(size):
    label = np.random.default_rng(2).integers(0, 2, (1, 1, *size)).astype(np.float32)
    np.testing.assert_array_equal(perfect_match(label, 64, None), label)
    np.testing.assert_array_equal(perfect_match(label, 64, 64), label)  # a size above the image's changes nothing


@pytest.mark.parametrize("size", [(40, 40), (56, 40), (36, 36), (60, 52), (64, 64)], ids=str)
def test_a_shape_stays_where_it_is(size, monkeypatch):
    """Brought to the image's size a disc stays in place; sampled at cell corners, it moves by half a cell.

    A cell with an even number of pixels has no pixel in its middle: half a pixel is what remains there.
    """
    label = disc(size)
    cell = np.array(size) / 8
    leeway = np.where(cell % 2 == 1, 0.05, 0.55) + 0.15 * (cell % 1 > 0)
    moved = np.abs(centre_of_mass(perfect_match(label, 8, 8)) - centre_of_mass(label))
    assert (moved <= leeway).all()
    in_cell_corners(monkeypatch)
    moved = np.abs(centre_of_mass(perfect_match(label, 8, 8)) - centre_of_mass(label))
    assert (moved >= (cell - 1) / 2 - 0.5).all() and (moved > 1.2).all()


def test_cells_with_a_pixel_in_their_middle_keep_symmetry(monkeypatch):
    """Odd cells, where nothing at all may move, also when it goes through twice; at cell corners it does."""
    label = disc((40, 40))
    once = perfect_match(label, 8, 8)
    np.testing.assert_array_equal(perfect_match(once, 8, 8), once)
    np.testing.assert_array_equal(once, once[:, :, ::-1, ::-1])  # as symmetric as the disc
    in_cell_corners(monkeypatch)
    cornered = perfect_match(label, 8, 8)
    assert (cornered != cornered[:, :, ::-1, ::-1]).any()


def test_volumes_take_the_same_path(labels):
    rng = np.random.default_rng(3)
    features = torch.from_numpy(rng.normal(size=(2, 5, 6, 4, 5)).astype(np.float32))
    if labels.multilabel:
        label = torch.from_numpy(rng.integers(0, 2, (2, 2, 6, 4, 5)).astype(np.float32))
    else:
        label = torch.from_numpy(rng.integers(0, 3, (2, 1, 6, 4, 5)).astype(np.float32))
    step = step_of(labels, features, label, features)
    step.network.final_conv = torch.nn.Conv3d(5, labels.num_outputs, 1)
    pseudo = References(20, 64, None)(step)
    torch.testing.assert_close(pseudo.label, label)
    assert pseudo.known["distances"].shape == (2, 3, 6, 4, 5)
    pseudo = References(20, 64, 8)(step)
    assert pseudo.label.shape == (2, label.shape[1], 4, 4, 4)
    torch.testing.assert_close(pseudo.label, pseudo.grid.of(label))


def test_labelled_and_unlabelled_images_of_different_sizes(labels):
    references, label, _ = tensors(*random_task(labels))
    _, _, queries = tensors(*random_task(labels, (7, 9), batch=1))
    task = references, label, queries
    expected = plain_source(*(values.double().numpy() for values in task), labels, 9, 5, 6)
    same(found_by(References(9, 5, 6), labels, task)[1], expected)


def test_moving_grid_hits_all_pixels_over_time(multilabel):
    """Each axis has its own phase: with one for both, only the diagonals of the cells were ever asked."""
    task = tensors(*random_task(multilabel, (12, 15), 1, 1))
    source = References(5, 4, 4, moving_grid=True)
    asked, phases = torch.zeros(12, 15), set()
    for iteration in range(100):
        pseudo = source(step_of(multilabel, *task, iteration=iteration))
        assert pseudo.grid.shape == (4, 4) and pseudo.label.shape == (1, 2, 4, 4)
        asked += pseudo.grid.spread(torch.ones(1, 1, 4, 4))[0, 0]
        phases.add(pseudo.grid.places)
    assert asked.min() > 0 and asked.max() < 25
    assert len(phases) > 9  # of some dozen
    again = source(step_of(multilabel, *task, iteration=99))
    assert again.grid == pseudo.grid and torch.equal(again.label, pseudo.label)
    assert source(step_of(multilabel, *task, iteration=99, seed=1)).grid != pseudo.grid


def test_moving_grid_gives_the_label_of_its_own_pixels():
    label = torch.from_numpy(np.random.default_rng(2).integers(0, 2, (1, 1, 20, 30)).astype(np.float32))
    task = distinctive((20, 30)), label, distinctive((20, 30))
    for iteration in range(5):
        pseudo, _ = found_by(References(50, 32, 8, moving_grid=True), ORGAN, task, iteration=iteration)
        assert torch.equal(pseudo.label, pseudo.grid.of(label))


def test_without_a_moving_grid_every_iteration_asks_the_middle(labels):
    task = tensors(*random_task(labels))
    for iteration in (1, 2):
        pseudo = References(5, 5, 5)(step_of(labels, *task, iteration=iteration))
        assert pseudo.grid == Grid.of_cells((10, 12), 5)


def test_no_gradient_reaches_the_features(labels):
    references, label, queries = tensors(*random_task(labels))
    task = references.requires_grad_(), label, queries.requires_grad_()
    assert not any(tensor.requires_grad for tensor in found_by(References(5, 4, 4), labels, task)[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_features_of_mixed_precision_give_a_label_and_full_precision_weights(labels, dtype):
    references, label, queries = random_task(labels)
    features = tensors(references, queries, dtype=dtype)
    step = step_of(labels, features[0], *tensors(label), features[1])
    step.network.final_conv.to(dtype)
    pseudo = References(9, 5, 5)(step)
    weight = ClassEntropy()(step, pseudo)
    rounded = [tensor.double().numpy() for tensor in features]
    expected = plain_source(rounded[0], label, rounded[1], labels, 9, 5, 5)
    assert weight.dtype == torch.float32
    np.testing.assert_array_equal(pseudo.label.numpy(), expected[0])
    np.testing.assert_allclose(weight.numpy(), expected[2], atol=1e-4)


def test_what_is_not_finite_is_left_to_the_loss(labels):
    """It ends the training there, with the images' names; nobody looks for it here, which would wait for a GPU."""
    references, label, queries = tensors(*random_task(labels))
    queries[1, 2, 5, 6] = math.nan
    _, (_, _, weight) = found_by(References(9, 5, None), labels, (references, label, queries))
    assert weight[1, 0, 5, 6].isnan() and weight.isnan().sum() == 1
    step = step_of(labels, references, label, queries)
    assert Match(References(9, 5, None), ClassEntropy())(step).isnan()
    references[0, 0, 1, 1] = math.inf  # the middle of a cell
    assert found_by(References(9, 5, 5), labels, (references, label, queries))[1][2].isnan().all()


@pytest.mark.parametrize("k", [32, 7000])
def test_a_count_of_all_references_is_warned_about_once(multilabel, caplog, k):
    task = tensors(*random_task(multilabel))
    source = References(k, 4, 4)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            found_by(source, multilabel, task)
    (record,) = caplog.records
    assert f"neighbors = {k} are all 32 references" in record.message


@pytest.mark.parametrize("k", [31, 0.57, 1.0])
def test_a_share_or_fewer_references_are_not_warned_about(multilabel, caplog, k):
    with caplog.at_level(logging.WARNING):
        found_by(References(k, 4, 4), multilabel, tensors(*random_task(multilabel)))
    assert not caplog.records


@pytest.mark.parametrize(("references", "warned"), [(1, False), (2, True)])
def test_a_single_reference_is_not_warned_about(caplog, references, warned):
    with caplog.at_level(logging.WARNING):
        References(2).warn(references)
    assert bool(caplog.records) == warned


@pytest.mark.parametrize("sizes", [{"reference_size": 0}, {"query_size": 0}])
def test_sizes_below_one_are_refused(sizes):
    with pytest.raises(ValueError, match=f"{next(iter(sizes))} must be at least 1, got 0"):
        References(**sizes)


@pytest.mark.parametrize("neighbors", [0, -3, 1.5, 0.0, -0.2])
def test_neighbours_out_of_range_are_refused(neighbors):
    with pytest.raises(ValueError, match=f"neighbors must be a positive number or a share.*got {neighbors}"):
        References(neighbors)


def test_a_single_class_needs_background_as_a_class():
    with pytest.raises(ValueError, match="of two or more classes, got one"):
        References(background=False).check(ORGAN)
    References().check(ORGAN)
    References(background=False).check(LabelSpace(["organ"], "multiclass"))
    References(background=False).check(LabelSpace(["organ", "other"]))


def test_what_it_needs():
    needs = References().needs
    assert (needs.unlabeled, needs.class_cover, needs.features) == (1, True, True)
    assert not needs.pairs and not needs.weak_gradients


def test_soft_labels_of_joined_images_count_as_what_is_most_probable(labels):
    """The pool of an image that has joined with probabilities is that of its decision."""
    generator = torch.Generator().manual_seed(0)
    outputs = 3 * torch.randn(2, labels.num_outputs, 6, 6, generator=generator)
    soft, hard = labels.probabilities(outputs), labels.predict(outputs)
    features = torch.randn(2, 3, 6, 6, generator=generator)
    unlabeled = torch.randn(2, 3, 6, 6, generator=generator)
    found = [found_by(References(20, 6, 6), labels, (features, label, unlabeled))[0] for label in (soft, hard)]
    assert torch.equal(found[0].label, found[1].label)
    torch.testing.assert_close(found[0].known["distances"], found[1].known["distances"])
