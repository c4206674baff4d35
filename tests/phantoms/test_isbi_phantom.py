"""Scanners and folders of the 3D phantom."""

from __future__ import annotations

import csv

import nibabel
import numpy as np
import pytest

from common.data import load_datalist
from common.phantoms.brain import make_brain
from common.phantoms.isbi import make_ms_phantom, phantom_datalist
from common.phantoms.scanner import SCANNERS, scan, settings_at

SIZE = 56


@pytest.fixture(scope="module")
def brain():
    return make_brain(1, 3, SIZE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("phantom") / "ms"
    return make_ms_phantom(directory, labeled=3, unlabeled=3, test=2, size=SIZE, seed=2)


def test_outside_is_zero_and_inside_is_not(brain):
    for scanner in range(4):
        image = scan(brain, scanner, 1, 3)
        assert (image[~brain.inside] == 0).all()
        assert (image[brain.inside] > 0).all()
        assert np.isfinite(image).all()


def test_each_scanner_is_farther_from_the_first():
    for name in ("gamma", "bias", "noise", "slice_mm", "blur_mm", "sharpen"):
        values = [getattr(scanner, name) for scanner in SCANNERS]
        assert values == sorted(values)
    contrasts = [scanner.lesion - scanner.grey for scanner in SCANNERS]
    assert contrasts == sorted(contrasts, reverse=True)


def test_lesions_stand_out_less_on_the_last_scanner(brain):
    def contrast(scanner):
        found = []
        for seed in range(4):
            image = scan(brain, scanner, seed, 3)
            white = brain.inside & (brain.grey < 0.1) & (brain.csf < 0.1) & (brain.lesion < 0.1)
            found.append((image[brain.truth].mean() - image[white].mean()) / image[white].std())
        return np.mean(found)

    assert contrast(0) > 1.5 * contrast(3)


def test_grey_values_say_which_scanner(brain):
    medians = [np.median(scan(brain, scanner, 1, 3)[brain.inside]) for scanner in range(4)]
    assert max(medians) > 2 * min(medians)


def test_settings_between_scanners():
    assert settings_at(0) == SCANNERS[0]
    assert settings_at(2) == SCANNERS[2]
    assert settings_at(9) == settings_at(3) == SCANNERS[3]
    assert settings_at(1.25).gamma == pytest.approx(0.75 * SCANNERS[1].gamma + 0.25 * SCANNERS[2].gamma)


def test_thick_slices_are_smooth_along_z_alone(brain):
    def roughness(image, axis):
        return np.abs(np.diff(image, axis=axis))[brain.inside[:-1, :-1, :-1].nonzero()].mean()

    thin, thick = scan(brain, 0, 1, 3), scan(brain, 3, 1, 3)
    ratio = [roughness(image, 2) / roughness(image, 0) for image in (thin, thick)]
    assert ratio[1] < 0.9 * ratio[0]


def test_layout(folder):
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    expected = {"phantom.csv"}
    for part, numbers in (("labeled", (1, 2, 3)), ("test", (4, 5))):
        for index in numbers:
            start = f"{part}/training{index:02d}"
            expected.add(f"{start}/preprocessed/training{index:02d}_01_flair_pp.nii.gz")
            expected |= {f"{start}/masks/training{index:02d}_01_mask{rater}.nii.gz" for rater in (1, 2)}
    for index in range(1, 4):
        expected |= {f"unlabeled/scan{index:03d}_flair_pp.nii.gz", f"truth/scan{index:03d}_mask.nii.gz"}
    assert files == expected
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "no temporary folder may be left"


def test_files_hold_what_was_made(folder):
    with (folder / "phantom.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["scanner"]) for row in rows] == [0, 0, 0, 1, 2, 3, 0, 1]
    for patient in (0, 4, 7):
        row, brain = rows[patient], make_brain(2, patient, SIZE)
        image, mask = nibabel.load(folder / row["image"]), nibabel.load(folder / row["mask"])
        np.testing.assert_allclose(image.get_fdata(), scan(brain, int(row["scanner"]), 2, patient), atol=0.006)
        np.testing.assert_array_equal(np.asarray(mask.dataobj), brain.truth)
        assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
        assert image.header.get_zooms() == pytest.approx((180 / SIZE,) * 3)
        np.testing.assert_array_equal(image.affine, mask.affine)
        assert float(row["lesion_ml"]) == pytest.approx(brain.lesion_ml, abs=1e-3)


def test_raters_differ_a_little(folder):
    overlaps = []
    for index in (1, 2, 3):
        start = folder / f"labeled/training{index:02d}/masks/training{index:02d}_01_mask"
        one, other = (np.asarray(nibabel.load(f"{start}{rater}.nii.gz").dataobj) for rater in (1, 2))
        overlaps.append(2 * (one & other).sum() / (one.sum() + other.sum()))
    assert all(0.5 < overlap <= 1 for overlap in overlaps)
    assert min(overlaps) < 1


def test_datalist(folder, tmp_path):
    datalist = phantom_datalist(folder, labeled=2, split=0, output=tmp_path / "split0.json")
    assert load_datalist(tmp_path / "split0.json")["test"] == datalist["test"]
    assert [len(datalist[part]) for part in ("labeled", "unlabeled", "validation", "test")] == [2, 3, 0, 2]
    assert all("truth" in item and "label" not in item for item in datalist["unlabeled"])
    drawn = {tuple(i["patient"] for i in phantom_datalist(folder, 2, split)["labeled"]) for split in range(12)}
    assert len(drawn) == 3
    assert phantom_datalist(folder, 2, 5) == phantom_datalist(folder, 2, 5)


def test_refuses(folder, tmp_path):
    with pytest.raises(FileExistsError, match="must be empty"):
        make_ms_phantom(folder, size=SIZE)
    with pytest.raises(ValueError, match="size must be at least 48"):
        make_ms_phantom(tmp_path / "a", size=20)
    with pytest.raises(ValueError, match="scanners must be 1 to 4, got 0"):
        make_ms_phantom(tmp_path / "a", scanners=0)
    with pytest.raises(ValueError, match="must not be negative"):
        make_ms_phantom(tmp_path / "a", test=-1)
    with pytest.raises(FileNotFoundError, match=r"phantom\.csv"):
        phantom_datalist(tmp_path)
    with pytest.raises(ValueError, match="labeled must be 1 to 3, got 4"):
        phantom_datalist(folder, labeled=4)
    assert list(tmp_path.iterdir()) == []
