"""What the data or the settings cannot give is said before the training, with names and what to do."""

from __future__ import annotations

import numpy as np
import pytest
from coordinates import coordinates

from common.batches import Batches
from common.batches.checks import warn_of_values
from common.curriculum import Joining
from common.data import DecodedImages
from common.label_space import LabelSpace
from common.methods import RPG, FixMatch, Method, NearestNeighbor, Popcorn, Supervised
from common.parts import Needs
from common.sources import Prediction
from common.terms import Match

LESION = LabelSpace(["lesion"])
METHODS = {"Supervised": Supervised, "Popcorn": Popcorn, "FixMatch": FixMatch}


def images(*shapes, low=0.0, high=1.0, key="label"):
    """Images with values from ``low`` to ``high`` by name."""
    arrays = {}
    for index, shape in enumerate(shapes):
        image = np.random.default_rng(index).uniform(low, high, (1, *shape))
        image.flat[0], image.flat[-1] = low, high
        arrays[f"{key}{index}.png"] = {"image": image, key: np.ones((1, *shape))}
    return arrays


@pytest.fixture
def make(store):
    def batches(labeled, unlabeled=None, method="Supervised", **settings):
        method = METHODS[method](LESION) if isinstance(method, str) else method
        unlabeled = store(images((16, 16), key="truth") if unlabeled is None else unlabeled)
        return Batches(store(labeled), unlabeled, method.labels, method, **settings)

    return batches


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labeled_batch": 0}, "labeled_batch must be at least 1, got 0"),
        ({"unlabeled_batch": 0}, "unlabeled_batch must be at least 1, got 0"),
        ({"foreground": 1.5}, r"foreground must be a probability in \[0, 1\], got 1.5"),
        ({"same_patch": -0.1}, r"same_patch must be a probability in \[0, 1\], got -0.1"),
        ({"labeled_share": 1.01}, r"labeled_share must be a probability in \[0, 1\], got 1.01"),
        ({"value_range": (1, 1)}, "value_range must be the lowest and the highest"),
        ({"patch_size": (16,)}, r"patch_size must be 2 multiples of 16, .* got \[16\]"),
        ({"patch_size": (16, 16, 16)}, r"patch_size must be 2 multiples of 16, .* got \[16, 16, 16\]"),
        ({"patch_size": (16, 24)}, r"multiples of 16, the network's down-scaling, got \[16, 24\]"),
        ({"patch_size": (0, 16)}, r"multiples of 16, .* got \[0, 16\]"),
        ({"patch_size": (-16, 16)}, r"multiples of 16, .* got \[-16, 16\]"),
    ],
)
def test_settings_out_of_range(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(images((32, 32)), **settings)


@pytest.mark.parametrize("size", [(16, 16, 2), (16, 16, 0), (16, 1, 16), (1, 16, 16), (16, 24, 1), (1, 1, 1)])
def test_slices_are_the_only_flat_patches_and_lie_across_the_last_axis(make, size):
    parts = [images((32, 32, 32), key=key) for key in ("label", "truth")]
    message = r"patch_size must be 3 multiples of 16, the network's down-scaling, or 1 at last for slices, got \["
    with pytest.raises(ValueError, match=message + ", ".join(map(str, size))):
        make(*parts, patch_size=size)
    assert make(*parts, patch_size=(16, 32, 1)).patch_size == (16, 32, 1)


def test_images_of_two_axes_have_no_slices(make):
    with pytest.raises(ValueError, match=r"patch_size must be 2 multiples of 16, the network's down-scaling, got"):
        make(images((32, 32)), patch_size=(16, 1))
    with pytest.raises(ValueError, match=r"patch_size must be 2 multiples .* got \[16, 16, 1\]"):
        make(images((32, 32)), patch_size=(16, 16, 1))


def test_a_slice_larger_than_those_of_a_volume(make):
    parts = [images((32, 32, 4), (16, 32, 4)), images((32, 32, 4), key="truth")]
    message = r"must not be larger than an image, got \[32, 32, 1\] and label1.png of 16 x 32 x 4"
    with pytest.raises(ValueError, match=message):
        make(*parts, patch_size=(32, 32, 1))
    make(*parts, patch_size=(16, 32, 1))


@pytest.mark.parametrize(
    "settings",
    [
        {"labeled_batch": 1, "unlabeled_batch": 1},
        {"foreground": 0, "same_patch": 0, "labeled_share": 0},
        {"foreground": 1, "same_patch": 1, "labeled_share": 1},
        {"patch_size": (32, 16)},
        {"patch_size": (16, 32)},
    ],
)
def test_settings_at_the_limits(make, settings):
    batch = make(images((32, 32)), images((32, 32), key="truth"), **settings)[0]
    assert batch["labeled"]["image"].shape[2:] == settings.get("patch_size", (32, 32))


def test_pairs_need_an_even_number(make):
    with pytest.raises(ValueError, match=r"labeled_batch must be even .* pairs, got 3"):
        make(images((16, 16)), method="Popcorn", labeled_batch=3)
    assert len(make(images((16, 16)), method="Popcorn", labeled_batch=2)[0]["labeled"]["image"]) == 2
    assert len(make(images((16, 16)), labeled_batch=3)[0]["labeled"]["image"]) == 3


class Two(Prediction):
    needs = Needs(unlabeled=2)


def test_fewer_unlabelled_images_than_a_part_needs(make):
    method = Method(LESION, {"pairs": Match(Two())})
    with pytest.raises(ValueError, match="unlabeled_batch must be at least 2 for this method, got 1"):
        make(images((16, 16)), method=method, unlabeled_batch=1)
    assert len(make(images((16, 16)), method=method, unlabeled_batch=2)[0]["unlabeled"]["image"]) == 2


class FromZeroToOne(Prediction):
    needs = Needs(unlabeled=1, value_range=(0.0, 1.0))


@pytest.mark.parametrize(
    ("value_range", "found"), [(None, "no range"), ((0, 2), r"\[0.0, 2.0\]"), ((-1, 1), r"\[-1.0, 1.0\]")]
)
def test_values_other_than_a_part_needs(make, value_range, found):
    method = Method(LESION, {"views": Match(FromZeroToOne())})
    with pytest.raises(ValueError, match=rf"values in \[0.0, 1.0\], got {found}: set value_range"):
        make(images((16, 16)), method=method, value_range=value_range)
    make(images((16, 16)), method=method, value_range=[0, 1])
    make(images((16, 16)), method="FixMatch", value_range=value_range)  # who does not care


@pytest.mark.parametrize("part", ["label", "truth"])
@pytest.mark.parametrize(("low", "high"), [(-0.1, 1), (0, 1.01), (-2, 3), (0, 255)])
def test_an_image_with_other_values_is_named(make, part, low, high):
    parts = {"label": images((16, 16), (16, 16)), "truth": images((16, 16), (16, 16), key="truth")}
    bad = images((16, 16), low=low, high=high)["label0.png"]["image"]
    parts[part][f"{part}1.png"]["image"] = bad
    with pytest.raises(
        ValueError, match=rf"{part}1.png must have values in value_range, \[0, 1\], got {low:g} to {high:g}"
    ):
        make(parts["label"], parts["truth"])
    make(parts["label"], parts["truth"], value_range=None)
    make(parts["label"], parts["truth"], value_range=(min(low, 0), max(high, 1)))


def test_rounding_is_no_other_range(make):
    make(images((16, 16), low=-0.0009, high=1.0009))
    make(images((16, 16), low=-9, high=10009), images((16, 16), high=1, key="truth"), value_range=(0, 10000))


def test_nothing_to_learn_from(make, store):
    with pytest.raises(ValueError, match="at least one labelled image, got none"):
        make({})
    unlabelled = images((16, 16)) | {"nobody.png": {"image": np.ones((1, 16, 16))}}
    with pytest.raises(ValueError, match=r"nobody.png must have a label, got none"):
        make(unlabelled)


@pytest.mark.parametrize("kind", [RPG, FixMatch, Popcorn])
def test_no_unlabelled_images_for_who_learns_from_them(make, store, kind):
    message = f"{kind.__name__} learns from unlabelled images, got none"
    labeled, method = store(images((16, 16))), kind(LESION)
    with pytest.raises(ValueError, match=rf"{message}: name some .* common.methods.Supervised"):
        Batches(labeled, None, LESION, method, 2)
    with pytest.raises(ValueError, match=rf"{message} \(0 set aside\): name some"):
        Batches(labeled, store({}), LESION, method, 2)


def test_unlabelled_images_that_were_all_set_aside_are_counted(store):
    def broken(item):
        raise ValueError(f"{item['image']} is broken")

    unlabeled = DecodedImages([{"image": "a.png"}, {"image": "b.png"}], broken, set_aside=True, progress=False)
    with pytest.raises(ValueError, match=r"FixMatch learns from unlabelled images, got none \(2 set aside\)"):
        Batches(store(images((16, 16))), unlabeled, LESION, FixMatch(LESION))


@pytest.mark.parametrize("kind", [Supervised, lambda labels: Popcorn(labels, selection="none")])
@pytest.mark.parametrize("empty", [True, False])
def test_who_learns_from_labelled_images_alone_needs_no_others(store, kind, empty):
    batches = Batches(store(images((16, 16))), store({}) if empty else None, LESION, kind(LESION), 2)
    assert list(batches[0]) == ["labeled", "values"]
    assert list(batches.settings()["images"]) == ["labeled"]


def test_joining_alone_is_learning_from_unlabelled_images(store):
    with pytest.raises(ValueError, match="Supervised learns from unlabelled images"):
        Batches(store(images((16, 16))), None, LESION, Supervised(LESION, joining=Joining()))


@pytest.mark.parametrize("part", ["label", "truth"])
@pytest.mark.parametrize("value_range", [(0, 1), None])
def test_whole_images_of_two_sizes_are_both_named(make, part, value_range):
    parts = {"label": images((16, 32), (16, 32)), "truth": images((16, 32), (16, 32), key="truth")}
    parts[part] = images((16, 32), (32, 16), key=part)
    if part == "truth":
        message = "got 16 x 32 of label0.png and 32 x 16 of truth1.png: set patch_size"
    else:
        message = "got 16 x 32 of label0.png and 32 x 16 of label1.png: set patch_size"
    with pytest.raises(ValueError, match=f"whole images must be of one size, {message}"):
        make(parts["label"], parts["truth"], value_range=value_range)
    make(parts["label"], parts["truth"], value_range=value_range, patch_size=(16, 16))


@pytest.mark.parametrize("part", ["label", "truth"])
def test_a_patch_larger_than_an_image(make, part):
    parts = {key: images((32, 48), (32, 48), key=key) for key in ("label", "truth")}
    parts[part] = images((32, 48), (32, 31), key=part)
    message = rf"patch_size must not be larger than an image, got \[16, 32\] and {part}1.png of 32 x 31: lower it"
    with pytest.raises(ValueError, match=message):
        make(parts["label"], parts["truth"], patch_size=(16, 32))
    # around a background of zeros there is room
    batch = make(parts["label"], parts["truth"], method="FixMatch", patch_size=(16, 32), value_range=None)[0]
    assert all(batch[key]["image"].shape[2:] == (16, 32) for key in ("labeled", "unlabeled"))
    make(*[images((16, 32), key=key) for key in ("label", "truth")], patch_size=(16, 32))


@pytest.mark.parametrize("kind", [Supervised, NearestNeighbor])
@pytest.mark.parametrize("shape", [(16, 16), (16, 16, 16)])
def test_a_class_that_no_labelled_image_shows_is_named(make_store, labels, kind, shape):
    held = make_store(labels, size=shape)
    for index in range(len(held)):
        label = held.arrays(index)["label"]
        label[1 if labels.multilabel else label == 2] = 0
    with pytest.raises(ValueError, match="none with heart"):
        Batches(held, make_store(labels, 2, "unlabeled", shape), labels, kind(labels), 2)


def test_a_pool_too_small_for_every_class(store):
    labels = LabelSpace(["a", "b", "c"])
    arrays = {f"{j}": {"image": coordinates((16, 16)), "label": np.zeros((3, 16, 16))} for j in range(3)}
    for j, each in enumerate(arrays.values()):
        each["label"][j] = 1
    options = {"value_range": None, "unlabeled": store(arrays), "labels": labels}
    with pytest.raises(ValueError, match="2 labelled images must be able to hold every class"):
        Batches(store(arrays), method=NearestNeighbor(labels), labeled_batch=2, **options)
    Batches(store(arrays), method=NearestNeighbor(labels), labeled_batch=3, **options)
    batches = Batches(store(arrays), method=Supervised(labels), labeled_batch=2, **options)
    assert {name for t in range(9) for name in batches[t]["labeled"]["name"]} == {"0", "1", "2"}


def test_values_that_are_not_centred_are_said(caplog):
    """Null as value_range says mean 0 and standard deviation 1; strengths would be those of another scale."""

    class Store:
        def __init__(self, *ranges):
            self.ranges = ranges

        def __len__(self):
            return len(self.ranges)

        def range(self, index):
            return self.ranges[index]

        def name(self, index):
            return f"image{index}.nii.gz"

    warn_of_values(Store((-1.5, 3.0), (0.0, 1.0)), None)
    assert caplog.text == ""
    warn_of_values(Store((0.0, 1.0), (0.0, 2.0)), None)
    assert "image0.nii.gz and all 2 images have no value below 0 (0 to 1)" in caplog.text
    assert "set value_range to theirs" in caplog.text
