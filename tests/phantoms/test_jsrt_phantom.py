"""Phantoms: the layout on disk, the same patient every time, masks and sites as they should be."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import label

from common.phantoms.jsrt import CLASSES, describe_patient, make_jsrt_phantom, render_patient


@pytest.fixture(scope="module")
def patients():
    return [(describe_patient(3, index), *render_patient(3, index, 128)) for index in range(24)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_jsrt_phantom(tmp_path_factory.mktemp("phantom") / "jsrt", patients=7, size=64, seed=3)


def masks_of(patients, organ):
    return np.array([masks[organ] for _, _, masks in patients])


def test_layout_is_complete(folder):
    images = sorted(path.name for path in (folder / "All247images").iterdir())
    expected = sorted(f"{describe_patient(3, index).name}.IMG" for index in range(7))
    assert images == expected
    for name in images:
        number = int(name[5:8])
        for organ in CLASSES:
            fold, other = ("fold1", "fold2") if number % 2 else ("fold2", "fold1")
            relative = f"masks/{organ.replace('_', ' ')}/{name[:-4]}.gif"
            assert (folder / "scratch" / fold / relative).is_file()
            assert not (folder / "scratch" / other / relative).exists()
    assert {path.name for path in folder.iterdir()} == {"All247images", "scratch", "phantom.csv"}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "no temporary folder may be left"


def test_files_hold_what_was_rendered(folder):
    for index in (0, 3):
        patient = describe_patient(3, index)
        image, masks = render_patient(3, index, 64)
        data = (folder / "All247images" / f"{patient.name}.IMG").read_bytes()
        assert len(data) == 2 * 64 * 64
        # by hand: high byte first, and dense tissue (high in `image`) is low in the file
        stored = np.array([256 * high + low for high, low in zip(data[::2], data[1::2], strict=True)])
        assert stored.min() >= 0 and stored.max() <= 4095
        np.testing.assert_allclose(stored.reshape(64, 64), 4095 * (1 - image), atol=0.51)
        fold = "fold1" if patient.number % 2 else "fold2"
        for organ in CLASSES:
            path = folder / "scratch" / fold / "masks" / organ.replace("_", " ") / f"{patient.name}.gif"
            with Image.open(path) as picture:
                read = np.array(picture.convert("L"))
            np.testing.assert_array_equal(read, 255 * masks[organ].astype(np.uint8))


def test_table_names_every_patient(folder):
    with (folder / "phantom.csv").open() as file:
        rows = list(csv.DictReader(file))
    expected = [describe_patient(3, index) for index in range(7)]
    assert [(row["patient"], row["site"], row["nodule"]) for row in rows] == [
        (patient.name, patient.site, str(int(patient.nodule))) for patient in expected
    ]


def test_same_files_again_and_with_more_patients(folder, tmp_path):
    other = make_jsrt_phantom(tmp_path / "more" / "patients", patients=9, size=64, seed=3)
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.suffix in (".IMG", ".gif")]
    assert len(files) == 7 * 6
    for file in files:
        assert (other / file).read_bytes() == (folder / file).read_bytes(), file


def test_another_seed_or_patient_is_another_image():
    image = render_patient(3, 0, 64)[0]
    np.testing.assert_array_equal(image, render_patient(3, 0, 64)[0])
    assert np.abs(image - render_patient(4, 0, 64)[0]).mean() > 0.02
    assert np.abs(image - render_patient(3, 1, 64)[0]).mean() > 0.02


@pytest.mark.parametrize("patients", [2, 3, 40, 247])
def test_names_are_unique_and_halves_equal(patients):
    described = [describe_patient(0, index) for index in range(patients)]
    assert len({patient.name for patient in described}) == patients
    odd = sum(patient.number % 2 for patient in described)
    assert odd - (patients - odd) in (0, 1)
    share = sum(patient.nodule for patient in described) / patients
    if patients >= 40:
        assert abs(share - 154 / 247) < 0.03
    assert all(patient.name.startswith("JPCLN" if patient.nodule else "JPCNN") for patient in described)


def test_image_range_and_type(patients):
    for _, image, masks in patients:
        assert image.dtype == np.float32 and image.shape == (128, 128)
        assert image.min() >= 0.0 and image.max() <= 1.0 and image.std() > 0.1
        assert list(masks) == list(CLASSES)
        assert all(mask.dtype == bool and mask.shape == (128, 128) for mask in masks.values())


@pytest.mark.parametrize(
    "organ, low, high",
    [("lung", 0.05, 0.27), ("heart", 0.025, 0.20), ("clavicle", 0.002, 0.035)],
)
def test_areas_are_plausible(patients, organ, low, high):
    for name in (name for name in CLASSES if organ in name):
        areas = masks_of(patients, name).mean(axis=(1, 2))
        assert areas.min() > low and areas.max() < high, (name, areas.min(), areas.max())


def test_every_mask_is_one_part(patients):
    for patient, _, masks in patients:
        for organ, mask in masks.items():
            assert label(mask, np.ones((3, 3)))[1] == 1, (patient.name, organ)


def test_patients_right_is_on_the_images_left(patients):
    columns = np.arange(128)[None, None, :]
    for part in ("lung", "clavicle"):
        center = {}
        for side in ("right", "left"):
            mask = masks_of(patients, f"{side}_{part}")
            center[side] = (mask * columns).sum(axis=(1, 2)) / mask.sum(axis=(1, 2))
        assert np.all(center["right"] + 15 < center["left"])
        assert not np.any(masks_of(patients, f"right_{part}") & masks_of(patients, f"left_{part}"))
    heart = masks_of(patients, "heart")
    heart_center = (heart * columns).sum(axis=(1, 2)) / heart.sum(axis=(1, 2))
    lungs = masks_of(patients, "right_lung") | masks_of(patients, "left_lung")
    lungs_center = np.array([np.flatnonzero(mask.any(axis=0))[[0, -1]].mean() for mask in lungs])
    assert np.mean(heart_center > lungs_center) > 0.9, "the heart leans to the image's right"


def test_clavicles_overlap_lungs_and_lie_high(patients):
    for side in ("right", "left"):
        lung, clavicle = masks_of(patients, f"{side}_lung"), masks_of(patients, f"{side}_clavicle")
        overlap = (lung & clavicle).sum(axis=(1, 2)) / clavicle.sum(axis=(1, 2))
        assert np.median(overlap) > 0.4
        rows = np.arange(128)[None, :, None]
        lung_row = (lung * rows).sum(axis=(1, 2)) / lung.sum(axis=(1, 2))
        assert np.all((clavicle * rows).sum(axis=(1, 2)) / clavicle.sum(axis=(1, 2)) < lung_row)
        thickness = np.array([np.median(mask.sum(axis=0)[mask.any(axis=0)]) for mask in clavicle])
        assert 3.0 <= np.median(thickness) <= 7.0


def test_lungs_are_darker_than_heart(patients):
    for _, image, masks in patients:
        lungs = masks["right_lung"] | masks["left_lung"]
        assert np.median(image[lungs]) + 0.1 < np.median(image[masks["heart"]])


def test_sites_differ(patients):
    def sharpness(image):
        return np.abs(np.diff(image, axis=0)).mean() / image.std()

    by_site = {site: [image for patient, image, _ in patients if patient.site == site] for site in ("digital", "film")}
    assert min(map(len, by_site.values())) >= 6
    digital, film = ([sharpness(image) for image in by_site[site]] for site in ("digital", "film"))
    assert np.mean(digital) > 1.2 * np.mean(film)
    bright = {site: np.mean([(image > 0.9).mean() for image in images]) for site, images in by_site.items()}
    assert bright["film"] > 1.5 * bright["digital"]


def test_strengths_are_what_they_say():
    masks = [render_patient(0, index, 64, site_shift=0.0, anatomy_variation=0.0)[1] for index in (0, 1, 4)]
    varied = [render_patient(0, index, 64, site_shift=0.0)[1] for index in (0, 1, 4)]

    def agreement(sets):
        lungs = [one["right_lung"] for one in sets]
        return min((a & b).sum() / (a | b).sum() for a in lungs for b in lungs)

    assert agreement(masks) > 0.85  # the site's zoom still differs a little between pictures
    assert agreement(varied) < agreement(masks)


def test_size_changes_pixels_alone():
    for patient in (0, 5):
        small, small_masks = render_patient(1, patient, 128)
        large, large_masks = render_patient(1, patient, 512)
        averaged = large.reshape(128, 4, 128, 4).mean(axis=(1, 3))
        assert np.corrcoef(averaged.ravel(), small.ravel())[0, 1] > 0.99
        assert np.abs(averaged - small).mean() < 0.02
        for organ in CLASSES:
            coarse = large_masks[organ].reshape(128, 4, 128, 4).mean(axis=(1, 3)) > 0.5
            both, either = (coarse & small_masks[organ]).sum(), (coarse | small_masks[organ]).sum()
            assert both / either > (0.85 if "clavicle" in organ else 0.97), organ


def test_a_nodule_is_seen_in_its_kind_alone():
    """JPCLN differs from the same patient without the nodule, in one small bright spot inside the lungs."""
    from common.phantoms import findings as phantom_findings

    anatomy = phantom_findings.Anatomy.draw(np.random.default_rng(0))
    drawn = [
        phantom_findings.Findings.draw(np.random.default_rng(1), anatomy, nodule=nodule) for nodule in (True, False)
    ]
    sharp = [[shade for shade in findings.opacities if shade.sharp] for findings in drawn]
    assert len(sharp[0]) == 1 and not sharp[1]
    assert sharp[0][0].strength > 0 and 0 < max(sharp[0][0].radii) < 0.1


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="new or an empty folder"):
        make_jsrt_phantom(tmp_path, patients=2, size=64)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(FileExistsError, match="new or an empty folder"):
        make_jsrt_phantom(tmp_path / "mine.txt", patients=2, size=64)


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "new").mkdir()
    assert make_jsrt_phantom(str(tmp_path / "new"), patients=2, size=64) == tmp_path / "new"
    assert len(list((tmp_path / "new" / "All247images").iterdir())) == 2


def test_nothing_is_left_where_it_fails(tmp_path, monkeypatch):
    from common.phantoms import jsrt as phantom

    def full_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(phantom, "_write_patient", full_disk)
    with pytest.raises(OSError, match="No space"):
        make_jsrt_phantom(tmp_path / "new", patients=2, size=64)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"patients": 1}, "patients must be a whole number from 2 to 1000, got 1"),
        ({"patients": 1001}, "patients must be"),
        ({"size": 32}, "size must be a whole number from 64 to 4096, got 32"),
        ({"size": 128.5}, "size must be a whole number"),
        ({"seed": -1}, "seed must be"),
        ({"site_shift": 3.0}, "site_shift must be between 0 and 2"),
        ({"anatomy_variation": "much"}, "anatomy_variation must be between 0 and 2"),
    ],
)
def test_bad_numbers_are_refused_before_writing(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_jsrt_phantom(tmp_path / "new", **{"patients": 2, "size": 64, **arguments})
    assert list(tmp_path.iterdir()) == []
