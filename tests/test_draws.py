"""Random numbers are those of their seed, iteration, rank and part, and of nothing else."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from common import draws
from common.draws import generator, normal, on_device


def numbers(*place):
    return generator(*place).random(4).tolist()


def test_repeated_calls_repeat():
    first = numbers(1, 2, "weak")
    numbers(5, 6, "strong")
    np.random.seed(3)
    torch.manual_seed(3)
    assert numbers(1, 2, "weak") == first


def test_seeds_iterations_parts_and_ranks_differ(monkeypatch):
    seen = set()
    for rank in (0, 1, 2):
        monkeypatch.setattr(draws, "rank", lambda rank=rank: rank)
        for seed, iteration, part in product((0, 1, 2), (0, 1, 2), ("weak", "strong", "weak labeled")):
            seen.add(tuple(numbers(seed, iteration, part)))
    assert len(seen) == 3**4


def test_parts_are_told_by_their_whole_names():
    names = ["", "a", "b", "ab", "ba", "CutMix 1", "CutMix 2", "weak labeled", "weak unlabeled"]
    assert len({tuple(numbers(0, 0, name)) for name in names}) == len(names)


def test_the_global_generators_are_left_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    normal((3,), generator(0, 0, "a"), torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])


def test_numbers_are_even():
    found = np.concatenate([generator(0, iteration, "a").random(5) for iteration in range(400)])
    assert abs(found.mean() - 0.5) < 0.02
    assert np.histogram(found, 10, (0, 1))[0].min() > 150


def test_normal_numbers():
    found = normal((50, 40), generator(0, 0, "a"), torch.device("cpu"))
    assert found.shape == (50, 40) and found.dtype == torch.float32
    assert abs(float(found.mean())) < 0.1 and abs(float(found.std()) - 1) < 0.05
    assert torch.equal(found, normal((50, 40), generator(0, 0, "a"), torch.device("cpu")))
    draw = generator(0, 0, "a")
    first, second = (normal((9,), draw, torch.device("cpu")) for _ in range(2))
    assert not torch.equal(first, second)  # the same draw goes on


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array([0.5, 1.5]), torch.float32),
        (np.float64(0.5), torch.float32),
        (np.array([1, 2], np.int32), torch.long),
        (np.array([True, False]), torch.bool),
        (np.array([1.0, 2.0, 3.0])[::-1], torch.float32),
        ([3, 4], torch.long),
        ([0.25], torch.float32),
    ],
)
def test_drawn_numbers_on_a_device(values, dtype):
    found = on_device(values, torch.zeros(2, dtype=torch.float64))
    assert found.dtype == dtype and found.shape == np.shape(values)
    np.testing.assert_array_equal(found.numpy(), np.asarray(values))
    assert on_device(values, torch.zeros(1, device="meta")).device.type == "meta"
