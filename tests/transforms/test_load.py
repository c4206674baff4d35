"""Loading images and labels as MONAI's dictionary transforms do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged, Resized, ScaleIntensityRangePercentilesd
from PIL import Image

from common.data import DecodedImages
from common.label_space import LabelSpace
from common.transforms.load import LoadLabeld, LoadRadiographd

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (6, 10)).astype(np.uint8)  # rows, columns
LABEL = RNG.integers(0, 3, (6, 10)).astype(np.uint8)
MULTILABEL = LabelSpace(["a", "b"], "multilabel")
MULTICLASS = LabelSpace(["a", "b"], "multiclass")


def save(path, array):
    Image.fromarray(array).save(path)
    return str(path)


def mask_of(label, index):
    return np.where(label == index + 1, 255, 0).astype(np.uint8)


@pytest.fixture
def item(tmp_path):
    masks = [save(tmp_path / f"mask{j}.png", mask_of(LABEL, j)) for j in range(2)]
    return {
        "image": save(tmp_path / "image.png", IMAGE),
        "masks": masks,
        "map": save(tmp_path / "map.png", LABEL),
    }


def load(item, key, labels):
    return LoadLabeld(key, labels=labels)(LoadRadiographd()(item))


def test_image_is_the_one_of_the_stock_transform(item):
    ours = LoadRadiographd()(item)["image"]
    stock = LoadImaged("image", ensure_channel_first=True)(item)["image"]
    assert isinstance(ours, MetaTensor)
    assert ours.shape == (1, 10, 6)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.as_tensor(), stock.as_tensor())
    assert ours.meta["filename_or_obj"] == item["image"]


@pytest.mark.parametrize(("channel", "taken"), [(0, [0]), (1, [1]), ("all", [0, 1, 2])])
def test_channels_of_a_picture_of_several_contrasts(tmp_path, channel, taken):
    contrasts = np.stack([IMAGE, 255 - IMAGE, IMAGE // 2], axis=-1)
    path = save(tmp_path / "contrasts.tif", contrasts)
    image = LoadRadiographd(channel=channel)({"image": path})["image"]
    assert image.shape == (len(taken), 10, 6)
    np.testing.assert_array_equal(image.numpy(), contrasts.transpose(2, 1, 0)[taken])
    assert image.meta["spatial_shape"].tolist() == [10, 6]
    assert image.meta["blank"] is False


def test_a_blank_channel_is_marked_and_decoded(tmp_path):
    """At the end of a head one contrast may be missing: nothing is wrong with the file."""
    contrasts = np.stack([IMAGE, 0 * IMAGE, IMAGE // 2], axis=-1)
    item = {"image": save(tmp_path / "contrasts.tif", contrasts)}
    for channel, blank in ((0, False), (1, True), ("all", False), (None, False)):
        assert LoadRadiographd(channel=channel)(item)["image"].meta["blank"] is blank
    scaled = ScaleIntensityRangePercentilesd("image", lower=1, upper=99, b_min=0, b_max=1, clip=True)
    decoded = DecodedImages([item], Compose([LoadRadiographd(channel=1), scaled]), progress=False)
    assert not decoded[0]["image"].any()
    np.testing.assert_array_equal(decoded.box(0), [[0, 0], [10, 6]])
    with pytest.raises(ValueError, match=r"contrasts.tif must have pixels that are not 0, got none"):
        DecodedImages([item], Compose([LoadRadiographd(), lambda data: {"image": data["image"] * 0}]), progress=False)


def test_entries_of_a_cache_are_of_their_channel(tmp_path):
    item = {"image": save(tmp_path / "contrasts.tif", np.stack([IMAGE, 255 - IMAGE, IMAGE // 2], axis=-1))}
    for channel, first in ((0, IMAGE[0, 0]), (1, 255 - IMAGE[0, 0]), (2, IMAGE[0, 0] // 2)):
        decoded = DecodedImages([item], LoadRadiographd(channel=channel), tmp_path / "cache", progress=False)
        assert decoded.hits == 0
        assert decoded[0]["image"][0, 0, 0] == first


def test_a_channel_that_is_none_and_one_that_is_missing(item):
    with pytest.raises(ValueError, match='channel must be None, "all" or a whole number from 0, got -1'):
        LoadRadiographd(channel=-1)
    with pytest.raises(ValueError, match=r"image.png: an image must have at least 2 channels for channel=1, got 1"):
        LoadRadiographd(channel=1)(item)


def test_as_many_channels_as_the_network_has_inputs_for(item):
    assert LoadRadiographd(channel="all", channels=1)(item)["image"].shape[0] == 1
    with pytest.raises(ValueError, match=r"image.png: an image must have 3 channels, got 1. Ask for one of them by ch"):
        LoadRadiographd(channel="all", channels=3)(item)


def test_masks_and_map_are_the_same_multilabel_label(item):
    expected = np.stack([LABEL.T == 1, LABEL.T == 2]).astype(np.float32)
    for key in ("masks", "map"):
        label = load(item, key, MULTILABEL)[key]
        assert isinstance(label, MetaTensor)
        assert label.dtype == torch.float32
        np.testing.assert_array_equal(label.numpy(), expected)


def test_multiclass_label_is_the_map(item):
    label = load(item, "map", MULTICLASS)["map"]
    assert label.shape == (1, 10, 6)
    np.testing.assert_array_equal(label.numpy()[0], LABEL.T)
    assert label.meta["filename_or_obj"] == item["map"]


def test_the_item_is_left_as_it_was_and_stock_transforms_follow(item):
    before = dict(item)
    transforms = [LoadRadiographd(), LoadLabeld("map", labels=MULTICLASS)]
    resized = Compose([*transforms, Resized(("image", "map"), (20, 12), mode=("area", "nearest"))])(item)
    assert item == before
    assert resized["image"].shape == resized["map"].shape == (1, 20, 12)


def test_label_of_another_scale_takes_the_image_s_size(tmp_path, item):
    item["map"] = save(tmp_path / "large.png", np.kron(LABEL, np.ones((4, 4), np.uint8)))
    np.testing.assert_array_equal(load(item, "map", MULTICLASS)["map"].numpy()[0], LABEL.T)
    half = LABEL[::2, ::2]
    item["masks"] = [save(tmp_path / f"half{j}.png", mask_of(half, j)) for j in range(2)]
    label = load(item, "masks", MULTILABEL)["masks"]
    expected = np.stack([np.kron(j + 1 == half.T, np.ones((2, 2))) for j in range(2)])
    np.testing.assert_array_equal(label.numpy(), expected)


def test_label_of_another_shape_is_refused_with_both_sizes(tmp_path, item):
    item["map"] = save(tmp_path / "turned.png", np.ascontiguousarray(LABEL.T))
    with pytest.raises(ValueError, match=r"turned\.png.*got 6 x 10 pixels for an image of 10 x 6"):
        load(item, "map", MULTICLASS)


def test_values_outside_the_classes_are_refused(tmp_path, item):
    item["map"] = save(tmp_path / "high.png", LABEL * 100)
    for labels in (MULTILABEL, MULTICLASS):
        with pytest.raises(ValueError, match=r"high\.png.*values 0 to 2, got \[100, 200\]"):
            load(item, "map", labels)


def test_wrong_number_or_sizes_of_masks_are_refused(tmp_path, item):
    with pytest.raises(ValueError, match=r"must be 2 masks.* got 1 files"):
        load({**item, "masks": item["masks"][:1]}, "masks", MULTILABEL)
    with pytest.raises(ValueError, match="must be one label map, got 2 files"):
        load(item, "masks", MULTICLASS)
    other = save(tmp_path / "other.png", np.ones((3, 5), np.uint8))
    with pytest.raises(ValueError, match="must have one size"):
        load({**item, "masks": [item["masks"][0], other]}, "masks", MULTILABEL)


def test_missing_truth_is_allowed_where_asked_for(item):
    load_truth = LoadLabeld("truth", labels=MULTICLASS, allow_missing_keys=True)
    assert "truth" not in load_truth(LoadRadiographd()(item))
    assert load_truth(LoadRadiographd()({**item, "truth": item["map"]}))["truth"].shape == (1, 10, 6)
    with pytest.raises(KeyError, match="truth"):
        LoadLabeld("truth", labels=MULTICLASS)(LoadRadiographd()(item))


def test_label_before_image_and_no_label_space_are_refused(item):
    with pytest.raises(ValueError, match="'image' must be loaded before 'map'"):
        LoadLabeld("map", labels=MULTICLASS)(item)
    with pytest.raises(ValueError, match="labels must be a LabelSpace"):
        LoadLabeld("map")
