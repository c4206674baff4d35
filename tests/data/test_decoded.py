"""Decoded images: what comes back is what the transform gave, once; what changed is decoded again."""

from __future__ import annotations

import json
import os
from enum import Enum
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import (
    Compose,
    CropForegroundd,
    Lambdad,
    NormalizeIntensityd,
    Orientationd,
    RandGaussianNoised,
    ScaleIntensityd,
    Spacingd,
)
from PIL import Image

from common.data import DecodedImages
from common.data import decoded as module
from common.data.decoded import bounding_box, describe
from common.errors import cause
from common.label_space import LabelSpace
from common.transforms import LoadLabeld, LoadRadiographd, LoadVolumed

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
SHAPES = {2: (6, 5), 3: (6, 5, 4)}
LOADERS = {
    2: [LoadRadiographd(), LoadLabeld(["label", "truth"], LabelSpace(["lung"]), allow_missing_keys=True)],
    3: [LoadVolumed(["image", "label", "truth"], allow_missing_keys=True)],
}


def write(path, values):
    if values.ndim == 2:
        path = path.with_suffix(".png")
        Image.fromarray(values.astype(np.uint8).T).save(path)
    else:
        path = path.with_suffix(".nii.gz")
        nibabel.save(nibabel.Nifti1Image(values, AFFINE), path)
    return str(path)


def random_items(folder, dimensions, key="label"):
    rng, found = np.random.default_rng(0), []
    for index in range(3):
        image = rng.normal(100, 10, SHAPES[dimensions]).astype(np.float32)
        mask = (rng.random(SHAPES[dimensions]) > 0.8).astype(np.uint8)
        files = [write(folder / f"{name}{index}", values) for name, values in (("scan", image), ("mask", 255 * mask))]
        found.append({"image": files[0], key: [files[1]]})
    return found


@pytest.fixture(params=[2, 3], ids=["2D", "3D"])
def dimensions(request):
    return request.param


@pytest.fixture
def items(tmp_path, dimensions):
    return random_items(tmp_path, dimensions)


@pytest.fixture
def volumes(tmp_path):
    return random_items(tmp_path, 3)


def loader(dimensions, *more):
    return Compose([*LOADERS[dimensions], *more])


class Counting:
    """A transform that counts its calls, which are none of its settings."""

    calls = 0

    def __init__(self, dimensions):
        self.steps = loader(dimensions)

    def __call__(self, data):
        Counting.calls += 1
        return self.steps(data)


@pytest.mark.parametrize("cached", [True, False])
def test_decodes_once(items, dimensions, tmp_path, cached, monkeypatch):
    monkeypatch.setattr(Counting, "calls", 0)
    transform = Counting(dimensions)
    first = DecodedImages(items, transform, tmp_path / "cache" if cached else None)
    for _ in range(3):
        assert len([first[i] for i in range(len(first))]) == 3
    assert (Counting.calls, first.hits) == (3, 0)
    again = DecodedImages(items, transform, tmp_path / "cache" if cached else None)
    assert (Counting.calls, again.hits) == ((3, 3) if cached else (6, 0))


def test_gives_what_the_transform_gave(items, dimensions, tmp_path):
    transform = loader(dimensions, NormalizeIntensityd("image"))
    images = DecodedImages(items, transform, tmp_path / "cache")
    for index, item in enumerate(items):
        expected, found = transform(dict(item)), images[index]
        # half precision has 11 bits
        np.testing.assert_allclose(found["image"].numpy(), expected["image"].numpy(), rtol=2**-11, atol=1e-6)
        np.testing.assert_array_equal(found["label"].numpy(), expected["label"].numpy())
        assert set(np.unique(found["label"].numpy())) == {0, 1}
        assert list(found) == ["image", "label"]
        for key, file in (("image", item["image"]), ("label", item["label"][0])):
            assert found[key].meta["filename_or_obj"] == file
            assert found[key].dtype == torch.float32
            np.testing.assert_array_equal(found[key].affine, expected["image"].affine)
        if dimensions == 3:
            np.testing.assert_array_equal(images.affine(index), AFFINE)
        assert images.shape(index) == SHAPES[dimensions] == tuple(expected["image"].shape[1:])
        assert images.name(index) == item["image"]
        arrays = images.arrays(index)
        assert all(isinstance(array, np.memmap) for array in arrays.values())
        assert {key: array.dtype for key, array in arrays.items()} == {"image": np.float16, "label": np.uint8}


