"""The proximity graph against hand-computed values and full matrices of distances in NumPy float64."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from common.curriculum.distances import candidates
from common.curriculum.proximity_graph import ProximityGraph


class FullMatrix:
    """Eq. 6 and 7 word for word: all distances to all training images again for every question."""

    def __init__(self, unlabeled, training, neighbors):
        self.unlabeled, self.training = (np.asarray(a, np.float64) for a in (unlabeled, training))
        self.neighbors, self.joined = neighbors, []

    @property
    def remaining(self):
        return [i for i in range(len(self.unlabeled)) if i not in self.joined]

    def nearest(self, row):
        members = [(j, latent) for j, latent in enumerate(self.training)]
        members += [(len(self.training) + i, self.unlabeled[i]) for i in self.joined]
        distances = [(np.sqrt(((self.unlabeled[row] - latent) ** 2).sum()), id_) for id_, latent in members]
        return sorted(distances, key=lambda pair: pair[0])[: self.neighbors]

    def score(self, row):
        return sum(distance for distance, _ in self.nearest(row))

    def select(self, k):
        return sorted(self.remaining, key=self.score)[:k]


def normal(number, features, seed):
    return torch.randn(number, features, generator=torch.Generator().manual_seed(seed))


def whole(number, features, seed, values=3):
    """Latents of small whole numbers: their squared distances are exact, and full of ties."""
    return torch.randint(0, values, (number, features), generator=torch.Generator().manual_seed(seed)).float()


def same_tables(graph, plain):
    rows = plain.remaining
    assert graph.remaining.tolist() == rows
    expected = [plain.nearest(row) for row in rows]
    distances, ids = graph.nearest(rows)
    known = len(expected[0])
    assert ids[:, :known].tolist() == [[id_ for _, id_ in nearest] for nearest in expected]
    assert (ids[:, known:] == -1).all() and distances[:, known:].isinf().all()
    np.testing.assert_allclose(
        distances[:, :known], [[distance for distance, _ in nearest] for nearest in expected], rtol=1.2e-7
    )
    np.testing.assert_allclose(graph.scores(rows), [plain.score(row) for row in rows], rtol=1.2e-7)


@pytest.mark.parametrize("offset", [0, 300])
@pytest.mark.parametrize(("neighbors", "training", "k"), [(5, 7, 9), (1, 1, 13), (4, 2, 6)])
def test_all_steps_as_from_the_full_matrix(neighbors, training, k, offset):
    latents = normal(60, 24, 1) + offset, normal(training, 24, 2) + offset
    graph, plain = ProximityGraph(*latents, neighbors, chunk=(17, 5)), FullMatrix(*latents, neighbors)
    while plain.remaining:
        same_tables(graph, plain)
        rows = graph.select(k)
        assert rows.tolist() == plain.select(k)
        graph.join(rows)
        plain.joined += rows.tolist()
    assert len(graph.remaining) == 0 and graph.joined.tolist() == plain.joined
    assert len(graph.select(k)) == 0


def test_hand_computed_on_a_line():
    graph = ProximityGraph(torch.tensor([[3.0], [1.0], [-4.0], [10.0]]), torch.tensor([[0.0], [2.0]]), neighbors=2)
    assert graph.scores([0, 1, 2, 3]).tolist() == [4, 2, 10, 18]
    assert graph.select(2).tolist() == [1, 0]
    graph.join([1, 0])  # training is now 0, 2, 1 and 3
    assert graph.remaining.tolist() == [2, 3] and graph.joined.tolist() == [1, 0]
    distances, ids = graph.nearest([2, 3])
    assert distances.tolist() == [[4, 5], [7, 8]]
    assert ids.tolist() == [[0, 2 + 1], [2 + 0, 1]]
    assert graph.select(1).tolist() == [2]
    assert graph.scores([0, 1]).tolist() == [4, 2]  # as they were when they joined


def test_ties_go_to_the_lower_index_and_to_who_was_there_first():
    graph = ProximityGraph(torch.tensor([[1.0], [-1.0], [1.0], [0.0]]), torch.tensor([[0.0], [0.0]]), neighbors=2)
    assert graph.select(4).tolist() == [3, 0, 1, 2]
    graph.join([3, 2])
    assert graph.nearest([1])[1].tolist() == [[0, 1]]
    assert graph.nearest([0])[1].tolist() == [[2 + 2, 0]]
    assert graph.nearest([0])[0].tolist() == [[0, 1]]


def test_many_ties_and_duplicates_of_whole_numbers():
    latents = whole(80, 3, 3), whole(6, 3, 4)
    graph, plain = ProximityGraph(*latents, 4, chunk=(7, 3)), FullMatrix(*latents, 4)
    for _ in range(6):
        same_tables(graph, plain)
        rows = graph.select(11)
        assert rows.tolist() == plain.select(11)
        graph.join(rows)
        plain.joined += rows.tolist()


@pytest.mark.parametrize("chunk", [1, 3, (1, 50), (50, 1), (8, 4), 1000])
def test_the_chunk_does_not_matter(chunk):
    unlabeled = torch.cat([normal(40, 300, 5), normal(10, 300, 5)])  # the last ten are the first ten again
    graphs = [ProximityGraph(unlabeled, normal(9, 300, 6), 5, size) for size in (None, chunk)]
    for _ in range(4):
        rows = [graph.select(8) for graph in graphs]
        assert rows[0].tolist() == rows[1].tolist()
        for graph in graphs:
            graph.join(rows[0])
        assert torch.equal(graphs[0].distances, graphs[1].distances)
        assert torch.equal(graphs[0].ids, graphs[1].ids)


@pytest.mark.parametrize("near", [1e-3, 1e-5])
def test_distances_of_nearly_equal_latents_are_right_to_the_last_digits(near):
    """Where ||a||^2 + ||b||^2 - 2 ab in float32 has no right digit left."""
    training = normal(12, 512, 7) * 20
    unlabeled = training.repeat(3, 1) + near * normal(36, 512, 8)
    plain = FullMatrix(unlabeled, training, 2)
    graph = ProximityGraph(unlabeled, training, 2)
    same_tables(graph, plain)
    product = (unlabeled**2).sum(1)[:, None] + (training**2).sum(1) - 2 * unlabeled @ training.T
    exact = np.array([plain.nearest(row)[0][0] for row in range(36)])
    assert np.abs(product.amin(1).clamp(min=0).sqrt().numpy() / exact - 1).max() > 0.05


@pytest.mark.parametrize("spread", [1e-4, 1e-2, 1.0])
def test_candidates_hold_all_who_are_near(spread):
    """A tight cluster far from the middle, where the bound of the rounding errors decides."""
    rows, new = (normal(n, 64, seed) * spread + 5 for n, seed in ((50, 9), (40, 10)))
    distances = (rows.double()[:, None] - new.double()).norm(dim=2)
    kth = distances.sort(1).values[:, 3]
    found = candidates(rows, new, torch.full((50,), torch.inf), 4)
    assert found[distances <= kth[:, None]].all()
    assert found.sum(1).double().mean() < (10 if spread == 1 else 41)
    half = kth.float() * 0.99
    assert candidates(rows, new, half, 4)[distances <= half[:, None]].all()


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1e15])
def test_very_small_and_very_large_latents(scale):
    latents = normal(30, 6, 11), normal(8, 6, 12)
    graphs = [ProximityGraph(*(latent * factor for latent in latents), 3) for factor in (1, scale)]
    for graph in graphs:
        graph.join(graph.select(5))
    assert torch.equal(graphs[0].ids, graphs[1].ids)
    torch.testing.assert_close(graphs[1].distances / scale, graphs[0].distances, rtol=1e-5, atol=0)


def test_fewer_training_images_than_neighbours():
    graph = ProximityGraph(torch.tensor([[3.0], [1.0], [5.0]]), torch.zeros(1, 1), neighbors=3)
    assert graph.scores([0, 1, 2]).tolist() == [3, 1, 5]
    assert graph.nearest([0])[1].tolist() == [[0, -1, -1]]
    graph.join(graph.select(1))
    assert graph.scores([0, 2]).tolist() == [3 + 2, 5 + 4]


def test_selecting_more_than_are_left_gives_all_the_rest():
    graph = ProximityGraph(normal(7, 4, 13), normal(3, 4, 14))
    graph.join(graph.select(4))
    rest = graph.select(100)
    assert sorted(rest.tolist()) == graph.remaining.tolist() and len(rest) == 3


def test_no_unlabelled_images():
    graph = ProximityGraph(torch.zeros(0, 4), normal(3, 4, 14))
    graph.join([])
    assert len(graph.select(5)) == 0
    graph.load_state_dict(graph.state_dict())


def test_latents_are_kept_by_reference():
    latents = normal(7, 4, 13).requires_grad_(), normal(3, 4, 14)
    graph = ProximityGraph(*latents)
    assert graph.unlabeled.data_ptr() == latents[0].data_ptr() and graph.training.data_ptr() == latents[1].data_ptr()
    assert not graph.unlabeled.requires_grad


def test_a_loaded_state_goes_on_as_if_nothing_had_happened():
    latents = normal(50, 32, 15), normal(6, 32, 16)
    graph = ProximityGraph(*latents)
    for _ in range(2):
        graph.join(graph.select(7))
    file = io.BytesIO()
    torch.save(graph.state_dict(), file)
    file.seek(0)
    resumed = ProximityGraph(*latents)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    while len(graph.remaining):
        assert torch.equal(graph.distances, resumed.distances) and torch.equal(graph.ids, resumed.ids)
        rows = graph.select(7)
        assert torch.equal(rows, resumed.select(7))
        graph.join(rows)
        resumed.join(rows)
    assert torch.equal(graph.joined, resumed.joined)


def test_a_state_is_a_copy():
    graph = ProximityGraph(normal(20, 4, 15), normal(6, 4, 16))
    state = graph.state_dict()
    before = {name: torch.as_tensor(value).clone() for name, value in state.items()}
    other = ProximityGraph(normal(20, 4, 15), normal(6, 4, 16))
    other.load_state_dict(state)
    for each in (graph, other):
        each.join(each.select(5))
    assert all(torch.equal(torch.as_tensor(state[name]), value) for name, value in before.items())


def test_a_state_of_other_latents_is_refused():
    state = ProximityGraph(normal(50, 32, 15), normal(6, 32, 16)).state_dict()
    with pytest.raises(ValueError, match=r"of 50 unlabelled images .* expected 49"):
        ProximityGraph(normal(49, 32, 15), normal(6, 32, 16)).load_state_dict(state)
    with pytest.raises(ValueError, match="other latents: unlabelled image 0"):
        ProximityGraph(normal(50, 32, 17), normal(6, 32, 16)).load_state_dict(state)
    nearly = ProximityGraph(normal(50, 32, 15) * (1 + 1e-6), normal(6, 32, 16))
    nearly.load_state_dict(state)


def test_latents_that_do_not_fit():
    good = normal(5, 4, 1)
    with pytest.raises(ValueError, match=r"unlabeled must be float32 .*float64 of shape \(5, 4\)"):
        ProximityGraph(good.double(), good)
    with pytest.raises(ValueError, match=r"training must be float32 .* shape \(5, 2, 2\)"):
        ProximityGraph(good, good.reshape(5, 2, 2))
    with pytest.raises(ValueError, match=r"same number of features, .* got 4 and 3"):
        ProximityGraph(good, good[:, :3])
    with pytest.raises(ValueError, match="at least one image, got none"):
        ProximityGraph(good, good[:0])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_latents_that_are_not_finite_are_named(value):
    bad = normal(30, 4, 1)
    bad[3, 2] = bad[17, 0] = value
    with pytest.raises(ValueError, match=r"unlabeled must be finite .* 2 of 30 are not: rows 3, 17\. Look"):
        ProximityGraph(bad, normal(5, 4, 1))
    bad[:] = value
    with pytest.raises(ValueError, match=r"training must be finite .* rows 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, \.\.\. Look"):
        ProximityGraph(normal(5, 4, 1), bad)


def test_numbers_and_rows_that_do_not_fit():
    latents = normal(5, 4, 1), normal(3, 4, 2)
    with pytest.raises(ValueError, match="neighbors must be at least 1, got 0"):
        ProximityGraph(*latents, neighbors=0)
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        ProximityGraph(*latents, chunk=(4, 0))
    graph = ProximityGraph(*latents)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        graph.select(0)
    with pytest.raises(ValueError, match="0 to 4, got 5"):
        graph.join([1, 5])
    with pytest.raises(ValueError, match="0 to 4, got -1"):
        graph.scores([-1])
    with pytest.raises(ValueError, match=r"got torch.float32"):
        graph.nearest([0.5])
    with pytest.raises(ValueError, match="once, got 2 again"):
        graph.join([2, 1, 2])
    assert len(graph.remaining) == 5
    graph.join([2])
    with pytest.raises(ValueError, match="once, got 2 again"):
        graph.join([1, 2])
    assert graph.remaining.tolist() == [0, 1, 3, 4]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_selects_what_the_cpu_does():
    latents = normal(500, 2048, 18), normal(21, 2048, 19)
    graph, on_gpu = ProximityGraph(*latents), ProximityGraph(*(latent.cuda() for latent in latents))
    while len(graph.remaining):
        rows = graph.select(60)
        assert on_gpu.select(60).device.type == "cuda" and on_gpu.select(60).tolist() == rows.tolist()
        graph.join(rows)
        on_gpu.join(rows)
        assert torch.equal(on_gpu.ids.cpu(), graph.ids)
        torch.testing.assert_close(on_gpu.distances.cpu(), graph.distances, rtol=2.4e-7, atol=0)
