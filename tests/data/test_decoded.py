"""Cached volumes: what comes back is what the transform gave, once; what changed is decoded again."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose, NormalizeIntensityd, RandGaussianNoised, ScaleIntensityd

from common.data import CachedVolumes
from common.data.volume_cache import bounding_box, describe
from common.errors import cause
from common.transforms import LoadVolumed

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])


def write(path, values):
    nibabel.save(nibabel.Nifti1Image(values, AFFINE), path)
    return str(path)


@pytest.fixture
def items(tmp_path):
    rng = np.random.default_rng(0)
    found = []
    for index in range(3):
        image = rng.normal(100, 10, (6, 5, 4)).astype(np.float32)
        mask = (rng.random((6, 5, 4)) > 0.8).astype(np.uint8)
        found.append(
            {
                "image": write(tmp_path / f"scan{index}.nii.gz", image),
                "label": [write(tmp_path / f"mask{index}.nii.gz", mask)],
            }
        )
    return found


class Counting:
    """The transform of the bundle, counting its calls."""

    def __init__(self, divisor=1.0):
        self.steps = Compose([LoadVolumed(["image", "label"]), ScaleIntensityd("image", minv=0, maxv=1 / divisor)])
        self.calls = 0

    def __call__(self, data):
        self.calls += 1
        return self.steps(data)


def test_decodes_once(items, tmp_path, monkeypatch):
    monkeypatch.setattr("common.data.volume_cache.describe", lambda _: "the same")
    transform = Counting()
    first = CachedVolumes(items, transform, tmp_path / "cache")
    for _ in range(3):
        assert len([first[i] for i in range(len(first))]) == 3
    again = CachedVolumes(items, transform, tmp_path / "cache")
    assert (transform.calls, first.hits, again.hits) == (3, 0, 3)


def test_gives_what_the_transform_gave(items, tmp_path):
    transform = Compose([LoadVolumed(["image", "label"]), NormalizeIntensityd("image")])
    volumes = CachedVolumes(items, transform, tmp_path / "cache")
    for index, item in enumerate(items):
        expected, found = transform(dict(item)), volumes[index]
        # half precision has 11 bits
        np.testing.assert_allclose(found["image"].numpy(), expected["image"].numpy(), rtol=2**-11, atol=1e-6)
        np.testing.assert_array_equal(found["label"].numpy(), expected["label"].numpy())
        np.testing.assert_array_equal(found["image"].affine, AFFINE)
        assert found["image"].meta["filename_or_obj"] == item["image"]
        assert found["label"].meta["filename_or_obj"] == item["label"][0]
        assert found["image"].dtype == torch.float32
        arrays = volumes.arrays(index)
        assert all(isinstance(array, np.memmap) for array in arrays.values())


def test_other_files_or_settings_are_decoded_again(items, tmp_path):
    def hits(data, divisor):
        transform = Compose([LoadVolumed(["image", "label"]), ScaleIntensityd("image", minv=0, maxv=1 / divisor)])
        return CachedVolumes(data, transform, tmp_path / "cache").hits

    assert hits(items, 1.0) == 0
    assert hits(items, 1.0) == 3
    assert hits(items, 2.0) == 0
    write(tmp_path / "scan0.nii.gz", np.random.default_rng(1).random((6, 5, 4)).astype(np.float32))
    assert hits(items, 1.0) == 2


def test_a_cache_that_was_cut_off_is_completed(items, tmp_path):
    transform = LoadVolumed(["image", "label"])
    CachedVolumes(items, transform, tmp_path / "cache")
    entry = next((tmp_path / "cache").iterdir())
    (entry / "entry.json").unlink()
    (entry / "image.npy").write_bytes(b"half")
    volumes = CachedVolumes(items, transform, tmp_path / "cache")
    assert volumes.hits == 2
    assert all(volumes[i]["image"].shape == (1, 6, 5, 4) for i in range(3))


def test_unreadable_volumes_are_set_aside_or_refused(items, tmp_path, caplog):
    (tmp_path / "scan1.nii.gz").write_bytes(b"not a volume")
    transform = Compose([LoadVolumed(["image", "label"]), NormalizeIntensityd("image")])
    with pytest.raises(RuntimeError) as refused:  # MONAI's wrapping
        CachedVolumes(items, transform, tmp_path / "cache")
    assert "scan1.nii.gz" in cause(refused.value)
    volumes = CachedVolumes(items, transform, tmp_path / "cache", set_aside=True)
    assert [item["image"] for item in volumes.data] == [items[0]["image"], items[2]["image"]]
    assert list(volumes.unreadable) == [items[1]["image"]]
    assert "Set aside" in caplog.text
    np.testing.assert_array_equal(volumes[1]["label"].numpy(), transform(dict(items[2]))["label"].numpy())


def test_empty_volumes_are_set_aside(items, tmp_path):
    write(tmp_path / "scan1.nii.gz", np.r_[np.zeros(119), 1].reshape(6, 5, 4).astype(np.float32))

    def emptied(data):
        loaded = LoadVolumed(["image", "label"])(data)
        return {**loaded, "image": loaded["image"] * (loaded["image"].max() > 50)}

    volumes = CachedVolumes(items, emptied, tmp_path / "cache", set_aside=True)
    assert list(volumes.unreadable) == [items[1]["image"]]


def test_a_full_disk_is_not_the_volume_s_fault(items, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space left"):
        CachedVolumes(items, LoadVolumed(["image", "label"]), tmp_path / "cache", set_aside=True)


def test_box_by_hand():
    image = np.zeros((1, 6, 7, 8))
    image[0, 1, 2:5, 3], image[0, 4, 3, 6] = 1, -1
    assert bounding_box(image) == [[1, 2, 3], [5, 5, 7]]


def test_errors_of_the_program_are_not_set_aside(items, tmp_path):
    def broken(data):
        raise TypeError("a mistake in the code")

    with pytest.raises(TypeError, match="a mistake"):
        CachedVolumes(items, broken, tmp_path / "cache", set_aside=True)


def test_the_bundle_s_transforms_hit_after_they_were_used(items, tmp_path):
    parser = ConfigParser()
    parser.read_config(str(Path(__file__).parents[2] / "bundles" / "ms_popcorn" / "configs" / "train.json"))
    parser["labels"] = {"_target_": "common.label_space.LabelSpace", "classes": ["lesion"]}
    transform = parser.get_parsed_content("train#preprocessing")
    before = json.dumps(describe(transform))
    CachedVolumes(items, transform, tmp_path / "cache")
    assert json.dumps(describe(transform)) == before
    assert CachedVolumes(items, transform, tmp_path / "cache").hits == 3


def test_description_is_of_settings_not_of_random_states():
    def noise(std):
        transform = Compose([RandGaussianNoised("image", std=std), ScaleIntensityd("image")])
        return transform.set_random_state(seed=int(1000 * std))

    one, same, other = noise(0.1), Compose([RandGaussianNoised("image", std=0.1), ScaleIntensityd("image")]), noise(0.2)
    assert describe(one) == describe(same.set_random_state(seed=99))
    assert describe(one) != describe(other)