def test_the_cache_and_memory_hold_the_same(items, dimensions, tmp_path):
    options = {"transform": loader(dimensions, NormalizeIntensityd("image"))}
    stores = [DecodedImages(items, cache_dir=folder, **options) for folder in (None, tmp_path / "cache")]
    stores.append(DecodedImages(items, cache_dir=str(tmp_path / "cache"), **options))  # read this time
    assert [len(store) for store in stores] == [3, 3, 3]
    for index in range(3):
        one, *others = (store.arrays(index) for store in stores)
        for other in others:
            assert list(one) == list(other)
            assert all(one[key].dtype == other[key].dtype for key in one)
            assert all((one[key] == other[key]).all() for key in one)
        for method in ("name", "shape", "range"):
            assert len({getattr(store, method)(index) for store in stores}) == 1
        for method in ("affine", "box"):
            values = [getattr(store, method)(index) for store in stores]
            assert all((value == values[0]).all() for value in values)
        low, high = stores[0].range(index)
        exact = options["transform"](dict(items[index]))["image"]
        assert (low, high) == (float(exact.min()), float(exact.max()))
        np.testing.assert_allclose([one["image"].min(), one["image"].max()], [low, high], rtol=1e-3)
    assert stores[0].fingerprints() == stores[1].fingerprints() == stores[2].fingerprints()
    assert stores[0].hits == stores[1].hits == 0 < stores[2].hits


def test_a_label_of_several_files_has_the_names_of_all(volumes):
    volumes[0]["label"].append(volumes[1]["label"][0])
    images = DecodedImages(volumes, loader(3))
    assert images[0]["label"].shape == (2, 6, 5, 4)
    assert images[0]["label"].meta["filename_or_obj"] == "|".join(volumes[0]["label"])


def test_labels_and_truths_are_optional(tmp_path):
    items = random_items(tmp_path, 3, key="truth")
    del items[1]["truth"]
    images = DecodedImages(items, loader(3))
    assert [list(images.arrays(i)) for i in range(3)] == [["image", "truth"], ["image"], ["image", "truth"]]
    assert list(images[1]) == ["image"] and images[0]["truth"].meta["filename_or_obj"] == items[0]["truth"][0]


def test_other_files_or_settings_are_decoded_again(items, dimensions, tmp_path):
    def hits(data, top):
        return DecodedImages(data, loader(dimensions, ScaleIntensityd("image", minv=0, maxv=top)), tmp_path / "c").hits

    assert hits(items, 1.0) == 0
    assert hits(items, 1.0) == 3
    assert hits(items, 2.0) == 0
    write(Path(items[0]["image"].split(".")[0]), np.random.default_rng(1).random(SHAPES[dimensions]) * 200)
    assert hits(items, 1.0) == 2
    mask = Path(items[1]["label"][0])  # the label's file counts, too
    write(mask.with_name(mask.name.split(".")[0]), np.ones(SHAPES[dimensions], np.uint8))
    assert hits(items, 1.0) == 2
    assert hits([{"image": item["image"]} for item in items], 1.0) == 0
    assert hits(items[1:], 1.0) == 2


