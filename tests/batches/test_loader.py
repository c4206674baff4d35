"""Batches one after the other: the same ones however they are prepared, from any position on."""

from __future__ import annotations

import gc
import threading
import time

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from torch import Tensor
from torch.utils.data import DataLoader

from common.batches import Loader, TrainingImage
from common.label_space import LabelSpace
from common.methods import RPG, Popcorn, Supervised


def content(found):
    """Everything in a batch, as plain values to compare."""
    if callable(found):
        found = found()
    if isinstance(found, dict):
        return {key: content(value) for key, value in found.items()}
    return found.tolist() if isinstance(found, Tensor) else found


class Numbers:
    """Stands for batches: each is its own number, and who made it is known."""

    resident = False

    def __init__(self, bad: int | None = None, wait: float = 0.0) -> None:
        self.bad, self.wait, self.asked, self.threads = bad, wait, [], set()

    def __getitem__(self, iteration: int) -> int:
        self.asked.append(iteration)
        self.threads.add(threading.current_thread())
        time.sleep(self.wait)
        if iteration == self.bad:
            raise OSError(f"scan{iteration}.nii.gz is gone")
        return iteration


def test_an_epoch_has_a_length_and_the_next_goes_on(make_batches, labels):
    batches = make_batches(RPG(labels))
    loader = Loader(batches, iterations=3)
    assert len(loader) == 3
    epochs = [[content(batch) for batch in loader] for _ in range(2)]
    assert [len(epoch) for epoch in epochs] == [3, 3]
    assert epochs[0] + epochs[1] == [content(batches[t]) for t in range(6)]
    assert loader.state_dict() == {"position": 6}


@pytest.mark.parametrize("num_workers", [0, 1, 3])
@pytest.mark.parametrize("kind", [RPG, Popcorn])
def test_threads_do_not_change_the_batches(make_batches, multilabel, kind, num_workers):
    batches = make_batches(kind(multilabel))
    expected = [content(batches[t]) for t in range(7)]
    loader = Loader(make_batches(kind(multilabel)), 6, num_workers)
    loader.load_state_dict({"position": 1})
    torch.manual_seed(num_workers)  # nor does what others draw
    assert [content(batch) for batch in loader] == expected[1:]


@pytest.mark.parametrize("num_workers", [0, 2, 5])
def test_position_is_what_was_given_not_what_was_prepared(num_workers):
    loader = Loader(Numbers(), 4, num_workers)
    stream = iter(loader)
    assert loader.state_dict() == {"position": 0}
    assert [next(stream) for _ in range(3)] == [0, 1, 2]
    assert loader.state_dict() == {"position": 3}
    resumed = Loader(Numbers(), 4, num_workers)
    resumed.load_state_dict(loader.state_dict())
    assert list(resumed) == [3, 4, 5, 6]
    assert resumed.state_dict() == {"position": 7}


@pytest.mark.parametrize(("num_workers", "ahead"), [(0, 0), (1, 2), (3, 4)])
def test_batches_are_prepared_a_few_ahead_and_not_beyond_the_epoch(num_workers, ahead):
    batches = Numbers()
    stream = iter(Loader(batches, 10, num_workers))
    for number in range(10):
        assert next(stream) == number
        deadline = time.monotonic() + 5
        expected = min(10, number + 1 + ahead)
        while len(batches.asked) < expected and time.monotonic() < deadline:
            time.sleep(0.001)
        assert sorted(batches.asked) == list(range(expected))
    with pytest.raises(StopIteration):
        next(stream)


@pytest.mark.parametrize(("num_workers", "resident"), [(0, False), (2, True), (2, False)])
def test_threads_read_files_alone(num_workers, resident):
    """What lies on the device is cut by the process itself."""
    batches = Numbers()
    batches.resident = resident
    list(Loader(batches, 5, num_workers))
    mine = threading.current_thread() in batches.threads
    assert mine == (resident or not num_workers)
    assert len(batches.threads) <= max(1, num_workers)


@pytest.mark.parametrize("num_workers", [0, 1, 3])
@pytest.mark.parametrize("bad", [0, 2, 6])
def test_an_error_reaches_the_caller_in_its_turn(num_workers, bad):
    given = []
    with pytest.raises(OSError, match=f"scan{bad}.nii.gz is gone"):
        for number in Loader(Numbers(bad), 8, num_workers):
            given.append(number)
    assert given == list(range(bad))
    assert threads_left() == []


def threads_left():
    gc.collect()
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ThreadPool")]


def test_a_loop_that_is_left_ends_the_threads():
    batches = Numbers(wait=0.01)
    for number in Loader(batches, 1000, 3):
        if number == 2:
            break
    assert threads_left() == []
    asked = len(batches.asked)
    assert asked <= 3 + 4 + 3  # what was given, ahead, and under way
    time.sleep(0.05)
    assert len(batches.asked) == asked


def test_threads_end_with_their_epoch():
    assert list(Loader(Numbers(), 5, 3)) == [0, 1, 2, 3, 4]
    assert threads_left() == []


def test_loading_leaves_torch_s_generator_alone(make_batches, labels):
    """What a resumed run draws from it (dropout) must not depend on how often a loader was started."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    list(Loader(make_batches(RPG(labels)), 2))
    assert torch.equal(torch.get_rng_state(), before)
    next(iter(DataLoader([1, 2])))  # a plain loader does draw
    assert not torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_images_that_join_between_two_epochs_are_in_the_next(make_batches, store, num_workers):
    """A trainer asks for the next epoch's batches once the images have joined."""
    labels = LabelSpace(["lesion"])
    batches = make_batches(Supervised(labels), labeled_batch=4, labeled_share=0.0)
    loader = Loader(batches, 5, num_workers)
    held = store({"pseudo.png": {"image": np.ones((1, 16, 16))}})
    seen = []

    def step(engine, batch):
        time.sleep(0.005)  # threads could run ahead
        seen.append(batch["labeled"]["name"].count("pseudo.png"))

    engine = Engine(step)

    @engine.on(Events.EPOCH_STARTED)
    def join():
        for _ in range(100 * (engine.state.epoch == 3)):
            batches.join(TrainingImage(held, 0, mask=np.ones((1, 16, 16), np.uint8)))

    engine.run(loader, max_epochs=4)
    assert seen[:10] == [0] * 10
    assert min(seen[10:]) > 0
    assert loader.position == 20


def test_settings_are_the_epochs_and_the_batches(make_batches, labels):
    batches = make_batches(RPG(labels))
    loader = Loader(batches, 7)
    assert loader.settings() == {"iterations": 7, **batches.settings()}


@pytest.mark.parametrize(("iterations", "num_workers"), [(0, 0), (-3, 1), (1, -1)])
def test_numbers_out_of_range(make_batches, labels, iterations, num_workers):
    with pytest.raises(ValueError, match=f"got {iterations} and {num_workers}"):
        Loader(make_batches(RPG(labels)), iterations, num_workers)
    assert list(Loader(Numbers(), 1, 0)) == [0]
    assert (len(Loader(Numbers())), Loader(Numbers()).num_workers) == (50, 2)  # an epoch of the paper; two threads
