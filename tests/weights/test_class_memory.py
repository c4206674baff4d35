"""The memory against Python's own queues, and which pixels are drawn for it."""

from __future__ import annotations

from collections import Counter, deque

import numpy as np
import pytest
import torch

from common.draws import generator
from common.weights.class_memory import ClassMemory, draw_pixels


def memory_of(classes, size, width):
    memory = ClassMemory(size)
    memory.prepare(classes, width, torch.device("cpu"))
    return memory


@pytest.mark.parametrize("number", [2, 5, 12])  # fewer than there is room for, as many, and more
def test_it_holds_the_last_features_of_each_class(number):
    rng = np.random.default_rng(number)
    memory, queues = memory_of(3, 5, 4), [deque(maxlen=5) for _ in range(3)]
    for _ in range(20):
        features = rng.normal(size=(3, number, 4)).astype(np.float32)
        there = rng.random((3, number)) < 0.4
        memory.add(torch.from_numpy(features), torch.from_numpy(there))
        for label in range(3):
            queues[label].extend(features[label][there[label]])
        means, known = memory.prototypes()
        for label, queue in enumerate(queues):
            assert known[label].item() == bool(queue)
            expected = np.mean(queue, axis=0) if queue else np.zeros(4)
            np.testing.assert_allclose(means[label].double().numpy(), expected, atol=1e-6)
            held = memory.features[label, : len(queue)].numpy()
            assert sorted(map(tuple, held)) == sorted(map(tuple, queue))
    assert (memory.added > 5).all()


def test_by_hand():
    memory = memory_of(2, 2, 1)
    memory.add(torch.tensor([[[1.0], [9.0], [2.0]], [[8.0], [8.0], [8.0]]]), torch.tensor([[1, 0, 1], [0, 0, 0]]) > 0)
    means, known = memory.prototypes()
    assert means.tolist() == [[1.5], [0]] and known.tolist() == [True, False]
    memory.add(torch.tensor([[[5.0]], [[3.0]]]), torch.ones(2, 1, dtype=torch.bool))
    means, known = memory.prototypes()
    assert means.tolist() == [[3.5], [3]] and known.tolist() == [True, True]  # the 1 is gone
    assert memory.added.tolist() == [3, 1]


def test_its_state_goes_on_where_it_was():
    one, other = memory_of(2, 3, 2), memory_of(2, 3, 2)
    there = torch.ones(2, 2, dtype=torch.bool)
    one.add(torch.rand(2, 2, 2), there)
    other.load_state_dict(one.state_dict())
    later = torch.rand(2, 2, 2)
    for memory in (one, other):
        memory.add(later, there)
    assert set(one.state_dict()) == {"features", "added"}
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())


def test_bad_size():
    with pytest.raises(ValueError, match="memory must keep at least 1 feature of each class, got 0"):
        ClassMemory(0)


# ---- which pixels


@pytest.mark.parametrize("size", [(6, 5), (3, 4, 5)])
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_drawn_pixels_are_of_their_class_and_each_is_drawn_once(size, layout):
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(size=(2, 4, *size))).float()
    if layout == "channels last":
        features = features.to(memory_format=torch.channels_last if len(size) == 2 else torch.channels_last_3d)
    classes = torch.from_numpy(rng.choice([-1, 0, 1, 3], (2, 1, *size), p=[0.5, 0.4, 0.05, 0.05]))
    found, there = draw_pixels(features, classes, 4, 10, generator(0, 1, "test"))
    assert found.shape == (4, 10, 4)
    rows, kinds = features.movedim(1, -1).reshape(-1, 4), classes.flatten()
    for label in range(4):
        mine = [tuple(row) for row in found[label, there[label]].tolist()]
        known = [tuple(row) for row in rows[kinds == label].tolist()]
        assert len(mine) == min(10, len(known)) and len(set(mine)) == len(mine) and set(mine) <= set(known)
    assert there.sum(1).tolist()[0] == 10 and there.sum(1).tolist()[2] == 0


def test_of_classes_that_overlap_a_pixel_may_be_drawn_for_several():
    features, classes = torch.arange(4.0).view(1, 1, 2, 2), torch.tensor([[[[0, 2], [2, -1]], [[3, 1], [3, 3]]]])
    found, there = draw_pixels(features, classes, 4, 5, generator(0, 1, "test"))
    values = [sorted(found[label, there[label], 0].tolist()) for label in range(4)]
    assert values == [[0], [1], [1, 2], [0, 2, 3]]


def test_every_pixel_is_drawn_as_often_as_any_other():
    features, classes = torch.arange(8.0).view(1, 1, 2, 4), torch.zeros(1, 1, 2, 4, dtype=torch.long)
    counts = Counter()
    for iteration in range(1200):
        found, there = draw_pixels(features, classes, 1, 2, generator(0, iteration, "test"))
        assert there.all()
        counts.update(found.flatten().tolist())
    assert set(counts) == set(range(8))
    assert all(240 < count < 360 for count in counts.values())  # 300 of each, with a spread of 15