def test_what_a_file_holds_and_not_its_time_decides(volumes, tmp_path):
    def hits():
        return DecodedImages(volumes, loader(3), tmp_path / "cache").hits

    hits()
    path = Path(volumes[0]["image"])
    path.touch()
    assert hits() == 3
    path.write_bytes(path.read_bytes() + b"\0")
    assert hits() == 2
    path.rename(tmp_path / "other.nii.gz")
    volumes[0]["image"] = str(tmp_path / "other.nii.gz")
    assert hits() == 2
    assert hits() == 3


def test_a_file_that_changes_while_it_is_read_is_refused(volumes, tmp_path):
    """What is decoded then may be half of each; it must not be kept under the name of either."""

    def slow(data):
        loaded = loader(3)(data)
        with Path(data["image"]).open("ab") as file:
            file.write(b"\0")
        return loaded

    with pytest.raises(ValueError, match=r"scan0.nii.gz and its label must stay as they are while they are read"):
        DecodedImages(volumes, slow, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*/entry.json"))


def test_an_mhd_file_is_its_data_too(tmp_path):
    """Its header stays when the .raw beside it is exchanged."""
    header = "NDims = 3\nElementSpacing = 1 1 1\nDimSize = 6 5 4\nElementType = MET_UCHAR\nElementDataFile = a.raw\n"
    (tmp_path / "a.mhd").write_text(header)
    values = np.arange(120, dtype=np.uint8).reshape(SHAPES[3], order="F")
    loader, cache = LoadVolumed(["image"]), tmp_path / "cache"
    for factor in (1, 2):
        (tmp_path / "a.raw").write_bytes((values * factor).tobytes(order="F"))
        os.utime(tmp_path / "a.raw", (factor, factor))
        images = DecodedImages([{"image": str(tmp_path / "a.mhd")}], loader, cache)
        assert images.hits == 0
        np.testing.assert_array_equal(images.arrays(0)["image"][0], values * factor)
    assert DecodedImages([{"image": str(tmp_path / "a.mhd")}], loader, cache).hits == 1


def test_a_file_is_the_same_by_any_path(volumes, tmp_path, monkeypatch):
    DecodedImages(volumes, loader(3), tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    relative = [{"image": Path(v["image"]).name, "label": [Path(v["label"][0]).name]} for v in volumes]
    assert DecodedImages(relative, loader(3), tmp_path / "cache").hits == 3


def test_a_series_of_files_is_all_of_them(tmp_path):
    """A folder of slices, or several masks: each file counts."""
    folder = tmp_path / "series"
    folder.mkdir()
    for index in range(3):
        (folder / f"slice{index}").write_bytes(b"x")

    class Ones:
        def __call__(self, item):
            image = torch.ones(1, 4, 4)
            image.affine = torch.eye(4)
            return {"image": image}

    def hits(image):
        return DecodedImages([{"image": image}], Ones(), tmp_path / "cache").hits

    assert [hits(str(folder)), hits(str(folder))] == [0, 1]
    (folder / "slice1").write_bytes(b"xy")
    assert [hits(str(folder)), hits(str(folder))] == [0, 1]
    both = [str(folder / "slice0"), str(folder / "slice2")]
    assert [hits(both), hits(both)] == [0, 1]
    (folder / "slice2").write_bytes(b"xy")
    assert hits(both) == 0


def test_a_file_that_is_not_there_is_named(volumes, tmp_path):
    volumes[1]["image"] = str(tmp_path / "nowhere.nii.gz")
    with pytest.raises(FileNotFoundError, match=r"nowhere.nii.gz must be an image, got no such file"):
        DecodedImages(volumes, loader(3), tmp_path / "cache")
    images = DecodedImages(volumes, loader(3), tmp_path / "cache", set_aside=True)
    assert list(images.unreadable) == [str(tmp_path / "nowhere.nii.gz")]


def test_an_older_format_is_decoded_again(volumes, tmp_path, monkeypatch):
    def hits():
        return DecodedImages(volumes, loader(3), tmp_path / "cache").hits

    monkeypatch.setattr(module, "FORMAT", module.FORMAT - 1)
    assert [hits(), hits()] == [0, 3]
    monkeypatch.undo()
    assert [hits(), hits()] == [0, 3]


def test_a_cache_that_was_cut_off_is_completed(items, dimensions, tmp_path):
    DecodedImages(items, loader(dimensions), tmp_path / "cache")
    entry = next((tmp_path / "cache").glob("*/entry.json")).parent
    (entry / "entry.json").unlink()
    (entry / "image.npy").write_bytes(b"half")
    images = DecodedImages(items, loader(dimensions), tmp_path / "cache")
    assert images.hits == 2
    assert all(images[i]["image"].shape == (1, *SHAPES[dimensions]) for i in range(3))


def test_an_entry_is_complete_when_its_header_is_there(volumes, tmp_path, monkeypatch):
    """Whoever is killed in between leaves an entry that counts for nothing."""
    written, replacing = [], module.replacing

    def recording(path, **options):
        written.append(path.name)
        return replacing(path, **options)

    monkeypatch.setattr(module, "replacing", recording)
    DecodedImages(volumes[:1], loader(3), tmp_path / "cache")
    assert written == ["image.npy", "label.npy", "entry.json"]


@pytest.mark.parametrize("lost", ["image.npy", "label.npy", "entry.json"])
@pytest.mark.parametrize("gone", [True, False])
def test_an_entry_that_did_not_reach_the_disk_is_decoded_again(volumes, tmp_path, lost, gone):
    """The machine may stop when a file has its name but not its content."""
    before = DecodedImages(volumes[:1], loader(3), tmp_path / "cache")
    (file,) = tmp_path.glob(f"cache/*/{lost}")
    file.unlink() if gone else file.write_bytes(b"")
    again = DecodedImages(volumes[:1], loader(3), tmp_path / "cache")
    assert again.hits == 0
    for key, values in before.arrays(0).items():
        np.testing.assert_array_equal(again.arrays(0)[key], values)
    assert DecodedImages(volumes[:1], loader(3), tmp_path / "cache").hits == 1


# ---- exchanged images


def exchanged(path, values):
    """Writes other values into a file, whose name, size and time stay."""
    before = path.stat()
    nibabel.save(nibabel.Nifti1Image(values, AFFINE), path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)


@pytest.mark.parametrize("which", ["image", "label"])
@pytest.mark.parametrize("cached", [True, False])
def test_fingerprints_tell_an_exchanged_file(tmp_path, which, cached):
    rng = np.random.default_rng(0)
    item = {"image": str(tmp_path / "scan.nii"), "label": [str(tmp_path / "mask.nii")]}
    values = {"image": rng.random((6, 5, 4)).astype(np.float32), "label": np.eye(6, 5, dtype=np.uint8)[..., None]}
    values["label"] = np.repeat(values["label"], 4, axis=2)
    for key, path in (("image", "scan.nii"), ("label", "mask.nii")):
        nibabel.save(nibabel.Nifti1Image(values[key], AFFINE), tmp_path / path)

    def fingerprints(folder):
        return DecodedImages([item], loader(3), tmp_path / folder if cached else None).fingerprints()

    before = fingerprints("cache")
    assert list(before) == ["0 scan.nii"]
    assert fingerprints("another") == before
    changed = values[which].copy()
    changed[2, 3, 1] = 1 - changed[2, 3, 1]
    exchanged(tmp_path / ("scan.nii" if which == "image" else "mask.nii"), changed)
    assert fingerprints("third") != before
    assert fingerprints("cache") != before  # although its size and time are those of the entry


def test_fingerprints_are_of_names_and_places_not_of_folders(tmp_path):
    (tmp_path / "old").mkdir()
    items = random_items(tmp_path / "old", 3)
    items += [{"image": items[0]["image"]}]
    before = DecodedImages(items, loader(3)).fingerprints()
    assert list(before) == ["0 scan0.nii.gz", "1 scan1.nii.gz", "2 scan2.nii.gz", "3 scan0.nii.gz"]
    assert len(set(before.values())) == 4  # with and without its label
    (tmp_path / "old").rename(tmp_path / "new")
    text = json.dumps(items).replace(str(tmp_path / "old"), str(tmp_path / "new"))
    assert DecodedImages(json.loads(text), loader(3)).fingerprints() == before
    order = DecodedImages(json.loads(text)[::-1], loader(3)).fingerprints()
    assert order["3 scan0.nii.gz"] == before["0 scan0.nii.gz"]


# ---- what cannot be used


def test_unreadable_images_are_set_aside_or_refused(items, dimensions, tmp_path, caplog):
    Path(items[1]["image"]).write_bytes(b"not an image")
    transform, name = loader(dimensions, NormalizeIntensityd("image")), Path(items[1]["image"]).name
    with pytest.raises(RuntimeError) as refused:  # MONAI's wrapping
        DecodedImages(items, transform, tmp_path / "cache")
    assert name in cause(refused.value)
    images = DecodedImages(items, transform, tmp_path / "cache", set_aside=True)
    assert [item["image"] for item in images.data] == [items[0]["image"], items[2]["image"]]
    assert list(images.unreadable) == [items[1]["image"]]
    assert "MONAI" not in images.unreadable[items[1]["image"]] and name in images.unreadable[items[1]["image"]]
    assert f"Set aside {items[1]['image']}: {images.unreadable[items[1]['image']]}" in caplog.text
    assert len(images) == 2
    assert [text.split()[1] for text in images.fingerprints()] == [Path(items[row]["image"]).name for row in (0, 2)]
    np.testing.assert_array_equal(images[1]["label"].numpy(), transform(dict(items[2]))["label"].numpy())


@pytest.mark.parametrize("tiny", [0.0, 1e-11])  # 0 in half precision
def test_empty_images_are_set_aside(volumes, tmp_path, tiny):
    def emptied(data):
        loaded = loader(3)(data)
        return {**loaded, "image": loaded["image"] * (tiny if "scan1" in data["image"] else 1)}

    with pytest.raises(ValueError, match=r"scan1.nii.gz must have pixels that are not 0, got none"):
        DecodedImages(volumes, emptied, tmp_path / "cache")
    images = DecodedImages(volumes, emptied, tmp_path / "cache", set_aside=True)
    assert list(images.unreadable) == [volumes[1]["image"]]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -70000.0, 65536.0])
