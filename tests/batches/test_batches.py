"""The batch of an iteration: a function of its number, with what the method needs, windows where they ought to be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from coordinates import coordinates, direction_of, first_of, number_of
from torch import Tensor

from common.batches import Batches, TrainingImage
from common.batches import batches as module
from common.curriculum import Joining
from common.label_space import LabelSpace
from common.methods import RPG, FixMatch, Method, MultiTaskAttention, NearestNeighbor, Popcorn, Supervised
from common.views import Affine, Chain, Flip, IntensityJitter, Values

LESION = LabelSpace(["lesion"])
SIZE = (16, 16, 16)
POPCORN = Popcorn(LESION)


def content(found):
    """Everything in a batch, as plain values to compare."""
    if callable(found):
        found = found()
    if isinstance(found, dict):
        return {key: content(value) for key, value in found.items()}
    return (tuple(found.shape), found.numpy().tobytes()) if isinstance(found, Tensor) else found


def volumes(shapes=((40, 44, 36), (40, 44, 36)), lesion=True):
    """Images of coordinates by name; each has one pixel of a lesion."""
    arrays = {}
    for index, shape in enumerate(shapes):
        label = np.zeros((1, *shape), np.uint8)
        if lesion:
            label[(0, 5 + index, 6, 7)[: 1 + len(shape)]] = 1
        arrays[f"scan{index}"] = {"image": coordinates(shape, index + 1), "label": label}
    return arrays


@pytest.fixture
def patches(store):
    """``patches(arrays, method, unlabeled, **settings)``: batches of patches around zeros, not augmented."""

    def make(arrays=None, method=POPCORN, unlabeled=None, **settings):
        if unlabeled is None:
            unlabeled = {"other": {"image": coordinates(SIZE)}}
        settings = {"patch_size": SIZE, "value_range": None, "labeled_batch": 6, **settings}
        arrays = volumes() if arrays is None else arrays
        return Batches(store(arrays), store(unlabeled), method.labels, method, **settings)

    return make


def labeled_images(batches, iterations):
    return [image for t in range(iterations) for image in batches[t]["labeled"]["image"]]


# ---- what a batch holds


@pytest.mark.parametrize("kind", [Supervised, Popcorn, FixMatch, RPG, MultiTaskAttention])
@pytest.mark.parametrize("size", [(16, 16), (16, 32, 16)])
def test_a_batch_holds_what_the_method_needs(make_batches, labels, kind, size):
    method = kind(labels)
    batch = make_batches(method, size, labeled_batch=4, unlabeled_batch=3)[1]
    needs = method.needs
    assert list(batch) == ["labeled", "values", *["unlabeled"] * (needs.unlabeled > 0)]
    assert list(batch["labeled"]) == ["image", "name", "label", *["pairs"] * needs.pairs]
    assert batch["values"] == Values(0, 1, clamp=True, background=None)
    channels = 2 if labels.multilabel else 1
    assert batch["labeled"]["image"].shape == (4, 1, *size)
    assert batch["labeled"]["label"].shape == (4, channels, *size)
    assert len(batch["labeled"]["name"]) == 4
    assert all(name.startswith("labeled") for name in batch["labeled"]["name"])
    tensors = [batch["labeled"]["image"], batch["labeled"]["label"]]
    if "unlabeled" in batch:
        assert list(batch["unlabeled"]) == ["image", "name", "truth"]
        assert batch["unlabeled"]["image"].shape == (3, 1, *size)
        assert batch["unlabeled"]["truth"]().shape == (3, channels, *size)
        assert all(name.startswith("unlabeled") for name in batch["unlabeled"]["name"])
        tensors += [batch["unlabeled"]["image"], batch["unlabeled"]["truth"]()]
    assert all(type(tensor) is Tensor and tensor.dtype == torch.float32 for tensor in tensors)
    if needs.pairs:
        assert batch["labeled"]["pairs"].tolist() == [[0, 2], [1, 3]]


@pytest.mark.parametrize("kind", [Supervised, Popcorn])
def test_who_does_without_unlabelled_images_gets_none(make_batches, kind, monkeypatch):
    batches = make_batches(kind(LESION))
    monkeypatch.setattr(Batches, "_unlabeled", None)  # nor are they read
    assert "unlabeled" not in batches[0]


@pytest.mark.parametrize("size", [(16, 16), (16, 16, 16)])
@pytest.mark.parametrize("kind", [RPG, Popcorn])
def test_a_batch_depends_on_seed_and_iteration_alone(make_batches, labels, kind, size):
    method = kind(labels)
    batches, fresh = make_batches(method, size), make_batches(method, size)
    in_order = [content(batches[iteration]) for iteration in range(5)]
    torch.manual_seed(123)
    np.random.seed(1)
    assert content(fresh[4]) == in_order[4]  # nothing drawn before
    assert content(fresh[1]) == in_order[1]  # backwards
    assert content(batches[1]) == in_order[1]  # once more
    assert content(make_batches(method, size, seed=1)[1]) != in_order[1]
    assert len({str(each) for each in in_order}) == 5


def test_drawing_leaves_global_generators_alone(make_batches, labels):
    """What a resumed run draws from them (dropout) must not depend on how many batches were made."""
    batches = make_batches(RPG(labels))
    torch.manual_seed(5)
    np.random.seed(5)
    before, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()
    batches[0]
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpys)


def test_the_same_image_is_augmented_anew_each_time(store, make_store, labels):
    weak = Chain([Flip([0]), IntensityJitter(prob=1.0)])
    one = make_store(labels, 1, "unlabeled")
    batches = Batches(make_store(labels), one, labels, FixMatch(labels), 2, 2, weak=weak)
    images = [*batches[0]["unlabeled"]["image"], *batches[1]["unlabeled"]["image"]]
    assert all((a != b).any() for i, a in enumerate(images) for b in images[:i])


def test_images_are_in_their_range_and_as_they_were_without_augmentation(make_store, labels):
    stores = make_store(labels), make_store(labels, 5, "unlabeled", label_key="truth")
    batch = Batches(*stores, labels, FixMatch(labels))[3]
    for part, held, key in (("labeled", stores[0], "label"), ("unlabeled", stores[1], "truth")):
        rows = [int(name.removeprefix(part).removesuffix(".png")) for name in batch[part]["name"]]
        found = batch[part][key]() if key == "truth" else batch[part][key]
        for row, image, label in zip(rows, batch[part]["image"], found, strict=True):
            np.testing.assert_array_equal(image, held.arrays(row)["image"])
            np.testing.assert_array_equal(label, held.arrays(row)[key])


# ---- unlabelled images


def unlabelled_names(batches, iterations):
    return [batches[t]["unlabeled"]["name"] for t in range(iterations)]


@pytest.mark.parametrize(("number", "batch"), [(5, 2), (5, 5), (3, 4), (6, 2)])
def test_unlabelled_images_come_once_in_each_pass(make_store, multilabel, number, batch):
    unlabeled = make_store(multilabel, number, "unlabeled")
    batches = Batches(make_store(multilabel), unlabeled, multilabel, FixMatch(multilabel), 2, batch)
    stream = [name for names in unlabelled_names(batches, 4 * number) for name in names]
    passes = [stream[start : start + number] for start in range(0, len(stream), number)]
    assert all(len(set(each)) == number for each in passes)
    assert len({tuple(each) for each in passes}) > 1  # in different orders


def test_ranks_share_a_pass_among_them(make_batches, make_store, multilabel, monkeypatch):
    def of_rank(rank, size):
        monkeypatch.setattr(module, "rank", lambda: rank)
        monkeypatch.setattr("common.draws.rank", lambda: rank)
        monkeypatch.setattr(module, "world_size", lambda: size)
        unlabeled = make_store(multilabel, 12, "unlabeled")
        method = FixMatch(multilabel)
        weak = IntensityJitter(prob=1.0)
        batches = Batches(make_store(multilabel), unlabeled, multilabel, method, 2, 2, weak=weak)
        return [content(batches[t]) for t in range(6)]

    ranks = [of_rank(rank, 2) for rank in range(2)]
    stream = [name for both in zip(*ranks, strict=True) for each in both for name in each["unlabeled"]["name"]]
    everyone = sorted(f"unlabeled{index}.png" for index in range(12))
    assert sorted(stream[:12]) == sorted(stream[12:]) == everyone
    assert stream[:12] != stream[12:]
    for one, other in zip(*ranks, strict=True):
        assert one["labeled"] != other["labeled"]
        assert one["labeled"]["image"] != other["labeled"]["image"]
    alone = of_rank(0, 1)  # one process sees in two iterations what two saw in one
    assert [n for each in alone for n in each["unlabeled"]["name"]] == stream[:12]


def counted_crops(monkeypatch):
    """The keys that were cut out so far, one entry for each image."""
    seen, crop = [], TrainingImage.crop

    def counting(self, first, size, keys):
        seen.append(keys)
        return crop(self, first, size, keys)

    monkeypatch.setattr(TrainingImage, "crop", counting)
    return seen


@pytest.mark.parametrize("shape", [(40, 48), (32, 32, 36)])
def test_labels_and_truths_move_as_their_images_do(store, monkeypatch, shape):
    """Of coordinates, a moved image says itself where each pixel came from. The truth is read when it is asked for."""

    def pattern(places):
        return (sum((3 + 2 * axis) * place for axis, place in enumerate(places)) % 5 < 2).astype(np.uint8)

    def item(key):
        image = coordinates(shape, border=0)
        return {"image": image, key: pattern(image[:-1])[None]}

    weak = Chain([Affine(rotate=20, scale=0.1, translate=0.05), Flip([0, 1])])
    stores = store({"one": item("label")}), store({"other": item("truth")})
    size = (32,) * len(shape)
    batches = Batches(*stores, LESION, FixMatch(LESION), patch_size=size, weak=weak, value_range=None)
    seen = counted_crops(monkeypatch)
    for iteration in range(4):
        batch = batches[iteration]
        assert not any("truth" in keys for keys in seen)
        truth = batch["unlabeled"]["truth"]
        parts = [(batch["labeled"]["image"], batch["labeled"]["label"]), (batch["unlabeled"]["image"], truth())]
        assert sum("truth" in keys for keys in seen) == batches.unlabeled_batch
        assert torch.equal(truth(), parts[1][1])
        seen.clear()
        for images, labels in parts:
            place = images[:, :-1].numpy()
            near = np.abs(place % 1 - 0.5) > 0.02  # between two pixels either is right
            sure = near.all(axis=1)
            assert sure.mean() > 0.7
            expected = pattern(np.rint(place).swapaxes(0, 1))
            np.testing.assert_array_equal(labels[:, 0].numpy()[sure], expected[sure])


def test_a_truth_known_for_some_images_only_is_none_where_one_lacks_it(store, make_store, labels):
    known = make_store(labels, 4, "unlabeled", label_key="truth")
    arrays = {known.name(i): dict(known.arrays(i)) for i in range(4)}
    for index in (0, 1):
        del arrays[f"unlabeled{index}.png"]["truth"]
    batches = Batches(make_store(labels), store(arrays), labels, FixMatch(labels), 2, 2)
    seen = set()
    for iteration in range(40):
        part = batches[iteration]["unlabeled"]
        all_known = all(name in ("unlabeled2.png", "unlabeled3.png") for name in part["name"])
        seen.add(all_known)
        assert (part["truth"]() is not None) == all_known
        assert part["image"].shape == (2, 1, 16, 16)
    assert seen == {True, False}


# ---- every class


def shown(batch, labels):
    """The classes that a batch's labelled images show."""
    masks = labels.masks(batch["labeled"]["label"])
    return set(masks.flatten(2).any(dim=2).any(dim=0).nonzero().flatten().tolist())


