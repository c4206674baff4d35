"""RETOUCH's layout: which volumes are found, parts over the folds, and labelled B-scans in which every fluid occurs."""

from __future__ import annotations

from collections import Counter

import itk
import numpy as np
import pytest

from common.data import load_datalist, retouch_datalist
from common.data.layouts.retouch import CLASSES, draw_slices, find_retouch, fluids_of, parts_of_split

SLICES = 7


def write_case(place, fluids=None, seed=0):
    """A volume of 8 x 6 pixels and 7 B-scans; ``fluids`` says which B-scans show which value."""
    place.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    image = itk.image_from_array(rng.integers(0, 255, (SLICES, 6, 8)).astype(np.uint16))
    itk.imwrite(image, str(place / "oct.mhd"))
    if fluids is not None:
        reference = np.zeros((SLICES, 6, 8), np.uint8)
        for place_of, values in fluids.items():
            for value in values:
                reference[place_of, value, value] = value
        itk.imwrite(itk.image_from_array(reference), str(place / "reference.mhd"))
    return place


FLUIDS = [{2: [1]}, {3: [2], 4: [2, 3]}, {1: [3], 5: [1, 2]}, {}, {0: [1, 2, 3]}]


@pytest.fixture(scope="module")
def retouch(tmp_path_factory):
    """14 Spectralis volumes, 2 of Cirrus, and one of Spectralis without a reference."""
    root = tmp_path_factory.mktemp("retouch")
    for number in range(14):
        case = root / "RETOUCH-TrainingSet-Spectralis" / f"TRAIN{25 + number:03d}"
        write_case(case, FLUIDS[number % len(FLUIDS)], seed=number)
    for number in range(2):
        write_case(root / "RETOUCH-TrainingSet-Cirrus" / f"TRAIN{1 + number:03d}", {0: [1]}, seed=50 + number)
    write_case(root / "RETOUCH-TestSet-Spectralis" / "TEST015", seed=99)
    return root


def who(datalist, part):
    return {item["patient"] for item in datalist[part]}


def test_vendor_is_the_innermost_folders_and_all_takes_every_one(retouch):
    assert len(find_retouch(retouch, "Spectralis")) == 15
    assert [item["patient"] for item in find_retouch(retouch, "Cirrus")] == ["TRAIN001", "TRAIN002"]
    assert len(find_retouch(retouch)) == 17
    assert "label" not in find_retouch(retouch / "RETOUCH-TestSet-Spectralis", "Spectralis")[0]


def test_folder_called_after_another_vendor_above_changes_nothing(tmp_path):
    write_case(tmp_path / "cirrus study" / "RETOUCH-TrainingSet-Topcon" / "TRAIN050", {})
    assert len(find_retouch(tmp_path, "Topcon")) == 1


def test_fluids_of_each_b_scan_are_read_from_the_reference(tmp_path):
    case = write_case(tmp_path / "TRAIN001", {2: [1], 5: [2, 3]})
    found = fluids_of(case / "reference.mhd")
    assert found.shape == (SLICES, 3)
    assert np.argwhere(found).tolist() == [[2, 0], [5, 1], [5, 2]]


def test_parts_are_volumes_that_share_no_case_and_labels_single_b_scans(retouch):
    for split in range(10):
        datalist = retouch_datalist(retouch, labeled=6, split=split)
        assert len(datalist["labeled"]) == 6
        assert len(datalist["validation"]) == len(datalist["test"]) == 3
        trained = who(datalist, "unlabeled")
        assert len(trained) == 9  # 8 to train on, and the one without a reference
        assert who(datalist, "labeled") <= trained
        assert not trained & (who(datalist, "validation") | who(datalist, "test"))
        assert all("truth" in item for item in datalist["unlabeled"] if item["patient"] != "TEST015")
        assert all("label" not in item and "slice" not in item for item in datalist["unlabeled"])


def test_every_fluid_is_in_every_part_of_every_fold(retouch):
    for split in range(10):
        datalist = retouch_datalist(retouch, split=split)
        shown = [fluids_of(item["label"])[item["slice"]] for item in datalist["labeled"]]
        assert np.any(shown, axis=0).all()
        for part in ("validation", "test"):
            assert np.any([fluids_of(item["label"]).any(axis=0) for item in datalist[part]], axis=0).all()


def test_every_volume_is_tested_on_about_equally_often(retouch):
    counts = Counter(name for split in range(10) for name in who(retouch_datalist(retouch, split=split), "test"))
    assert len(counts) == 14
    assert sum(counts.values()) == 30
    assert max(counts.values()) - min(counts.values()) <= 1


