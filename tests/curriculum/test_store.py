"""Pseudo-labels on disk: what is read is what was written, whatever their form."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest

from common.curriculum import PseudoLabelStore

AFFINE = np.array([[2.0, 0, 0, -5], [0, 2, 0, 7], [0, 0, 2.5, 0], [0, 0, 0, 1]])
SIZES = [(9, 7), (9, 7, 5)]


def random(channels, size, top=2, seed=0):
    return np.random.default_rng(seed).integers(0, top, (channels, *size)).astype(np.float32)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("channels", "top"), [(1, 2), (3, 2), (1, 5)])
def test_hard_labels(tmp_path, size, channels, top):
    """A mask, several, and a label map."""
    store, label = PseudoLabelStore(tmp_path / "new"), random(channels, size, top)
    store.save("a", label, None, AFFINE)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.nii.gz"]
    assert not store.is_soft("a")
    found = store.load_label("a")
    assert found.shape == label.shape and found.dtype == np.uint8
    np.testing.assert_array_equal(found, label)
    file = nibabel.load(tmp_path / "new" / "a.nii.gz")
    np.testing.assert_array_equal(file.affine, AFFINE)
    volume = (*size, 1)[:3]
    assert file.shape == (volume if channels == 1 else (*volume, channels))  # any viewer's order
    assert file.header.get_xyzt_units()[0] == "mm"
    values = np.asarray(file.dataobj).reshape(*volume, channels)
    np.testing.assert_array_equal(np.moveaxis(values, -1, 0).reshape(label.shape), label)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_soft_labels(tmp_path, size, channels):
    store = PseudoLabelStore(tmp_path)
    label = np.random.default_rng(1).random((channels, *size)).astype(np.float32)
    label[:, :3], label[:, 3:6] = 0, 1  # mostly whole numbers
    store.save("a", label, None, AFFINE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii.gz", "a.npy"]
    assert store.is_soft("a")
    np.testing.assert_array_equal(store.load_label("a"), label)
    found = store.soft_label("a")
    assert list(found) == ["label"] and isinstance(found["label"], np.memmap) and found["label"].dtype == np.float16
    np.testing.assert_array_equal(found["label"], label.astype(np.float16))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("weights", [1, 2])
@pytest.mark.parametrize("soft", [True, False])
def test_labels_with_weights(tmp_path, size, weights, soft):
    """A weight makes also a hard label one of which patches are read."""
    store, label = PseudoLabelStore(tmp_path), random(2, size) * (0.75 if soft else 1)
    weight = np.random.default_rng(2).random((weights, *size)).astype(np.float32)
    store.save("a", label, weight, AFFINE)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.nii.gz",
        "a.npy",
        "a_weight.nii.gz",
        "a_weight.npy",
    ]
    assert store.is_soft("a")
    found = store.soft_label("a")
    assert list(found) == ["label", "weight"]
    np.testing.assert_array_equal(found["label"], label)
    np.testing.assert_array_equal(found["weight"], weight.astype(np.float16))
    np.testing.assert_array_equal(store.load_label("a"), label)
    np.testing.assert_array_equal(store.load_label("a_weight"), weight)


def test_a_missing_label_is_named(tmp_path):
    store = PseudoLabelStore(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"a.nii.gz must be a pseudo-label of this run, got no such file"):
        store.load_label("a")
    assert not store.is_soft("a") and store.soft_label("a") == {}


def test_latents(tmp_path):
    store = PseudoLabelStore(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"latents.npz must hold this run's latents"):
        store.read_latents()
    latents = np.random.default_rng(0).random((3, 4))
    for names, steps in ((["a", "b", "c"], [0, 1, -1]), (["d", "b", "c"], [0, 1, 2])):
        store.write_latents(latents, names, steps)
        np.testing.assert_array_equal(store.read_latents(), latents.astype(np.float32))
        with np.load(tmp_path / "latents.npz", allow_pickle=False) as content:
            assert content["images"].tolist() == names and content["steps"].tolist() == steps
        latents = latents + 1


def test_manifest(tmp_path):
    store = PseudoLabelStore(tmp_path)
    for entries in ([{"image": "a", "step": 1}], [{"image": "a", "step": 1}, {"image": "b", "step": 2}]):
        store.write_manifest(entries, {"c.nii.gz": "is broken"})
        content = json.loads((tmp_path / "manifest.json").read_text())
        assert content == {"images": entries, "set_aside": [{"image": "c.nii.gz", "reason": "is broken"}]}