def test_values_that_half_precision_does_not_have_are_named(volumes, value):
    def spoilt(data):
        loaded = loader(3)(data)
        if "scan1" in data["image"]:
            loaded["image"][0, 1, 2, 3] = value
        return loaded

    with pytest.raises(ValueError, match=r"scan1.nii.gz must have finite values of at most 65504"):
        DecodedImages(volumes, spoilt)
    assert len(DecodedImages(volumes, spoilt, set_aside=True)) == 2


def test_the_largest_values_of_half_precision_are_kept(volumes):
    def large(data):
        loaded = loader(3)(data)
        loaded["image"][0, 0, 0, :2] = torch.tensor([65504.0, -65504.0])
        return loaded

    assert DecodedImages(volumes, large).range(0) == (-65504, 65504)


@pytest.mark.parametrize("what", ["save", "header", "folder"])
def test_a_full_disk_is_not_the_image_s_fault(volumes, tmp_path, monkeypatch, what):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    if what == "save":
        monkeypatch.setattr(np, "save", full)
    else:
        monkeypatch.setattr(Path, "write_text" if what == "header" else "mkdir", full)
    with pytest.raises(RuntimeError, match=r"the cache .*cache could not be written: .*No space left") as refused:
        DecodedImages(volumes, loader(3), tmp_path / "cache", set_aside=True)
    assert cause(refused.value) == str(refused.value)  # nothing behind it
    monkeypatch.undo()
    assert DecodedImages(volumes, loader(3), tmp_path / "cache").hits == 0


