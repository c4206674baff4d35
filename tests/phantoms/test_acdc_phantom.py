"""The phantom of hearts: the same ones for the same seed, and what is true of every heart."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

from common.data.layouts.acdc import CLASSES, find_acdc
from common.phantoms import find_phantom
from common.phantoms.acdc import make_acdc_phantom
from common.phantoms.heart import LEFT, RIGHT, WALL, make_frame, make_heart

PATIENTS, SIZE, SLICES = 8, 64, 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_acdc_phantom(tmp_path_factory.mktemp("phantom") / "acdc", PATIENTS, SIZE, SLICES, seed=2)


def read(folder, patient, frame, ending=""):
    name = f"patient{patient:03d}"
    return nibabel.load(folder / name / f"{name}_frame{frame:02d}{ending}.nii.gz")


def array(folder, patient, frame, ending=""):
    return np.asarray(read(folder, patient, frame, ending).dataobj)


def arrays(folder):
    return {
        (item["patient"], key, index): np.asarray(nibabel.load(item[key]).dataobj).tobytes()
        for index, item in enumerate(find_acdc(folder))
        for key in ("image", "label")
    }


def test_the_same_seed_gives_the_same_patients(tmp_path):
    first, again, other = (
        arrays(make_acdc_phantom(tmp_path / name, 2, 48, 3, seed)) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert len(first) == 2 * 2 * 2
    assert first == again
    assert all(first[key] != other[key] for key in first)
    assert len(set(first.values())) == len(first)  # nor are two frames or patients the same
    more = arrays(make_acdc_phantom(tmp_path / "d", 3, 48, 3, seed=1))
    assert {key: more[key] for key in first} == first  # a patient does not depend on how many there are


def test_files_and_their_form(folder):
    names = [f"patient{n:03d}" for n in range(1, PATIENTS + 1)]
    assert sorted(path.name for path in folder.iterdir()) == names
    for number, name in enumerate(names, 1):
        ends = ("_frame01.nii.gz", "_frame01_gt.nii.gz", "_frame10.nii.gz", "_frame10_gt.nii.gz")
        files = sorted(path.name for path in (folder / name).iterdir())
        assert files == ["Info.cfg", *(name + end for end in ends)]
        assert (folder / name / "Info.cfg").read_text() == "ED: 1\nES: 10\n"
        for frame in (1, 10):
            image, label = (read(folder, number, frame, ending) for ending in ("", "_gt"))
            assert image.shape == label.shape == (SIZE, SIZE, SLICES)
            np.testing.assert_array_equal(image.affine, np.diag([4.5, 4.5, 10, 1]))  # 288 mm / 64
            np.testing.assert_array_equal(label.affine, image.affine)
            assert image.header.get_xyzt_units()[0] == "mm"
            assert label.get_data_dtype() == np.uint8
            values = array(folder, number, frame)
            assert np.isfinite(values).all() and values.min() >= 0 and values.std() > 0
            np.testing.assert_array_equal(values, np.round(values))


def test_every_patient_shows_every_class_in_the_middle_slice(folder):
    for patient in range(1, PATIENTS + 1):
        for frame in (1, 10):
            middle = array(folder, patient, frame, "_gt")[..., SLICES // 2]
            assert set(np.unique(middle)) == {0, RIGHT, WALL, LEFT}


def test_the_left_ventricle_is_smaller_at_the_end_of_systole(folder):
    for patient in range(1, PATIENTS + 1):
        full, squeezed = (int((array(folder, patient, frame, "_gt") == LEFT).sum()) for frame in (1, 10))
        # radii lose 8 to 38 %: areas keep 38 to 85 %, or so in coarse voxels
        assert 0.3 * full < squeezed < 0.9 * full


def test_hearts_differ_in_how_much_they_eject(folder):
    """Weak and healthy ones: it is the heart that differs, not the noise alone."""
    kept = []
    for patient in range(1, PATIENTS + 1):
        full, squeezed = ((array(folder, patient, frame, "_gt") == LEFT).sum() for frame in (1, 10))
        kept.append(squeezed / full)
    assert max(kept) - min(kept) > 0.2


def test_a_frame_depends_on_seed_and_patient_beside_the_heart():
    heart = make_heart(np.random.default_rng(0))
    frames = [make_frame(heart, False, 48, 2, seed, patient) for seed, patient in ((0, 1), (1, 1), (0, 2), (0, 1))]
    for image, label in frames[1:3]:
        assert (image != frames[0][0]).any() and (label != frames[0][1]).any()
    np.testing.assert_array_equal(frames[3][0], frames[0][0])
    np.testing.assert_array_equal(frames[3][1], frames[0][1])


def test_the_right_ventricle_ends_before_the_apex(folder):
    for patient in range(1, PATIENTS + 1):
        label = array(folder, patient, 1, "_gt")
        right = (label == RIGHT).any(axis=(0, 1))
        assert right[0] and not right[-1]
        assert (label[..., -1] == WALL).any()


def test_the_myocardium_is_between_the_left_ventricle_and_everything_else(folder):
    for patient in range(1, PATIENTS + 1):
        label = array(folder, patient, 1, "_gt")
        cavity = label == LEFT
        for axis in (0, 1):
            for shift in (1, -1):
                neighbour = np.roll(label, shift, axis)
                assert np.isin(neighbour[cavity], (LEFT, WALL)).all()


def test_blood_is_brighter_than_muscle(folder):
    for patient in range(1, PATIENTS + 1):
        image, label = array(folder, patient, 1), array(folder, patient, 1, "_gt")
        assert np.median(image[label == LEFT]) > 1.3 * np.median(image[label == WALL])


def test_datalist(folder):
    phantom = find_phantom("acdc")
    assert (phantom.classes, phantom.mode) == (CLASSES, "multiclass")
    assert phantom.make is make_acdc_phantom
    datalist = phantom.datalist(folder, labeled=3, split=1)
    assert datalist["name"] == "ACDC phantom acdc"
    assert [len(datalist[part]) for part in ("labeled", "unlabeled", "validation", "test")] == [6, 4, 2, 4]
    assert datalist["classes"] == list(CLASSES)
    assert phantom.datalist(folder, 5, 1)["test"] == datalist["test"]
    assert phantom.datalist(folder, 3, 2)["labeled"] != datalist["labeled"]
    with pytest.raises(ValueError, match="labeled must be at most 5: of 8 annotated patients"):
        phantom.datalist(folder, labeled=6)
    with pytest.raises(FileNotFoundError, match="absent"):
        phantom.datalist(folder / "absent")


def test_refuses(folder, tmp_path):
    with pytest.raises(FileExistsError, match="acdc must be empty, got a folder with files"):
        make_acdc_phantom(folder)
    for settings, message in (
        ({"size": 47}, "size must be at least 48, got 47"),
        ({"size": 10**9}, "size must be at most 1024, got 1000000000"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"patients": 0}, "patients must be at least 1, got 0"),
        ({"slices": 1}, "slices must be at least 2, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            make_acdc_phantom(tmp_path / "a", **settings)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "acdc").mkdir()
    assert make_acdc_phantom(tmp_path / "acdc", 1, 48, 2) == tmp_path / "acdc"
    assert [path.name for path in tmp_path.iterdir()] == ["acdc"]
    assert len(find_acdc(tmp_path / "acdc")) == 2
