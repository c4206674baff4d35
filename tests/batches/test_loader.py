"""The batch of an iteration is a function of its number alone."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from monai.data import CacheDataset, Dataset
from torch.utils.data import DataLoader

from common.data import PairedBatches, PairedLoader


@pytest.fixture
def make_batches(make_dataset, labels):
    def make(seed=0, unlabeled=5, rank=0, world_size=1, **sizes):
        others = make_dataset(labels, unlabeled, "unlabeled", label_key="truth")
        sizes = {"labeled_batch": 2, "unlabeled_batch": 2, **sizes}
        batches = PairedBatches(make_dataset(labels), others, labels, seed=seed, **sizes)
        batches.rank, batches.world_size = rank, world_size
        return batches

    return make


def content(batch):
    """Everything in a batch, as plain values to compare."""
    found = []
    for part, items in batch.items():
        for key, value in items.items():
            found.append((part, key, value.meta["filename_or_obj"], value.as_tensor().tolist()))
    return found


def names(batch, part="unlabeled"):
    return batch[part]["image"].meta["filename_or_obj"]


def test_batch_depends_on_seed_and_iteration_alone(make_batches):
    batches, fresh = make_batches(), make_batches()
    in_order = [content(batches[iteration]) for iteration in range(6)]
    torch.manual_seed(123)
    assert content(fresh[4]) == in_order[4]  # nothing drawn before
    assert content(fresh[1]) == in_order[1]  # backwards
    assert content(batches[1]) == in_order[1]  # once more
    assert content(make_batches(seed=1)[1]) != in_order[1]
    assert len({str(each) for each in in_order}) == 6


def test_cached_data_sets_give_the_same_batches(make_batches):
    batches = make_batches()
    cached = make_batches()
    for part in ("labeled", "unlabeled"):
        dataset = getattr(cached, part)
        setattr(cached, part, CacheDataset(dataset.data, dataset.transform, progress=False))
    assert [content(cached[t]) for t in (3, 0, 3)] == [content(batches[t]) for t in (3, 0, 3)]


def test_shapes_and_parts(make_batches, labels):
    batch = make_batches(labeled_batch=3)[0]
    channels = 2 if labels.multilabel else 1
    assert batch["labeled"]["image"].shape == (3, 1, 8, 8)
    assert batch["labeled"]["label"].shape == (3, channels, 8, 8)
    assert batch["unlabeled"]["image"].shape == (2, 1, 8, 8)
    assert batch["unlabeled"]["truth"].shape == (2, channels, 8, 8)
    assert all(name.startswith("labeled") for name in names(batch, "labeled"))
    assert all(name.startswith("unlabeled") for name in names(batch))


def test_the_same_image_is_augmented_anew_each_time(make_batches):
    batches = make_batches(unlabeled=1, unlabeled_batch=2)
    first, second = batches[0]["unlabeled"]["image"], batches[1]["unlabeled"]["image"]
    images = [*first.as_tensor(), *second.as_tensor()]
    assert all((a != b).any() for i, a in enumerate(images) for b in images[:i])


@pytest.mark.parametrize(("number", "batch"), [(5, 2), (5, 5), (3, 4), (6, 2)])
def test_unlabelled_images_come_once_in_each_pass(make_batches, number, batch):
    batches = make_batches(unlabeled=number, unlabeled_batch=batch)
    stream = [name for iteration in range(4 * number) for name in names(batches[iteration])]
    passes = [stream[start : start + number] for start in range(0, len(stream), number)]
    assert all(len(set(each)) == number for each in passes)
    assert len({tuple(each) for each in passes}) > 1  # in different orders


def test_ranks_share_a_pass_among_them(make_batches):
    ranks = [make_batches(unlabeled=6, unlabeled_batch=1, rank=rank, world_size=2) for rank in range(2)]
    stream = [names(batches[iteration])[0] for iteration in range(6) for batches in ranks]
    assert sorted(stream[:6]) == sorted(stream[6:]) == [f"unlabeled{index}.png" for index in range(6)]
    labeled = [[content(batches[t])[0] for t in range(4)] for batches in ranks]
    assert labeled[0] != labeled[1]


def test_every_class_is_in_every_pool(make_dataset, multilabel):
    dataset = make_dataset(multilabel, 5)
    for index, item in enumerate(dataset.data):
        item["label"][1 if index else 0] = 0  # heart in the first image alone, which lacks the lung
    batches = PairedBatches(dataset, None, multilabel, labeled_batch=2)
    for iteration in range(40):
        label = batches[iteration]["labeled"]["label"]
        assert label.flatten(2).any(dim=2).any(dim=0).all()
    assert len({tuple(names(batches[iteration], "labeled")) for iteration in range(40)}) > 4


@pytest.mark.parametrize("unlabeled", [None, Dataset([])])
def test_without_unlabelled_images_a_batch_has_labelled_ones_alone(make_dataset, labels, unlabeled):
    batches = PairedBatches(make_dataset(labels), unlabeled, labels, 2)
    assert list(batches[0]) == ["labeled"]


def test_truth_known_for_some_images_only_is_left_out_where_one_lacks_it(make_batches):
    batches = make_batches(unlabeled=4)
    for index in (0, 1):
        del batches.unlabeled.data[index]["truth"]
    seen = {}
    for iteration in range(20):
        batch = batches[iteration]
        known = all(name in ("unlabeled2.png", "unlabeled3.png") for name in names(batch))
        seen[known] = True
        assert ("truth" in batch["unlabeled"]) == known
        assert batch["unlabeled"]["image"].shape == (2, 1, 8, 8)
    assert set(seen) == {True, False}


@pytest.mark.parametrize("sizes", [{"labeled_batch": 0}, {"unlabeled_batch": 0}])
def test_empty_batches_are_refused(make_batches, sizes):
    with pytest.raises(ValueError, match=f"{next(iter(sizes))} must be at least 1, got 0"):
        make_batches(**sizes)


def test_fewer_labelled_images_than_p_are_refused(make_batches):
    with pytest.raises(ValueError, match="got 5 with 4 labelled images"):
        make_batches(labeled_batch=5)


def test_a_class_that_no_labelled_image_shows_is_named(make_dataset, multilabel):
    dataset = make_dataset(multilabel)
    for item in dataset.data:
        item["label"][1] = 0
    with pytest.raises(ValueError, match="none with heart"):
        PairedBatches(dataset, None, multilabel, 2)


def test_loader_counts_what_it_gave_and_goes_on_from_there(make_batches):
    loader = PairedLoader(make_batches(), iterations=3)
    assert len(loader) == 3
    whole = [content(batch) for batch in islice(loader, 7)]  # endless: an epoch's end is the trainer's affair
    assert loader.state_dict() == {"position": 7}
    resumed = PairedLoader(make_batches(), iterations=3)
    resumed.load_state_dict({"position": 4})
    assert [content(batch) for batch in islice(resumed, 3)] == whole[4:]
    assert resumed.state_dict() == {"position": 7}


def test_workers_do_not_change_the_batches(make_batches):
    alone = [content(batch) for batch in islice(PairedLoader(make_batches()), 5)]
    loader = PairedLoader(make_batches(), num_workers=2)
    loader.load_state_dict({"position": 1})
    stream = iter(loader)
    assert [content(next(stream)) for _ in range(4)] == alone[1:]
    assert loader.state_dict() == {"position": 5}  # and not how far the workers are ahead


def test_loading_leaves_torch_s_generator_alone(make_batches):
    """What a resumed run draws from it (dropout) must not depend on how often a loader was started."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    next(iter(PairedLoader(make_batches())))
    assert torch.equal(torch.get_rng_state(), before)
    next(iter(DataLoader([1, 2])))  # a plain loader does draw
    assert not torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("iterations", [0, -3])
def test_epochs_without_iterations_are_refused(make_batches, iterations):
    with pytest.raises(ValueError, match=f"iterations must be at least 1, got {iterations}"):
        PairedLoader(make_batches(), iterations)
