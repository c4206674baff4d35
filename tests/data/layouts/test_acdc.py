"""ACDC's layout: which volumes are found, parts by patient, and the parts that published work shares."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import nibabel
import numpy as np
import pytest

from common.data import acdc_datalist, load_datalist
from common.data.layouts.acdc import find_acdc

PARTS = ("labeled", "unlabeled", "validation", "test")
CLASSES = ["right_ventricle", "myocardium", "left_ventricle"]
LABELED = {1: [99], 3: [38, 50, 99], 7: [21, 38, 49, 50, 58, 99, 100]}
VALIDATION = [2, 19, 28, 30, 39, 45, 78, 82, 85, 87]
TEST = [1, 7, 8, 11, 13, 22, 24, 33, 52, 59, 64, 65, 66, 68, 75, 80, 81, 83, 84, 93]


def save(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(np.ones((2, 2, 2), np.uint8), np.eye(4)).to_filename(path)
    return path


def write_patients(root, numbers, masks=True):
    """Two frames of each patient and the film they are from, as the challenge distributes them."""
    for number in numbers:
        start = root / f"patient{number:03d}" / f"patient{number:03d}"
        for ending in ("_4d", "_frame01", "_frame12"):
            save(Path(f"{start}{ending}.nii.gz"))
            if masks and ending != "_4d":
                save(Path(f"{start}{ending}_gt.nii.gz"))
    return root


@pytest.fixture
def twelve(tmp_path):
    return write_patients(tmp_path / "acdc", range(1, 13))


@pytest.fixture(scope="module")
def hundred(tmp_path_factory):
    return write_patients(tmp_path_factory.mktemp("acdc"), range(1, 101))


@pytest.fixture(scope="module")
def without_published_test(tmp_path_factory):
    return write_patients(tmp_path_factory.mktemp("acdc"), [n for n in range(1, 101) if n not in TEST])


def who(datalist, part):
    return sorted({item["patient"] for item in datalist[part]})


def numbers(datalist, part):
    return [int(name.removeprefix("patient")) for name in who(datalist, part)]


# ---- what is found


def test_volumes_and_their_masks_are_found_at_any_depth(tmp_path):
    root = tmp_path / "acdc"
    late = save(root / "a" / "deep" / "patient002" / "patient002_frame01.nii.gz")
    mask = save(root / "a" / "deep" / "patient002" / "patient002_frame01_gt.nii.gz")
    film = save(root / "b" / "patient001" / "patient001_4d.nii.gz")
    bare = save(root / "b" / "patient001" / "patient001_frame10.nii")
    save(root / "b" / "patient001" / "._patient001_frame10.nii")
    assert find_acdc(root) == [
        {"image": str(bare), "patient": "patient001"},
        {"image": str(late), "patient": "patient002", "label": str(mask)},
    ]
    assert film.exists()


def test_a_folder_that_is_called_like_the_volume_in_it(tmp_path):
    """As some tools unpack it."""
    path = save(tmp_path / "patient001" / "patient001_frame01.nii" / "patient001_frame01.nii")
    assert find_acdc(tmp_path) == [{"image": str(path), "patient": "patient001"}]


def test_frames_of_one_patient_keep_their_own_masks(twelve):
    found = find_acdc(twelve)
    assert [Path(item["image"]).name for item in found[:3]] == [
        "patient001_frame01.nii.gz",
        "patient001_frame12.nii.gz",
        "patient002_frame01.nii.gz",
    ]
    assert len(found) == 24
    assert all(item["label"] == item["image"].replace(".nii.gz", "_gt.nii.gz") for item in found)


def test_a_mask_without_its_volume_is_named(twelve):
    (twelve / "patient004" / "patient004_frame12.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"each mask must have its volume beside it, got none for patient004_frame12"):
        find_acdc(twelve)


@pytest.mark.parametrize("ending", ["", "_gt"])
def test_a_volume_that_is_there_twice_is_named_with_both_places(twelve, ending):
    name = f"patient004_frame12{ending}.nii"
    save(twelve / "copy" / name)
    with pytest.raises(ValueError, match=rf"each volume once, got .*copy/{name} and .*patient004/{name}\.gz: keep one"):
        find_acdc(twelve)


def test_a_folder_that_is_missing_and_one_without_volumes(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent must be the folder of ACDC's patients, got no such folder"):
        find_acdc(tmp_path / "absent")
    save(tmp_path / "patient001" / "patient001_4d.nii.gz")
    save(tmp_path / "patient001" / "patient001_frame01_gt.nii.gz")
    with pytest.raises(FileNotFoundError, match=r"must hold volumes named patient001_frame01.* convert acdc"):
        find_acdc(tmp_path)


# ---- parts that are drawn


def test_a_datalist_of_label_maps_of_three_classes(twelve):
    datalist = acdc_datalist(twelve, labeled=3, validation=2, test=4, split=5, seed=6)
    assert (datalist["name"], datalist["mode"], datalist["classes"]) == ("acdc", "multiclass", CLASSES)
    assert (datalist["split"], datalist["seed"], datalist["left_out"]) == (5, 6, 0)
    for part in ("labeled", "validation", "test"):
        assert all(item["label"] == item["image"].replace(".nii", "_gt.nii") for item in datalist[part])


@pytest.mark.parametrize("split", range(4))
def test_both_frames_of_a_patient_are_in_one_part(twelve, split):
    datalist = acdc_datalist(twelve, labeled=3, validation=2, test=4, split=split)
    assert [len(who(datalist, part)) for part in PARTS] == [3, 3, 2, 4]
    assert [len(datalist[part]) for part in PARTS] == [6, 6, 4, 8]
    assert sorted(name for part in PARTS for name in who(datalist, part)) == [f"patient{n:03d}" for n in range(1, 13)]


def test_labelled_patients_are_nested_and_the_test_stays(twelve):
    drawn = [acdc_datalist(twelve, labeled=labeled, validation=2, test=4, split=1) for labeled in range(1, 7)]
    for few, more in pairwise(drawn):
        assert set(who(few, "labeled")) < set(who(more, "labeled"))
        assert few["test"] == more["test"]
        assert few["validation"] == more["validation"]
    others = [who(acdc_datalist(twelve, labeled=1, validation=2, test=4, split=split), "test") for split in range(4)]
    assert len({tuple(each) for each in others}) > 1


def test_the_truth_of_unlabelled_volumes_is_hidden(twelve):
    write_patients(twelve, [13], masks=False)
    unlabeled = acdc_datalist(twelve, labeled=3, validation=2, test=4)["unlabeled"]
    assert all("label" not in item for item in unlabeled)
    hidden = [item for item in unlabeled if "truth" in item]
    assert [item["patient"] for item in unlabeled if "truth" not in item] == ["patient013"] * 2
    assert len(hidden) == 6
    assert all(item["truth"] == item["image"].replace(".nii", "_gt.nii") for item in hidden)


def test_test_patients_of_another_folder(twelve, tmp_path):
    other = write_patients(tmp_path / "testing", [101, 102])
    for test in (other, str(other)):
        datalist = acdc_datalist(twelve, labeled=3, validation=2, test=test)
        assert [len(who(datalist, part)) for part in PARTS] == [3, 7, 2, 2]
        assert numbers(datalist, "test") == [101, 102]
    write_patients(other, [5])
    with pytest.raises(ValueError, match="must hold different patients, got 1 in both: patient005"):
        acdc_datalist(twelve, labeled=3, validation=2, test=other)
    with pytest.raises(FileNotFoundError, match="absent must be the folder"):
        acdc_datalist(twelve, labeled=3, validation=2, test=tmp_path / "absent")


def test_a_datalist_is_written_and_summarized(twelve, tmp_path, capsys):
    output = tmp_path / "lists" / "split0.json"
    settings = {"labeled": 3, "validation": 2, "test": 4, "name": "hearts"}
    assert acdc_datalist(twelve, output=output, **settings) is None
    printed = capsys.readouterr().out
    assert "labeled: 6 images of 3 patients" in printed
    assert f"written to {output}" in printed
    assert load_datalist(output) == acdc_datalist(twelve, **settings)
    assert load_datalist(output)["name"] == "hearts"


def test_more_labelled_patients_than_there_are(twelve):
    with pytest.raises(ValueError, match=r"labeled must be at most 6: of 12 .* 2 for validation and 4 for test"):
        acdc_datalist(twelve, labeled=7, validation=2, test=4)


# ---- the published parts


@pytest.mark.parametrize("labeled", [1, 3, 7])
def test_published_parts(hundred, labeled):
    datalist = acdc_datalist(hundred, labeled=labeled, published=True)
    assert numbers(datalist, "labeled") == LABELED[labeled]
    assert numbers(datalist, "validation") == VALIDATION
    assert numbers(datalist, "test") == TEST
    known = {*LABELED[labeled], *VALIDATION, *TEST}
    assert numbers(datalist, "unlabeled") == [n for n in range(1, 101) if n not in known]
    assert [len(who(datalist, part)) for part in PARTS] == [labeled, 70 - labeled, 10, 20]
    assert [len(datalist[part]) for part in PARTS] == [2 * labeled, 140 - 2 * labeled, 20, 40]
    assert datalist["left_out"] == 0


def test_published_parts_are_the_same_for_every_split_and_seed(hundred):
    first = acdc_datalist(hundred, published=True)
    assert len(who(first, "unlabeled")) == 67
    other = acdc_datalist(hundred, published=True, split=3, seed=4)
    assert all(first[part] == other[part] for part in PARTS)


def test_another_number_of_labelled_patients_was_not_published(hundred):
    with pytest.raises(ValueError, match="labeled must be one of 1, 3, 7 for the published lists, got 5"):
        acdc_datalist(hundred, labeled=5, published=True)


@pytest.mark.parametrize("gone", [50, 87])
def test_a_published_patient_that_is_missing_is_named(tmp_path, gone):
    root = write_patients(tmp_path, [n for n in {*LABELED[7], *VALIDATION, *TEST} if n != gone])
    with pytest.raises(ValueError, match=rf"need patients that are not there: patient0{gone}\."):
        acdc_datalist(root, labeled=3, published=True)
    if gone == 50:
        assert numbers(acdc_datalist(root, labeled=1, published=True), "labeled") == [99]


def test_test_patients_are_drawn_where_the_published_ones_are_missing(without_published_test):
    root = without_published_test
    found = {labeled: acdc_datalist(root, labeled=labeled, test=5, published=True) for labeled in (1, 3, 7)}
    for labeled, datalist in found.items():
        assert numbers(datalist, "labeled") == LABELED[labeled]
        assert numbers(datalist, "validation") == VALIDATION
        assert datalist["test"] == found[1]["test"]
        assert [len(who(datalist, part)) for part in PARTS] == [labeled, 65 - labeled, 10, 5]
        assert datalist["left_out"] == 0


def test_test_patients_that_are_drawn_are_never_among_those_that_may_be_labelled(without_published_test):
    drawn = [
        tuple(numbers(acdc_datalist(without_published_test, labeled=1, test=63, split=split, published=True), "test"))
        for split in range(2)
    ]
    everyone = [n for n in range(1, 101) if n not in {*LABELED[7], *VALIDATION, *TEST}]
    assert list(drawn[0]) == list(drawn[1]) == everyone
    few = [
        tuple(numbers(acdc_datalist(without_published_test, test=5, split=split, seed=seed, published=True), "test"))
        for split, seed in ((0, 0), (1, 0), (0, 1), (0, 0))
    ]
    assert len(set(few)) == 3 and few[0] == few[3]
    with pytest.raises(ValueError, match="test must be at most 63, the patients that are left for it, got 64"):
        acdc_datalist(without_published_test, test=64, published=True)
    with pytest.raises(ValueError, match="test must be a whole number of at least 0, got -1"):
        acdc_datalist(without_published_test, test=-1, published=True)


def test_the_challenge_s_own_test_beside_the_published_parts(hundred, tmp_path):
    other = write_patients(tmp_path / "testing", [101, 150])
    datalist = acdc_datalist(hundred, published=True, test=other)
    assert numbers(datalist, "test") == [101, 150]
    assert numbers(datalist, "labeled") == LABELED[3]
    assert len(who(datalist, "unlabeled")) == 67  # the same ones as without it
    assert datalist["left_out"] == 40


def test_patients_beyond_the_hundred_are_in_no_published_part(tmp_path):
    root = write_patients(tmp_path, {*LABELED[3], *VALIDATION, *TEST, 3, 101})
    datalist = acdc_datalist(root, published=True)
    assert numbers(datalist, "unlabeled") == [3]
    assert datalist["left_out"] == 2