def test_errors_of_the_program_are_not_set_aside(volumes, tmp_path):
    def broken(data):
        raise TypeError("a mistake in the code")

    def wrapped(data):
        try:
            broken(data)
        except TypeError as error:
            raise RuntimeError("applying transform") from error

    for transform, kind in ((broken, TypeError), (wrapped, RuntimeError)):
        with pytest.raises(kind):
            DecodedImages(volumes, transform, tmp_path / "cache", set_aside=True)


# ---- small parts


@pytest.mark.parametrize(
    ("pixels", "box"),
    [
        ([(0, 1, 2, 3), (0, 4, 3, 6)], [[1, 2, 3], [5, 4, 7]]),
        ([(0, 0, 0, 0), (0, 5, 6, 7)], [[0, 0, 0], [6, 7, 8]]),
        ([(0, 2, 2, 2), (1, 3, 1, 2)], [[2, 1, 2], [4, 3, 3]]),  # of all channels
        ([(1, 3, 1), (0, 4, 5)], [[3, 1], [5, 6]]),
    ],
)
def test_box_by_hand(pixels, box):
    image = np.zeros((2, 6, 7, 8)[: len(pixels[0])])
    for place, value in zip(pixels, (1, -1), strict=True):
        image[place] = value
    assert bounding_box(image) == box


