"""The brightness of a patient, which scales each of its slices, in training and in inference."""

from __future__ import annotations

import runpy

import numpy as np
import pytest
import torch
from bundle_runs import ROOT
from monai.data import MetaTensor
from monai.transforms import Compose
from PIL import Image

from common.data import DecodedImages
from common.transforms import LoadRadiographd

SCRIPTS = runpy.run_path(str(ROOT / "bundles" / "lgg_segmatch" / "scripts" / "patient.py"))
SLICES = {"a_1": [[0, 10], [20, 100]], "a_2": [[0, 0], [40, 60]], "b_1": [[0, 1000], [2000, 4000]]}


def scale(channel=0):
    return Compose([LoadRadiographd("image", channel=channel), SCRIPTS["ScaleByPatientd"]("image", channel)])


@pytest.fixture
def folder(tmp_path):
    """Two slices of a patient with a mask, and one of another patient in 16 bits."""
    for name, values in SLICES.items():
        Image.fromarray(np.array(values, np.uint16 if name == "b_1" else np.uint8)).save(tmp_path / f"{name}.png")
    Image.fromarray(np.full((2, 2), 255, np.uint8)).save(tmp_path / "a_1_mask.png")
    return tmp_path


def test_hand_computed(folder):
    """The mean of a's eight pixels is 28.75; of those above, 40, 60 and 100, the median is 60. Of b's, above 1750, it
    is 3000."""
    for name, bright in (("a_1", 60), ("a_2", 60), ("b_1", 3000)):
        found = scale()({"image": str(folder / f"{name}.png")})["image"]
        expected = np.minimum(np.array(SLICES[name]) * 0.4 / bright, 1).T[None]
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_each_channel_has_its_own_brightness(tmp_path):
    values = np.random.default_rng(0).integers(1, 60, (2, 8, 6, 3)) * [1, 2, 4]
    for index, one in enumerate(values):
        Image.fromarray(one.astype(np.uint8)).save(tmp_path / f"p_{index}.tif")
    found = scale("all")({"image": str(tmp_path / "p_1.tif")})["image"]
    for channel in range(3):
        every = values[..., channel]
        bright = np.median(every[every > every.mean()])
        expected = np.minimum(values[1, ..., channel] * 0.4 / bright, 1).T
        np.testing.assert_allclose(found[channel], expected, rtol=1e-5)
        alone = scale(channel)({"image": str(tmp_path / "p_1.tif")})["image"]
        np.testing.assert_allclose(alone[0], expected, rtol=1e-5)


def test_a_brighter_patient_looks_the_same(tmp_path):
    values = np.random.default_rng(0).integers(0, 60, (4, 8, 6)).astype(np.uint8)
    for index, one in enumerate(values):
        Image.fromarray(one).save(tmp_path / f"dark_{index}.png")
        Image.fromarray(3 * one).save(tmp_path / f"bright_{index}.png")
    dark, bright = (scale()({"image": str(tmp_path / f"{name}_2.png")})["image"] for name in ("dark", "bright"))
    np.testing.assert_allclose(dark, bright, rtol=1e-6)


@pytest.mark.parametrize("damage", ["cut", "missing", "channels"])
def test_a_slice_that_cannot_be_read_does_not_stop_the_others(folder, damage):
    other = folder / "a_2.png"
    if damage == "channels":
        Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(other)
    elif damage == "cut":
        other.write_bytes(other.read_bytes()[:30])
    else:
        other.unlink()
    found = scale("all")({"image": str(folder / "a_1.png")})["image"]
    # of one kind with a_1 is nothing else, whose mean is 32.5
    np.testing.assert_allclose(found, np.minimum(np.array(SLICES["a_1"]) * 0.4 / 100, 1).T[None], rtol=1e-6)


def test_a_grey_picture_lacks_the_second_channel_and_spoils_nothing(tmp_path):
    values = np.random.default_rng(0).integers(1, 200, (2, 8, 6, 3)).astype(np.uint8)
    for index, one in enumerate(values):
        Image.fromarray(one).save(tmp_path / f"p_{index}.png")
    expected = scale(1)({"image": str(tmp_path / "p_1.png")})["image"]
    Image.fromarray(values[0, ..., 0]).save(tmp_path / "p_7.png")
    np.testing.assert_allclose(scale(1)({"image": str(tmp_path / "p_1.png")})["image"], expected)


@pytest.mark.parametrize("kind", ["transparent", "palette", "bits"])
def test_other_kinds_of_pictures_are_measured_as_they_are_read(tmp_path, kind):
    """The median of the tissue is 0.4, also where a file holds indices, or an opacity."""
    rng = np.random.default_rng(0)
    for index in range(2):
        values = rng.integers(0, 255, (9, 8, 3)).astype(np.uint8)
        picture = Image.fromarray(values)
        if kind == "transparent":
            picture.putalpha(7)
        else:
            picture = picture.quantize(16) if kind == "palette" else Image.fromarray(values[..., 0] > 99)
        picture.save(tmp_path / f"p_{index}.png")
    channel = 0 if kind == "bits" else "all"
    every = [scale(channel)({"image": str(tmp_path / f"p_{index}.png")})["image"] for index in range(2)]
    for one in np.stack(every, 1):
        assert np.median(one[one > one.mean()]) == pytest.approx(0.4)


def test_many_numbered_pictures_are_no_slices_of_one_patient(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(6):
        Image.fromarray(rng.integers(0, 40 * (index + 1), (8, 6)).astype(np.uint8)).save(tmp_path / f"x_{index}.png")
    with_others = scale()({"image": str(tmp_path / "x_1.png")})["image"]
    for index in range(6, 501):
        (tmp_path / f"x_{index}.png").touch()
    alone = scale()({"image": str(tmp_path / "x_1.png")})["image"]
    assert float(alone.max()) > float(with_others.max())
    own = np.asarray(Image.open(tmp_path / "x_1.png")).astype(float).T
    np.testing.assert_allclose(alone[0], np.minimum(own * 0.4 / np.median(own[own > own.mean()]), 1), rtol=1e-5)


def test_an_image_without_a_file_and_a_black_one(tmp_path):
    image = MetaTensor(
        torch.tensor([[[0.0, 10], [20, 100]]]), meta={"filename_or_obj": str(tmp_path / "no" / "x_1.png")}
    )
    found = SCRIPTS["ScaleByPatientd"]("image", 0)({"image": image})["image"]
    np.testing.assert_allclose(found, np.minimum(image * 0.4 / 100, 1))
    black = SCRIPTS["ScaleByPatientd"]("image", 0)({"image": image * 0})["image"]
    assert not black.any()


def test_the_cache_knows_the_other_slices(folder, tmp_path):
    """What is cached of a slice is no longer right when another slice of its patient changes."""
    items = [{"image": str(folder / "a_1.png")}]
    first = DecodedImages(items, scale(), tmp_path / "cache")
    assert DecodedImages(items, scale(), tmp_path / "cache").hits == 1
    Image.fromarray(np.array([[0, 0], [200, 220]], np.uint8)).save(folder / "a_2.png")
    again = DecodedImages(items, scale(), tmp_path / "cache")
    assert again.hits == 0
    assert float(again[0]["image"].max()) < float(first[0]["image"].max())
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(folder / "a_1_mask.png")  # is none of its slices
    assert DecodedImages(items, scale(), tmp_path / "cache").hits == 1