def test_labelled_b_scans_are_nested_and_follow_split_and_seed(retouch):
    few, more = (retouch_datalist(retouch, labeled=labeled)["labeled"] for labeled in (3, 12))
    assert more[:3] == few
    assert few == retouch_datalist(retouch, labeled=3)["labeled"]
    assert few != retouch_datalist(retouch, labeled=3, seed=1)["labeled"]
    assert few != retouch_datalist(retouch, labeled=3, split=1)["labeled"]


def test_b_scans_that_add_a_fluid_come_first():
    fluids = {"a": np.array([[0, 0, 0], [1, 0, 0]], bool), "b": np.array([[0, 1, 1], [0, 0, 0]], bool)}
    for seed in range(20):
        drawn = draw_slices(fluids, ["a", "b"], 2, np.random.default_rng(seed))
        assert set(drawn) == {("a", 1), ("b", 0)}
        assert len(set(draw_slices(fluids, ["a", "b"], 4, np.random.default_rng(seed)))) == 4


def test_file_keeps_which_b_scan_is_labelled(retouch, tmp_path):
    retouch_datalist(retouch, output=tmp_path / "d.json")
    loaded = load_datalist(tmp_path / "d.json")
    assert [item["slice"] for item in loaded["labeled"]] == [
        item["slice"] for item in retouch_datalist(retouch)["labeled"]
    ]
    assert loaded["classes"] == list(CLASSES) and loaded["mode"] == "multiclass"


def test_fold_that_cannot_show_every_fluid_is_named(tmp_path):
    for number in range(6):
        write_case(tmp_path / "Spectralis" / f"TRAIN{number:03d}", {0: [1, 2] if number else [1, 2, 3]}, seed=number)
    with pytest.raises(
        ValueError, match=r"every part of split 0 must show every fluid, got \w+ \(TRAIN.*\) without PED"
    ):
        retouch_datalist(tmp_path, validation=1, test=1)


def test_splits_that_work_are_given_where_others_do_not():
    fluids = {f"TRAIN{n:03d}": np.ones((2, 3), bool) * (n > 0) for n in range(4)}  # the first one has no fluid
    given = refused = 0
    for split in range(4):
        try:
            parts = parts_of_split(fluids, 1, 1, split, 4, 0)
            given += 1
            assert parts["test"] != ["TRAIN000"] != parts["validation"]
        except ValueError as error:
            refused += 1
            assert "(TRAIN000) without IRF, SRF, PED, and 2 such splits of 4" in str(error)
    assert (given, refused) == (2, 2)  # it is tested on once and validated on once, however they are shuffled


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"vendor": "Zeiss"}, "vendor must be one of Cirrus, Spectralis, Topcon or all, got 'Zeiss'"),
        ({"vendor": "Topcon"}, "called after Topcon, got volumes of Cirrus, Spectralis"),
        ({"split": 10}, "split must be below the number of folds, 10, got 10"),
        ({"validation": 8, "test": 6}, "14 with a reference of which 8 are for validation and 6 for test"),
        ({"labeled": 57}, "to 56, the number of B-scans to train on, got 57"),
        ({"labeled": 0}, "labeled must be a whole number of at least 1"),
    ],
)
def test_request_that_cannot_be_met_is_refused(retouch, options, said):
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        retouch_datalist(retouch, **options)


def test_reference_without_its_volume_is_refused(tmp_path):
    case = write_case(tmp_path / "Spectralis" / "TRAIN025", {})
    (case / "oct.mhd").unlink()
    with pytest.raises(ValueError, match=r"TRAIN025 must hold oct.mhd beside reference.mhd, got none"):
        find_retouch(tmp_path)


def test_value_beyond_the_three_fluids_is_refused(retouch, tmp_path):
    for number in range(14):
        write_case(tmp_path / "Spectralis" / f"TRAIN{number:03d}", {0: [1, 2, 3, 4 if number == 9 else 1]}, seed=number)
    with pytest.raises(ValueError, match=r"TRAIN009.reference.mhd must be a label map of 3 classes.*got 4"):
        retouch_datalist(tmp_path)


def test_case_that_is_there_twice_is_refused(tmp_path):
    for folder in ("Spectralis", "Spectralis copy"):
        write_case(tmp_path / folder / "TRAIN025", {})
    with pytest.raises(ValueError, match="must hold each case once, got TRAIN025 twice"):
        find_retouch(tmp_path)