@pytest.mark.parametrize("kind", [Supervised, NearestNeighbor])
def test_every_class_is_in_every_batch_of_whole_images(store, make_store, multilabel, kind):
    random = make_store(multilabel, 5)
    arrays = {random.name(i): {key: np.array(a) for key, a in random.arrays(i).items()} for i in range(5)}
    for index, each in enumerate(arrays.values()):
        each["label"][1 if index else 0] = 0  # heart in the first image alone, which lacks the lung
    method = kind(multilabel)
    batches = Batches(store(arrays), make_store(multilabel, 2, "unlabeled"), multilabel, method, 2)
    assert all(shown(batches[t], multilabel) == {0, 1} for t in range(40))
    assert len({tuple(batches[t]["labeled"]["name"]) for t in range(40)}) > 4


def test_more_places_than_labelled_images(make_batches, labels):
    names = make_batches(NearestNeighbor(labels), labeled_batch=7)[0]["labeled"]["name"]  # of 4 images
    assert sorted(names.count(f"labeled{i}.png") for i in range(4)) == [1, 2, 2, 2]


def dotted(classes, labels, shape=(64, 48, 48), number=1):
    """An image with one pixel of each of some classes, too far apart for one patch to show two of them."""
    masks = np.zeros((labels.num_classes, *shape), np.uint8)
    for j in classes:
        masks[(j, 4 + 26 * j, 40 - 12 * j, 5 + 16 * j)[: 1 + len(shape)]] = 1
    label = masks if labels.multilabel else sum((j + 1) * mask for j, mask in enumerate(masks))[None]
    return {"image": coordinates(shape, number, border=0), "label": label}