def test_the_box_is_that_of_the_stored_image(volumes):
    def small(data):
        loaded = loader(3)(data)
        image = torch.zeros_like(loaded["image"])
        image[0, 2, 1:3, 2], image[0, 5, 4, 3] = 1, 1e-9
        return {**loaded, "image": image}

    np.testing.assert_array_equal(DecodedImages(volumes, small).box(0), [[2, 1, 2], [3, 3, 3]])


def test_the_bundle_s_transforms_hit_after_they_were_used(volumes, tmp_path):
    parser = ConfigParser()
    parser.read_config(str(Path(__file__).parents[2] / "bundles" / "ms_popcorn" / "configs" / "train.json"))
    parser["labels"] = {"_target_": "common.label_space.LabelSpace", "classes": ["lesion"]}
    transform = parser.get_parsed_content("train#preprocessing")
    before = json.dumps(describe(transform))
    DecodedImages(volumes, transform, tmp_path / "cache")
    assert json.dumps(describe(transform)) == before
    assert DecodedImages(volumes, transform, tmp_path / "cache").hits == 3


def test_description_is_of_settings_not_of_random_states():
    def noise(std):
        transform = Compose([RandGaussianNoised("image", std=std), ScaleIntensityd("image")])
        return transform.set_random_state(seed=int(1000 * std))

    one, same, other = noise(0.1), Compose([RandGaussianNoised("image", std=0.1), ScaleIntensityd("image")]), noise(0.2)
    assert describe(one) == describe(same.set_random_state(seed=99))
    assert describe(one) != describe(other)


class Mode(Enum):
    ONE = "one"
    TWO = "two"


class Setting:
    def __init__(self, value):
        self.value = value


def named(x):
    return x


def power(x, exponent):
    return x**exponent


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 2),
        (None, 0),
        (True, "True"),
        ((1, 2), (2, 1)),
        ({1, 2}, {1, 3}),
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"b": 1}),
        (Mode.ONE, Mode.TWO),
        (np.arange(3), np.arange(1, 4)),
        (torch.zeros(2), torch.ones(2)),
        (np.float32(0.5), np.float32(0.25)),
        (np.int64(3), np.int64(4)),
        (np.bool_(True), np.bool_(False)),
        (Path("a/b"), Path("a/c")),
        (torch.float32, torch.float16),
        (np.dtype("float32"), np.dtype("float64")),
        (np.float32, np.float64),
        (torch.device("cpu"), torch.device("cuda")),
        (slice(1, 3), slice(1, 4)),
        (range(3), range(4)),
        (partial(power, exponent=2), partial(power, exponent=3)),
        (partial(power, 2), partial(power, 3)),
        (partial(power, 2), partial(named, 2)),
        (named, power),
        (Setting(1), Setting(2)),
        (Setting([Setting(1)]), Setting([Setting(2)])),
        (Compose([Lambdad("image", named)]), Compose([Lambdad("image", power)])),
    ],
)
def test_settings_that_differ_are_described_differently(one, other):
    texts = [json.dumps(describe(Setting(value)), sort_keys=True) for value in (one, other, one)]
    assert texts[0] == texts[2] != texts[1]
    assert "0x" not in texts[0]  # no address, which another process does not have


