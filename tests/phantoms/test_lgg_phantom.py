"""The phantom of gliomas: the same ones for the same seed, and what is true of every patient."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from common.data.layouts.lgg import CLASSES, find_lgg
from common.phantoms import find_phantom
from common.phantoms.lgg import make_lgg_phantom, make_patient

PATIENTS, SIZE, SLICES = 8, 48, 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_lgg_phantom(tmp_path_factory.mktemp("phantom") / "lgg", PATIENTS, SIZE, SLICES, seed=1)


@pytest.fixture(scope="module")
def patients(folder):
    """Image ``slices rows columns channels`` and mask ``slices rows columns`` of each patient."""
    found = {}
    for item in find_lgg(folder):
        images, masks = found.setdefault(item["patient"], ([], []))
        images.append(np.asarray(Image.open(item["image"])))
        masks.append(np.asarray(Image.open(item["label"][0])) > 0)
    return {patient: tuple(map(np.stack, both)) for patient, both in found.items()}


def test_files_and_their_form(folder):
    names = [f"PHANTOM_{'ABCD'[n % 4]}_{n + 1:04d}" for n in range(PATIENTS)]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    for name in names:
        ends = [f"{name}_{n}{end}.tif" for n in range(1, SLICES + 1) for end in ("", "_mask")]
        assert sorted(path.name for path in (folder / name).iterdir()) == sorted(ends)
    for item in find_lgg(folder):
        image, mask = Image.open(item["image"]), Image.open(item["label"][0])
        assert (image.mode, image.size, mask.mode, mask.size) == ("RGB", (SIZE, SIZE), "L", (SIZE, SIZE))
        assert set(np.unique(np.asarray(mask))) <= {0, 255}


def test_the_same_seed_gives_the_same_patients(tmp_path):
    first, again, other = (
        files(make_lgg_phantom(tmp_path / name, 2, 48, 8, seed)) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert len(first) == 2 * 8 * 2
    assert first == again
    images = [key for key in first if not key.endswith("_mask.tif")]
    assert all(first[key] != other[key] for key in images)
    assert len({first[key] for key in images}) == len(images)


def files(folder):
    return {path.name: np.asarray(Image.open(path)).tobytes() for path in folder.rglob("*.tif")}


def test_a_patient_does_not_depend_on_how_many_there_are(patients):
    image, mask = make_patient("B", SIZE, SLICES, seed=1, patient=2)
    np.testing.assert_array_equal(np.moveaxis(image, 2, 0), patients["PHANTOM_B_0002"][0])
    np.testing.assert_array_equal(np.moveaxis(mask, 2, 0), patients["PHANTOM_B_0002"][1])


def test_every_patient_has_a_tumour_and_most_slices_have_none(patients):
    counts = [mask.any(axis=(1, 2)).sum() for _, mask in patients.values()]
    assert min(counts) >= 1
    assert 0.2 < sum(counts) / (PATIENTS * SLICES) < 0.5


def test_tumours_are_brighter_on_flair_than_what_is_around_them(patients):
    """Not all: cysts are dark, and some hardly stand out."""
    brighter, darker = 0, 0
    for image, mask in patients.values():
        t1, flair = (image[..., channel].astype(float) for channel in (0, 1))
        near = around(mask)
        brighter += np.median(flair[mask]) > np.median(flair[near])
        darker += np.median(t1[mask]) < np.median(t1[near])
    assert brighter >= 0.75 * PATIENTS
    assert darker >= 0.5 * PATIENTS  # of some FLAIR stands for T1


def around(mask):
    wide = mask.copy()
    for axis in (1, 2):
        for shift in range(-3, 4):
            wide |= np.roll(mask, shift, axis)
    return wide & ~mask


def test_brightness_alone_does_not_find_tumours(patients):
    """The best threshold that there is for each patient, chosen with its own mask."""
    best = []
    for image, mask in patients.values():
        flair = image[..., 1]
        scores = [
            2 * (mask & (flair > level)).sum() / (mask.sum() + (flair > level).sum()) for level in range(20, 250, 5)
        ]
        best.append(max(scores))
    assert np.median(best) < 0.5


def test_outside_the_head_it_is_dark_and_there_is_no_tumour(patients):
    for image, mask in patients.values():
        corners = [
            (slice(None), rows, columns)
            for rows in (slice(4), slice(-4, None))
            for columns in (slice(4), slice(-4, None))
        ]
        for corner in corners:
            assert np.median(image[corner]) < 25
            assert not mask[corner].any()


def test_sites_differ_in_contrast_and_noise():
    """Of the same patient."""
    images = {site: make_patient(site, 48, 8, seed=0, patient=3)[0].astype(float) for site in "ABCD"}
    heads = {site: image[..., 0][image[..., 0] > 30] for site, image in images.items()}
    assert np.std(heads["C"]) / np.mean(heads["C"]) > 1.2 * np.std(heads["D"]) / np.mean(heads["D"])
    noise = {site: image[:4, :4, :, 1].std() for site, image in images.items()}
    assert noise["D"] > 1.5 * noise["A"]
    masks = {make_patient(site, 48, 8, seed=0, patient=3)[1].tobytes() for site in "AB"}
    assert len(masks) == 1


def test_datalist(folder):
    phantom = find_phantom("lgg")
    assert (phantom.classes, phantom.mode) == (CLASSES, "multilabel")
    assert phantom.make is make_lgg_phantom
    datalist = phantom.datalist(folder, labeled=3, split=1)
    assert datalist["name"] == "LGG phantom lgg"
    counts = [len(datalist[part]) / SLICES for part in ("labeled", "unlabeled", "validation", "test")]
    assert counts == [3, 2, 1, 2]
    assert phantom.datalist(folder, 5, 1)["test"] == datalist["test"]
    with pytest.raises(ValueError, match="labeled must be at most 5: of 8 annotated patients"):
        phantom.datalist(folder, labeled=6)
    with pytest.raises(FileNotFoundError, match="absent"):
        phantom.datalist(folder / "absent")


def test_refuses(folder, tmp_path):
    with pytest.raises(FileExistsError, match="lgg must be empty, got a folder with files"):
        make_lgg_phantom(folder)
    for settings, message in (
        ({"size": 47}, "size must be at least 48, got 47"),
        ({"size": 10**9}, "size must be at most 1024, got 1000000000"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"patients": 0}, "patients must be at least 1, got 0"),
        ({"slices": 7}, "slices must be at least 8, got 7"),
    ):
        with pytest.raises(ValueError, match=message):
            make_lgg_phantom(tmp_path / "a", **settings)
    assert list(tmp_path.iterdir()) == []