@pytest.mark.parametrize("mode", ["multilabel", "multiclass"])
@pytest.mark.parametrize("shape", [(64, 48), (64, 48, 48)])
@pytest.mark.parametrize(
    ("held", "p"),
    [
        ([(0, 1, 2)], 3),  # the same image three times
        ([(0, 1, 2), (0,), (0,)], 3),
        ([(0, 1, 2), (1, 2), (2,), (2,)], 3),
        ([(0, 1, 2), (0, 1, 2), (1,)], 4),
    ],
)
def test_every_class_is_in_every_batch_of_patches(store, mode, shape, held, p):
    labels = LabelSpace(["a", "b", "c"], mode)
    arrays = {f"scan{i}": dotted(classes, labels, shape, i + 1) for i, classes in enumerate(held)}
    method = NearestNeighbor(labels)
    unlabeled = store({"other": {"image": coordinates((16,) * len(shape))}})
    settings = {"labeled_batch": p, "patch_size": (16,) * len(shape), "value_range": None}
    batches = Batches(store(arrays), unlabeled, labels, method, **settings)
    assert all(shown(batches[t], labels) == {0, 1, 2} for t in range(25))
    # a method that does not need them takes windows from anywhere
    batches = Batches(store(arrays), unlabeled, labels, Supervised(labels), **settings)
    assert not all(shown(batches[t], labels) == {0, 1, 2} for t in range(25))


def test_a_class_is_shown_by_the_image_that_others_can_spare(patches):
    """Of the images (a, b) and (b) the first one has to show a, though b is rarer among all."""
    labels = LabelSpace(["a", "b"])
    held = [(0, 1), (1,), (0,), (0,), (0,)]
    arrays = {f"scan{i}": dotted(classes, labels) for i, classes in enumerate(held)}
    batches = patches(arrays, NearestNeighbor(labels), labeled_batch=2)
    found = {frozenset(batches[t]["labeled"]["name"]) for t in range(40)}
    assert frozenset({"scan0", "scan1"}) in found
    assert all(shown(batches[t], labels) == {0, 1} for t in range(40))


def test_an_image_of_the_patch_s_size_stands_for_itself_alone(patches):
    """The others still show what is missing, also where the first one needs no window."""
    labels = LabelSpace(["a", "b"])
    small = {"image": coordinates(SIZE, border=0), "label": np.ones((2, *SIZE))}
    small["label"][1] = 0
    arrays = {"small": small, "large": dotted((1,), labels)}
    batches = patches(arrays, NearestNeighbor(labels), labeled_batch=2)
    assert all(shown(batches[t], labels) == {0, 1} for t in range(20))


def test_every_pixel_of_a_class_may_be_shown(patches):
    """Two far-apart pixels of the class: both are the middle of a window, and windows move inwards at the border."""
    arrays = volumes([(64, 40, 40)], lesion=False)
    arrays["scan0"]["label"][0, 20, 20, 20] = arrays["scan0"]["label"][0, 60, 20, 1] = 1
    batches = patches(arrays, NearestNeighbor(LESION), labeled_batch=1)
    firsts = {tuple(first_of(image)) for image in labeled_images(batches, 30)}
    assert firsts == {(12, 12, 12), (48, 12, 0)}


# ---- pairs