def test_sets_are_described_in_one_order():
    names = [f"key{i}" for i in range(30)]
    assert describe(set(names)) == sorted(names) == describe(frozenset(names[::-1]))
    assert describe({2, "b"}) in (["b", 2], [2, "b"])


def test_what_works_for_a_transform_is_no_setting():
    one = Setting(1)
    before = describe(one)
    one.R, one._tracing = np.random.RandomState(3), True
    assert describe(one) == before == ["Setting", {"value": 1}]


def test_few_files_are_open_at_a_time(monkeypatch, volumes, tmp_path):
    monkeypatch.setattr("common.data.decoded.MAPPED", 2)
    images = DecodedImages(volumes, LoadVolumed(["image", "label"]), tmp_path / "cache", progress=False)
    first = images.arrays(0)
    assert images.arrays(0) is first and images.arrays(1) is not first
    images.arrays(2)
    assert images.arrays(0) is not first  # opened again
    np.testing.assert_array_equal(images.arrays(0)["image"], first["image"])


@pytest.mark.parametrize("cached", [False, True], ids=["memory", "cache"])
def test_an_item_may_be_one_slice_of_a_volume(volumes, tmp_path, cached):
    cache = tmp_path / "cache" if cached else None
    whole = DecodedImages(volumes[:1], loader(3), cache)
    slices = DecodedImages([{**volumes[0], "slice": place} for place in (0, 2)], loader(3), cache)
    assert slices.hits == 0
    for index, place in enumerate((0, 2)):
        for key in ("image", "label"):
            assert np.array_equal(slices.arrays(index)[key], whole.arrays(0)[key][..., place : place + 1])
        origin = whole.affine(0) @ [0, 0, place, 1]
        assert np.allclose(slices.affine(index) @ [0, 0, 0, 1], origin)
        assert slices.name(index) == f"{volumes[0]['image']} slice {place}"
        assert slices.shape(index) == (6, 5, 1)
    assert len(slices.fingerprints()) == 2


@pytest.mark.parametrize(("dimensions", "said"), [(3, "got an image of 4 slices"), (2, "got an image of two axes")])
def test_a_slice_that_is_not_there_is_named(tmp_path, dimensions, said):
    item = {**random_items(tmp_path, dimensions)[0], "slice": 4}
    with pytest.raises(ValueError, match=f"scan0.* must have a slice 4, counted from 0, {said}"):
        DecodedImages([item], loader(dimensions))


@pytest.mark.parametrize(
    "step",
    [
        Orientationd("image", axcodes="LPI", labels=None),
        Spacingd("image", pixdim=(2, 2, 1.5)),
        CropForegroundd("image", "image", lambda x: torch.arange(x.shape[-1]).expand(x.shape) > 0, allow_smaller=True),
    ],
    ids=["turned", "resampled", "cropped"],
)
def test_a_slice_is_of_the_file_not_of_what_the_preprocessing_made_of_it(tmp_path, step):
    item = {"image": random_items(tmp_path, 3)[0]["image"], "slice": 1}
    with pytest.raises(ValueError, match=r"scan0.* must keep the slices of its file for the slice 1 to be found"):
        DecodedImages([item], loader(3, step))