def test_halves_of_pairs(patches):
    batch = patches()[1]["labeled"]
    assert batch["image"].shape == (6, 4, *SIZE) and batch["label"].shape == (6, 1, *SIZE)
    assert batch["pairs"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert batch["pairs"].dtype == torch.long


def test_the_same_patch_twice(patches):
    batches = patches(same_patch=1.0)
    for iteration in range(10):
        batch = batches[iteration]["labeled"]
        assert torch.equal(batch["image"][:3], batch["image"][3:])
        assert batch["name"][:3] == batch["name"][3:]


def test_the_same_patch_is_augmented_on_its_own_but_moved_alike(patches):
    weak = Chain([Flip([0]), IntensityJitter(gamma=(1, 1), contrast=0, noise=0, prob=1.0)])
    batches = patches(same_patch=1.0, weak=weak)
    for iteration in range(5):
        image = batches[iteration]["labeled"]["image"]
        inside = (image != 0).any(1)
        differences = image[:3] - image[3:]  # brightness alone is left
        for difference, mask, first in zip(differences, inside, inside[3:], strict=False):
            assert torch.equal(mask, first)
            assert difference[:, mask].std() < 1e-2 < difference[:, mask].abs().mean()


def test_another_image_s_patch_is_of_the_same_place_and_orientation(patches):
    """Two equal brains, the second moved by (4, 0, 8) voxels: patches of a pair show the same voxels."""
    brain = coordinates((40, 44, 36))
    arrays = {}
    for name, before in (("one", (8, 8, 8)), ("moved", (12, 8, 16))):
        # borders so wide that no patch is moved inwards
        image = np.pad(brain, ((0, 0), *((n, 24 - n) for n in before)))
        image[-1] *= 1 if name == "one" else 2
        arrays[name] = {"image": image, "label": np.ones((1, *image.shape[1:]))}
    batches = patches(arrays, same_patch=0.0, weak=Flip([0]), labeled_batch=8)
    directions = []
    for iteration in range(12):
        batch = batches[iteration]["labeled"]
        for first, second in batch["pairs"].tolist():
            one, other = batch["image"][first], batch["image"][second]
            torch.testing.assert_close(one[:-1], other[:-1], rtol=0, atol=1e-3)
            assert {number_of(one), number_of(other)} == {1, 2}
            directions.append(direction_of(one))
    directions = np.array(directions).reshape(12, 4)
    assert 0.3 < (directions == 1).mean() < 0.7
    assert any(len(set(row)) == 2 for row in directions)  # pairs of one batch differ


def test_the_place_is_relative_to_the_box_of_what_is_not_zero(patches):
    """The second brain is twice as long along one axis and three times along another."""
    shapes = [(24, 24, 24), (48, 24, 72)]
    arrays = {}
    for index, shape in enumerate(shapes):
        image = np.pad(coordinates(shape, index + 1, border=0), ((0, 0), *[(8, 8)] * 3))
        arrays[f"scan{index}"] = {"image": image, "label": np.ones((1, *image.shape[1:]))}
    batches = patches(arrays, same_patch=0.0)
    seen = set()
    for iteration in range(20):
        batch = batches[iteration]["labeled"]
        for pair in batch["pairs"].tolist():
            centres = {}
            for image in batch["image"][pair]:
                centres[number_of(image)] = np.array(first_of(image)) + 8  # within the brain
            difference = centres[1] / shapes[0] - centres[2] / shapes[1]
            # rounded in the image that comes second
            assert (np.abs(difference) <= 0.5 / np.min(shapes, axis=0) + 1e-9).all()
            seen.add(tuple(centres[1]))
    assert len(seen) > 30


def test_pairs_of_two_images_are_never_of_one(patches):
    batches = patches(volumes([(24, 24, 24)] * 3), same_patch=0.0)
    partners = set()
    for iteration in range(40):
        names = batches[iteration]["labeled"]["name"]
        partners |= set(zip(names[:3], names[3:], strict=True))
    everyone = [f"scan{i}" for i in range(3)]
    assert partners == {(a, b) for a in everyone for b in everyone if a != b}


def test_same_patch_is_a_probability(patches):
    batches = patches(volumes([(24, 24, 24)] * 3), same_patch=0.25)
    names = [batches[t]["labeled"]["name"] for t in range(120)]
    same = np.mean([a == b for each in names for a, b in zip(each[:3], each[3:], strict=True)])
    assert 0.19 < same < 0.31


def test_pairs_of_a_single_image_are_of_one_patch(patches):
    batch = patches(volumes([(40, 40, 40)]), same_patch=0.0)[0]["labeled"]
    assert torch.equal(batch["image"][:3], batch["image"][3:])


def test_pairs_of_whole_2d_images(make_batches, labels):
    batches = make_batches(Popcorn(labels), labeled_batch=4, same_patch=0.0, weak=Flip([0]))
    for iteration in range(5):
        names = batches[iteration]["labeled"]["name"]
        assert all(a != b for a, b in zip(names[:2], names[2:], strict=True))


# ---- windows


@pytest.mark.parametrize("shape", [(40, 44, 36), (40, 44)])
def test_windows_are_cut_out_of_images_and_labels_alike(store, shape):
    rng = np.random.default_rng(2)
    arrays = volumes([shape, shape])
    for each in arrays.values():
        each["label"] = rng.integers(0, 2, each["label"].shape)
    size = (16, 32, 16)[: len(shape)]
    settings = {"patch_size": size, "value_range": None}
    batches = Batches(store(arrays), None, LESION, Supervised(LESION), **settings)
    assert batches.patch_size == size
    starts = []
    for iteration in range(60):
        batch = batches[iteration]["labeled"]
        for image, label, name in zip(batch["image"], batch["label"], batch["name"], strict=True):
            first = first_of(image)
            window = (slice(None), *(slice(a, a + side) for a, side in zip(first, size, strict=True)))
            np.testing.assert_array_equal(image, arrays[name]["image"][window])
            np.testing.assert_array_equal(label, arrays[name]["label"][window])
            starts.append(first)
    for axis, (n, side) in enumerate(zip(shape, size, strict=True)):
        along = np.array(starts)[:, axis]
        # the border of zeros is two pixels wide, and one more for each axis; half a patch lies before a centre
        assert along.min() == max(0, 2 + axis - side // 2) and along.max() == min(n - side, n - 3 - axis - side // 2)
        assert len(set(along.tolist())) > (n - side) / 2


def test_a_centre_is_any_pixel_that_is_not_zero(store):
    """Half of the pixels are zero, here and there; those left are so in the second channel alone."""
    rng = np.random.default_rng(0)
    inside = rng.random((64, 64)) < 0.5
    inside[:8] = inside[-8:] = inside[:, :8] = inside[:, -8:] = False  # no window is moved inwards
    place = np.arange(1, 64 * 64 + 1).reshape(64, 64) % 2047 * inside
    arrays = {"scan": {"image": np.stack([0 * place, place]), "label": np.ones((1, 64, 64))}}
    options = {"patch_size": (16, 16), "value_range": None, "labeled_batch": 4}
    batches = Batches(store(arrays), None, LESION, Supervised(LESION), **options)
    centres = [float(image[1, 8, 8]) for image in labeled_images(batches, 100)]
    assert all(centres)
    assert len(set(centres)) > 300


def test_large_windows_lie_anywhere(store):
    """Random crops of nearly all of a side: not nearly always in a corner."""
    place = np.arange(1, 72 * 64 + 1).reshape(72, 64).astype(np.float32) / 4608
    arrays = {"scan": {"image": place[None], "label": np.ones((1, 72, 64))}}
    options = {"patch_size": (64, 48), "value_range": (0, 1), "labeled_batch": 4}
    batches = Batches(store(arrays), None, LESION, Supervised(LESION), **options)
    firsts = [round(4608 * float(image[0, 0, 0])) - 1 for image in labeled_images(batches, 200)]
    corners = np.stack(np.unravel_index(firsts, (72, 64)), axis=1)
    counts = np.bincount(corners[:, 0], minlength=9) / len(corners)
    assert len(counts) == 9 and (np.abs(counts - 1 / 9) < 0.05).all()
    assert (corners[:, 1] == 0).mean() > 0.2  # of 3/4 as before: around any pixel, moved inwards


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_windows_centre_on_a_class_with_a_probability(patches, probability):
    arrays = volumes([(64, 64, 64)], lesion=False)
    arrays["scan0"]["label"][0, 40, 30, 20] = 1
    batches = patches(arrays, Supervised(LESION), foreground=probability)
    on_lesion = [first_of(image) == [32, 22, 12] for image in labeled_images(batches, 40)]
    assert np.mean(on_lesion) == pytest.approx(probability, abs=0.07 if probability == 0.5 else 0.0)


def test_each_pixel_of_any_class_is_a_centre(patches):
    labels = LabelSpace(["a", "b"], "multiclass")
    arrays = volumes([(40, 40, 40)], lesion=False)
    places = [(20, 20, 20), (22, 20, 20), (20, 21, 26)]
    for place, value in zip(places, (1, 2, 2), strict=True):
        arrays["scan0"]["label"][(0, *place)] = value
    batches = patches(arrays, Supervised(labels), foreground=1.0)
    firsts = [tuple(np.array(first_of(image)) + 8) for image in labeled_images(batches, 30)]
    assert set(firsts) == set(places)
    assert all(0.2 < firsts.count(place) / len(firsts) < 0.47 for place in places)


def test_images_without_any_class_are_drawn_from_what_is_not_zero(patches):
    arrays = volumes([(40, 40, 40), (40, 40, 40)])
    arrays["scan0"]["label"][:] = 0
    batches = patches(arrays, Supervised(LESION), foreground=1.0)
    firsts = [first_of(image) for image in labeled_images(batches, 30) if number_of(image) == 1]
    assert len({tuple(first) for first in firsts}) > 50


def test_hidden_truths_do_not_say_where_to_look(store, patches):
    image = coordinates((64, 64, 64))
    truth = np.zeros((1, 64, 64, 64))
    truth[0, 40, 30, 20] = 1
    batches = patches(None, FixMatch(LESION), {"other": {"image": image, "truth": truth}}, foreground=1.0)
    firsts = [tuple(first_of(image)) for t in range(10) for image in batches[t]["unlabeled"]["image"]]
    assert len(set(firsts)) > 15


@pytest.mark.parametrize("shape", [(12, 40, 10), (7, 16, 40), (12, 40), (9, 7)])
def test_small_images_get_zeros_around(store, shape):
    size = SIZE[: len(shape)]
    arrays = volumes([shape], lesion=False)
    arrays["scan0"]["image"] = coordinates(shape, border=0)
    arrays["scan0"]["label"] += 1
    batches = Batches(store(arrays), None, LESION, Supervised(LESION), patch_size=size, value_range=None)
    for t in range(5):
        batch = batches[t]["labeled"]
        for image, label in zip(batch["image"], batch["label"], strict=True):
            assert image.shape[1:] == label.shape[1:] == size
            inside = image[-1] != 0
            assert torch.equal(label[0] != 0, inside)
            for axis, (n, side) in enumerate(zip(shape, size, strict=True)):
                line = inside.any(dim=tuple(a for a in range(len(shape)) if a != axis)).nonzero().flatten().tolist()
                before = max(0, side - n) // 2  # in the middle
                assert line == list(range(before, before + min(n, side)))
                if n <= side:  # all of it
                    values = image[axis][inside].unique().tolist()
                    assert values == list(range(1, n + 1))


# ---- slices of volumes

SLICE = (16, 16, 1)


def random_labels(arrays, key="label", highest=1):
    rng = np.random.default_rng(4)
    return {
        name: {"image": each["image"], key: rng.integers(0, highest + 1, (1, *each["image"].shape[1:]))}
        for name, each in arrays.items()
    }


def slice_of(image):
    """The window ``C H W`` of its volume that a slice of coordinates is, and the slice's number."""
    depth = {round(value) for value in image[2][image[-1] != 0].tolist()}
    assert len(depth) == 1
    first, z = first_of(image), depth.pop() - 1
    return (slice(None), slice(first[0], first[0] + 16), slice(first[1], first[1] + 16), z), z


@pytest.mark.parametrize("shape", [(40, 44, 9), (16, 16, 7), (40, 44, 1), (16, 16, 1)])
def test_slices_are_those_of_their_volumes(store, shape):
    """Also of volumes that are as wide as a slice, and of those of one slice."""
    plain = {f"scan{i}": {"image": coordinates(shape, i + 1, border=0)} for i in range(2)}
    labeled, unlabeled = random_labels(plain), random_labels({"other": plain["scan1"]}, "truth")
    settings = {"patch_size": SLICE, "value_range": None}
    batches = Batches(store(labeled), store(unlabeled), LESION, FixMatch(LESION), **settings)
    arrays, seen = labeled | unlabeled, {"labeled": set(), "unlabeled": set()}
    for iteration in range(40):
        batch = batches[iteration]
        batch["unlabeled"]["label"] = batch["unlabeled"]["truth"]()
        for part, number in (("labeled", 3), ("unlabeled", 2)):
            images, labels = batch[part]["image"], batch[part]["label"]
            assert images.shape == (number, 4, 16, 16) and labels.shape == (number, 1, 16, 16)
            assert images.dtype == labels.dtype == torch.float32
            for image, label, name in zip(images, labels, batch[part]["name"], strict=True):
                window, z = slice_of(image)
                np.testing.assert_array_equal(image, arrays[name]["image"][window])
                np.testing.assert_array_equal(label, arrays[name]["label" if part == "labeled" else "truth"][window])
                seen[part].add(z)
    assert seen["labeled"] == seen["unlabeled"] == set(range(shape[2]))


def test_slices_get_zeros_around_where_the_volume_is_narrow(store):
    arrays = random_labels({"scan": {"image": coordinates((12, 40, 3), border=0)}})
    arrays["scan"]["label"][:] = 1
    batches = Batches(store(arrays), None, LESION, Supervised(LESION), patch_size=SLICE, value_range=None)
    batch = batches[0]["labeled"]
    for key in ("image", "label"):
        assert (batch[key][:, :, :2] == 0).all() and (batch[key][:, :, 14:] == 0).all()
        assert (batch[key][:, :, 2:14] > 0).all()


def test_pairs_of_slices(patches):
    """Of the volumes, one is three times as high: slices of a pair are at the same relative height."""
    arrays = {}
    for index, depth in enumerate((5, 15)):
        arrays[f"scan{index}"] = {"image": coordinates((40, 40, depth), index + 1, border=0)}
    arrays = random_labels(arrays)
    batch = patches(arrays, patch_size=SLICE, same_patch=1.0)[0]["labeled"]
    assert batch["image"].shape == (6, 4, 16, 16) and batch["pairs"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert torch.equal(batch["image"][:3], batch["image"][3:])
    batches, heights = patches(arrays, patch_size=SLICE, same_patch=0.0, weak=Flip([0])), set()
    for iteration in range(20):
        batch = batches[iteration]["labeled"]
        for one, other in zip(batch["image"][:3], batch["image"][3:], strict=True):
            assert {number_of(one), number_of(other)} == {1, 2}
            assert torch.equal(one[:2], other[:2])  # the same place, moved in the same way
            low, high = (int(image[2, 0, 0]) - 1 for image in sorted((one, other), key=number_of))
            assert abs(low / 5 - high / 15) <= 0.5 / 5
            heights.add(low)
    assert heights == set(range(5))


@pytest.mark.parametrize("mode", ["multilabel", "multiclass"])
@pytest.mark.parametrize(("held", "p"), [([(0, 1, 2)], 3), ([(0, 1, 2), (1, 2), (2,)], 4)])
def test_every_class_is_in_every_batch_of_slices(patches, mode, held, p):
    labels = LabelSpace(["a", "b", "c"], mode)
    arrays = {f"scan{i}": dotted(classes, labels, number=i + 1) for i, classes in enumerate(held)}
    settings = {"labeled_batch": p, "patch_size": SLICE}
    batches = patches(arrays, NearestNeighbor(labels), **settings)
    assert all(shown(batches[t], labels) == {0, 1, 2} for t in range(25))
    batches = patches(arrays, Supervised(labels), **settings)
    assert not all(shown(batches[t], labels) == {0, 1, 2} for t in range(25))


def test_slices_go_through_a_pixel_of_a_class_with_a_probability(patches):
    arrays = volumes([(40, 40, 30)], lesion=False)
    arrays["scan0"]["label"][0, 20, 18, 21] = 1
    for probability in (0.0, 1.0):
        batches = patches(arrays, Supervised(LESION), patch_size=SLICE, foreground=probability)
        found = [slice_of(image)[0][1:] for image in labeled_images(batches, 10)]
        on_lesion = [window == (slice(12, 28), slice(10, 26), 21) for window in found]
        assert all(on_lesion) if probability else not any(on_lesion)


@pytest.mark.parametrize("filled", [True, False])  # kept whole, and as places
def test_slices_of_a_volume_that_has_joined(patches, store, filled):
    shape, mask = (24, 24, 10), np.zeros((1, 24, 24, 10), np.uint8)
    mask[:, 4:20, 6:18, :] = np.arange(10) % 2
    mask = mask if filled else mask * (np.indices(shape).sum(0) % 29 == 0)
    batches = patches(volumes([shape]), Supervised(LESION), patch_size=SLICE)
    joined(batches, store, shape, mask=mask)
    assert (batches.joined[0].places is None) == filled
    seen = set()
    for iteration in range(20):
        batch = batches[iteration]["labeled"]
        for image, label in zip(batch["image"], batch["label"], strict=True):
            if number_of(image) == 7:
                window, z = slice_of(image)
                np.testing.assert_array_equal(label, mask[window])
                seen.add(z)
    assert len(seen) > 6


# ---- images that have joined


def joined(batches, store, shape=(24, 24, 24), name="pseudo", number=7, label=None, mask=None):
    """Lets an image of coordinates join with a pseudo-label."""
    held = store({name: {"image": coordinates(shape, number, border=0)}})
    batches.join(TrainingImage(held, 0, label, mask))


def test_images_that_joined_are_drawn_as_often_as_others(patches, store):
    batches = patches(volumes([(24, 24, 24)] * 2), Supervised(LESION))
    joined(batches, store, mask=np.ones((1, 24, 24, 24), np.uint8))
    numbers = [number_of(image) for image in labeled_images(batches, 50)]
    shares = [np.mean([n == number for n in numbers]) for number in (1, 2, 7)]
    np.testing.assert_allclose(shares, 1 / 3, atol=0.06)
    for image, label in zip(*(batches[2]["labeled"][key] for key in ("image", "label")), strict=True):
        if number_of(image) == 7:
            assert label.min() == 1


@pytest.mark.parametrize(("share", "expected"), [(1.0, 0.0), (0.6, 0.4 / 3), (0.0, 1 / 3)])
def test_labelled_images_may_keep_a_share(patches, store, share, expected):
    batches = patches(volumes([(24, 24, 24)] * 2), Supervised(LESION), labeled_share=share)
    joined(batches, store, mask=np.ones((1, 24, 24, 24), np.uint8))
    numbers = [number_of(image) for image in labeled_images(batches, 60)]
    assert np.mean([n == 7 for n in numbers]) == pytest.approx(expected, abs=0.05)


def test_a_share_of_labelled_images_is_that_of_the_first_of_a_pair(patches, store):
    batches = patches(volumes([(24, 24, 24)]), labeled_share=1.0, same_patch=0.0)
    joined(batches, store, mask=np.ones((1, 24, 24, 24), np.uint8))
    for iteration in range(5):
        assert batches[iteration]["labeled"]["name"] == [*["scan0"] * 3, *["pseudo"] * 3]


def test_every_class_is_in_every_batch_also_when_images_have_joined(store):
    """The labelled images that are not needed for it make room."""
    labels = LabelSpace(["a", "b", "c"])
    arrays = {f"scan{i}": dotted((0, 1, 2), labels, (64, 48)) for i in range(3)}
    method = NearestNeighbor(labels, joining=Joining())
    unlabeled = store({"other": {"image": coordinates((64, 48), 7)}})
    for patch_size, p in (((16, 16), 5), (None, 3)):
        batches = Batches(store(arrays), unlabeled, labels, method, p, patch_size=patch_size, value_range=None)
        for _ in range(10):
            batches.join(TrainingImage(unlabeled, 0, mask=np.zeros((3, 64, 48), np.uint8)))
        found = [batches[t] for t in range(30)]
        assert all(shown(batch, labels) == {0, 1, 2} for batch in found)
        pseudo = [batch["labeled"]["name"].count("other") for batch in found]
        assert max(pseudo) == 2  # of 5 patches, of which 3 show a class each; of 3 images, of which 1 shows all
        assert 1.0 < np.mean(pseudo) < 2.0  # 2 x 10 / 13


@pytest.mark.parametrize("mode", ["multilabel", "multiclass"])
@pytest.mark.parametrize("shape", [(30, 12, 25), (30, 25)])
def test_a_mask_kept_as_places_is_the_mask(store, mode, shape):
    labels, rng = LabelSpace(["a", "b", "c"], mode), np.random.default_rng(3)
    if labels.multilabel:
        mask = (rng.random((3, *shape)) > 0.7).astype(np.uint8)
    else:
        mask = (rng.integers(1, 4, (1, *shape)) * (rng.random((1, *shape)) > 0.7)).astype(np.uint8)
    held = store({"scan": {"image": coordinates(shape, border=0)}})
    dense, places = TrainingImage(held, 0, lambda: {"label": mask}), TrainingImage(held, 0, mask=mask)
    np.testing.assert_array_equal(dense.foreground(labels), places.foreground(labels))
    np.testing.assert_array_equal(places.foreground(labels), np.flatnonzero(mask.any(0)))
    for _ in range(20):
        first = rng.integers(np.maximum(np.array(shape) - 16, 0) + 1)
        one, other = (image.crop(first, SIZE[: len(shape)], ("image", "label")) for image in (dense, places))
        assert one.keys() == other.keys() == {"image", "label"}
        np.testing.assert_array_equal(one["label"], other["label"])
        np.testing.assert_array_equal(one["image"], other["image"])


def test_foreground_of_soft_labels_is_where_a_class_is_probable(store, labels):
    probability = np.full((labels.num_outputs, 16, 16), 0.2)
    classes = probability if labels.multilabel else probability[1:]
    if not labels.multilabel:
        probability[0] = 0.6  # background
    classes[0, 3, 4], classes[1, 5, 6], classes[1, 7, 7] = 0.7, 0.51, 0.5
    held = store({"scan": {"image": coordinates((16, 16), border=0)}})
    image = TrainingImage(held, 0, lambda: {"label": probability.astype(np.float16)})
    assert image.foreground(labels).tolist() == [3 * 16 + 4, 5 * 16 + 6]
    assert TrainingImage(held, 0).foreground(labels).tolist() == []


def soft(labels, shape, weight=None):
    """A soft pseudo-label: as many channels as outputs, in half precision as it is stored."""
    label = np.full((labels.num_outputs, *shape), 0.25, np.float16)
    found = {"label": label}
    if weight is not None:
        found["weight"] = weight.astype(np.float16)
    return lambda: found


@pytest.mark.parametrize("channels", [1, 2])
def test_weights_of_some_are_ones_of_the_others(patches, store, channels):
    labels = LabelSpace(["a", "b"])
    arrays = volumes([(24, 24, 24)])
    arrays["scan0"]["label"] = np.ones((2, 24, 24, 24))
    batches = patches(arrays, Method(labels), labeled_batch=4)
    assert "weight" not in batches[0]["labeled"]
    weight = np.stack([np.full((24, 24, 24), 0.25 + 0.5 * c) for c in range(channels)])
    joined(batches, store, label=soft(labels, (24, 24, 24), weight))
    seen = set()
    for iteration in range(20):
        batch = batches[iteration]["labeled"]
        pseudo = [number_of(image) == 7 for image in batch["image"]]
        seen |= set(pseudo)
        if not any(pseudo):
            assert "weight" not in batch
            continue
        assert batch["weight"].shape == (4, channels, *SIZE) and batch["weight"].dtype == torch.float32
        for each, is_pseudo, label in zip(batch["weight"], pseudo, batch["label"], strict=True):
            assert label.unique().tolist() == ([0.25] if is_pseudo else [1])
            for c in range(channels):
                assert each[c].unique().tolist() == ([0.25 + 0.5 * c] if is_pseudo else [1])
    assert seen == {True, False}


def test_soft_labels_and_label_maps_come_in_one_form(patches, store):
    labels = LabelSpace(["a", "b"], "multiclass")
    arrays = volumes([(24, 24, 24)])
    arrays["scan0"]["label"] = np.random.default_rng(0).integers(0, 3, (1, 24, 24, 24))
    arrays["scan0"]["label"].flat[:3] = 0, 1, 2
    batches = patches(arrays, Supervised(labels), labeled_batch=2)
    assert batches[0]["labeled"]["label"].shape == (2, 1, *SIZE)
    joined(batches, store, label=soft(labels, (24, 24, 24)))
    kinds = set()
    for iteration in range(20):
        batch = batches[iteration]["labeled"]
        pseudo = [number_of(image) == 7 for image in batch["image"]]
        kinds.add((any(pseudo), all(pseudo)))
        assert batch["label"].shape == (2, 3 if any(pseudo) else 1, *SIZE)
        for image, label, is_pseudo in zip(batch["image"], batch["label"], pseudo, strict=True):
            if is_pseudo:
                assert label.unique().tolist() == [0.25]
            elif any(pseudo):
                first = first_of(image)
                window = arrays["scan0"]["label"][(0, *(slice(a, a + 16) for a in first))]
                np.testing.assert_array_equal(label, [window == value for value in range(3)])
    assert {(True, False), (False, False)} <= kinds


def test_weights_and_soft_labels_move_as_their_images_do(patches, store):
    shape, labels = (24, 24, 24), LESION
    weight = np.zeros((1, *shape))
    weight[:, 12:] = 1  # one half along the axis that is mirrored
    label = np.full((1, *shape), 0.25)
    label[:, :, 12:] = 0.75
    batches = patches(volumes([shape]), Supervised(labels), weak=Flip([0]), labeled_batch=2)
    joined(batches, store, label=lambda: {"label": label, "weight": weight})
    directions = set()
    for iteration in range(20):
        batch = batches[iteration]["labeled"]
        for image, found, counts in zip(batch["image"], batch["label"], batch.get("weight", ()), strict=False):
            if number_of(image) == 7:
                directions.add(direction_of(image))
                assert torch.equal(counts[0] == 1, image[0].round() > 12)
                assert torch.equal(found[0] == 0.75, image[1].round() > 12)
    assert directions == {1, -1}


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of open files")
def test_thousands_of_images_that_joined_hold_few_files(patches, store, tmp_path):
    """Soft labels are mapped into memory while a window is cut out, masks are kept as places, and few images mapped."""
    shape = (24, 24, 24)
    (tmp_path / "pseudo.nii.gz").touch()
    image = {str(tmp_path / "pseudo.nii.gz"): {"image": coordinates(shape, 7, border=0)}}
    held = store(image, cache_dir=tmp_path / "cache")
    np.save(tmp_path / "soft.npy", np.full((1, *shape), 0.25, np.float16))
    mask = np.zeros((1, *shape), np.uint8)
    mask[:, 3, 4, 5] = 1
    batches = patches(volumes([shape]), Supervised(LESION))

    def soft_label():
        return {"label": np.load(tmp_path / "soft.npy", mmap_mode="r")}

    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(1500):
        batches.join(TrainingImage(held, 0, soft_label))
        batches.join(TrainingImage(held, 0, mask=mask))
    drawn = [batches[t] for t in range(10)]
    assert sum(name.endswith("pseudo.nii.gz") for batch in drawn for name in batch["labeled"]["name"]) > 50
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1
    assert str(tmp_path / "soft.npy") not in Path("/proc/self/maps").read_text()
    assert batches.joined[1].places.nbytes + batches.joined[1].values.nbytes < 100


# ---- images on the device


class Near(str):
    """Stands for a GPU: tensors take it for the CPU."""

    type = "cuda"


@pytest.mark.parametrize("free", [10**9, 1000])
def test_images_are_kept_on_a_device_with_room(make_store, make_batches, labels, monkeypatch, free):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
    method = FixMatch(labels)
    batches = make_batches(method)
    assert not batches.resident
    before = [content(batches[t]) for t in range(3)]
    kept = [held.move_to(Near("cpu")) for held in batches.stores.values()]
    assert kept == [free > 1000] * 2
    if free > 1000:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, free))
        for held in batches.stores.values():
            tensors = held.tensors
            monkeypatch.setattr(held, "arrays", None)  # nothing is read any more
            assert held.move_to(Near("cpu")) and held.tensors is tensors
    assert [content(batches[t]) for t in range(3)] == before


def test_a_batch_goes_to_the_device(make_batches):
    batches = make_batches(Popcorn(LESION), labeled_batch=4, device="meta", weak=None)
    found = batches[0]["labeled"]
    assert {found[key].device.type for key in ("image", "label", "pairs")} == {"meta"}


def test_settings_say_what_a_batch_depends_on(make_batches, labels):
    settings = make_batches(RPG(labels), seed=3, labeled_share=0.5, foreground=0.25).settings()
    assert settings["seed"] == 3 and settings["labeled_share"] == 0.5 and settings["foreground"] == 0.25
    assert settings["labeled_batch"] == settings["unlabeled_batch"] == 2
    assert settings["patch_size"] == (16, 16) and settings["same_patch"] == 0.5
    assert list(settings["images"]) == ["labeled", "unlabeled"]
    assert len(settings["images"]["unlabeled"]) == 5
    assert isinstance(settings["weak"], Chain) and settings["values"] == Values()
