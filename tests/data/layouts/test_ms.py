"""Datalists of lesion volumes: parts by patient, nested labelled patients, what is left out, and the command."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path

import nibabel
import numpy as np
import pytest

from common.__main__ import main
from common.data.datalist import load_datalist, save_datalist
from common.data.layouts.by_patient import draw_patients
from common.data.layouts.ms import isbi_datalist, patients_datalist

PARTS = ("labeled", "unlabeled", "validation", "test")
NAMES = [f"p{index}" for index in range(9)]


def save(path, value=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(np.full((2, 2, 2), value, np.uint8), np.eye(4)).to_filename(path)


@pytest.fixture
def isbi(tmp_path):
    """Five patients with two time points each and two raters, one of them with a third one without masks."""
    for patient in range(1, 6):
        for time in (1, 2):
            name = f"training0{patient}_0{time}"
            save(tmp_path / "isbi" / f"{name}_flair_pp.nii")
            save(tmp_path / "isbi" / f"{name}_mask1.nii")
            save(tmp_path / "isbi" / f"{name}_mask2.nii")
    save(tmp_path / "isbi" / "training01_03_flair_pp.nii")
    save(tmp_path / "isbi" / "test01_01_flair_pp.nii")
    return tmp_path / "isbi"


@pytest.fixture
def patients(tmp_path):
    for name in NAMES:
        save(tmp_path / "labeled" / name / "flair.nii.gz")
        save(tmp_path / "labeled" / name / "lesion_mask.nii.gz")
        save(tmp_path / "unlabeled" / f"{name}_study2_flair.nii.gz")
    for name in ("new1_study1", "new1_study2"):
        save(tmp_path / "unlabeled" / f"{name}_flair.nii.gz")
    return tmp_path


def who(datalist, part):
    return sorted({item["patient"] for item in datalist[part]})


def test_all_time_points_of_a_labelled_patient_are_labelled(isbi):
    for split in range(4):
        datalist = isbi_datalist(isbi, labeled=2, validation=1, split=split, consensus="rater1")
        assert datalist["mode"] == "multilabel"
        assert datalist["classes"] == ["lesion"]
        assert (datalist["seed"], datalist["split"], datalist["name"]) == (0, split, "isbi")
        assert [len(who(datalist, part)) for part in PARTS] == [2, 1, 1, 2]
        assert [len(datalist[part]) for part in PARTS] == [4, 1, 2, 4]
        # training01's time point without masks belongs to an annotated patient, so it is left out
        assert who(datalist, "unlabeled") == ["test01"]
        assert datalist["left_out"] == 1
        for part in ("labeled", "validation", "test"):
            assert all(item["label"] == [item["image"].replace("flair_pp", "mask1")] for item in datalist[part])


def test_annotated_patients_in_no_part_are_unlabelled_with_a_hidden_truth(isbi):
    datalist = isbi_datalist(isbi, labeled=1, test=1, consensus="rater2")
    assert [len(who(datalist, part)) for part in PARTS] == [1, 4, 0, 1]
    hidden = [item for item in datalist["unlabeled"] if "truth" in item]
    assert len(hidden) == 6
    assert all(item["truth"] == [item["image"].replace("flair_pp", "mask2")] for item in hidden)
    assert all("label" not in item for item in datalist["unlabeled"])
    bare = [item["patient"] for item in datalist["unlabeled"] if "truth" not in item]
    assert bare == ["test01"] + ["training01"] * ("training01" in who(datalist, "unlabeled"))


@pytest.mark.parametrize("seed", [0, 5])
def test_labelled_patients_are_nested_and_kept_parts_stay(seed):
    draws = [draw_patients(NAMES, labeled, 2, 3, 1, seed) for labeled in range(1, 5)]
    for few, more in pairwise(draws):
        assert set(few["labeled"]) < set(more["labeled"])
        assert few["test"] == more["test"]
        assert few["validation"] == more["validation"]
    for draw in draws:
        assert sorted(name for part in draw.values() for name in part) == NAMES
        assert len(draw["test"]) == 3
    left = draw_patients(NAMES, 2, 2, None, 1, seed)
    assert (left["labeled"], left["validation"]) == (draws[1]["labeled"], draws[1]["validation"])
    assert set(left["test"]) == set(NAMES) - set(left["labeled"]) - set(left["validation"])
    assert left["unlabeled"] == []


def test_draws_differ_by_split_and_seed_and_are_repeated():
    drawn = {tuple(draw_patients(NAMES, 3, 0, None, split, seed)["labeled"]) for split in range(5) for seed in range(5)}
    assert len(drawn) > 15
    assert draw_patients(NAMES, 3, 1, 2, 4, 7) == draw_patients(NAMES, 3, 1, 2, 4, 7)


def test_unlabeled_volumes_of_patients_in_other_parts_are_left_out_and_counted(patients):
    datalist = patients_datalist(patients / "labeled", unlabeled=patients / "unlabeled", labeled=2, validation=1)
    assert who(datalist, "unlabeled") == ["new1"]
    assert len(datalist["unlabeled"]) == 2
    assert datalist["left_out"] == 9
    datalist = patients_datalist(patients / "labeled", unlabeled=patients / "unlabeled", labeled=2, test=3)
    # 9 annotated patients, of whom 4 are unlabelled: with their hidden truth and with their second study
    assert len(datalist["unlabeled"]) == 4 + 4 + 2
    assert datalist["left_out"] == 5


def test_test_patients_from_another_folder(patients, tmp_path):
    for name in ("q1", "q2"):
        save(tmp_path / "elsewhere" / name / "FLAIR.nii")
        save(tmp_path / "elsewhere" / name / "gt.nii")
    save(patients / "unlabeled" / "q1_study1_flair.nii")
    datalist = patients_datalist(
        patients / "labeled", unlabeled=patients / "unlabeled", test=str(tmp_path / "elsewhere"), labeled=3
    )
    assert [len(who(datalist, part)) for part in PARTS] == [3, 7, 0, 2]
    assert who(datalist, "test") == ["q1", "q2"]
    assert "q1" not in who(datalist, "unlabeled")
    save(tmp_path / "elsewhere" / "p3" / "FLAIR.nii")
    save(tmp_path / "elsewhere" / "p3" / "gt.nii")
    with pytest.raises(ValueError, match=r"must hold different patients, got 1 in both: p3"):
        patients_datalist(patients / "labeled", test=tmp_path / "elsewhere")


def test_test_volumes_without_masks_are_refused(isbi, tmp_path):
    save(tmp_path / "elsewhere" / "other01_01_flair_pp.nii")
    with pytest.raises(ValueError, match=r"all test images must have a mask, got 1 without: .*other01_01"):
        isbi_datalist(isbi, test=tmp_path / "elsewhere", consensus="rater1")
    with pytest.raises(ValueError, match=r"elsewhere must hold masks beside its images, got none"):
        isbi_datalist(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"labeled": 0}, "labeled must be a whole number of at least 1, got 0"),
        ({"labeled": 1.5}, "labeled must be a whole number"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
        ({"test": -1}, "test must be a whole number of at least 0"),
        ({"test": True}, "test must be a whole number"),
        ({"labeled": 5}, "labeled must be at most 4: of 5 annotated patients 0 for validation and at least 1 for test"),
        ({"labeled": 3, "validation": 1, "test": 2}, "labeled must be at most 2: of 5 .* 1 for validation and 2 for"),
        ({"labeled": 1, "test": 5}, "labeled must be at most 0"),
        ({"test": "no/such/folder"}, "no/such/folder: there is no such folder"),
    ],
)
def test_requests_that_cannot_be_met(isbi, request_, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        isbi_datalist(isbi, consensus="rater1", **request_)


def test_all_patients_can_be_labelled_without_a_test_part(isbi):
    datalist = isbi_datalist(isbi, labeled=5, test=0, consensus="rater1")
    assert [len(datalist[part]) for part in PARTS] == [10, 1, 0, 0]


def test_patients_of_unlabeled_volumes_from_a_csv(patients):
    table = patients / "patients.csv"
    rows = "".join(f"{name},{name}\n" for name in NAMES)
    table.write_text(f"image,patient\n{rows}new1_study1_flair.nii.gz,p0\n")
    datalist = patients_datalist(
        patients / "labeled", unlabeled=patients / "unlabeled", patients=table, labeled=1, validation=1
    )
    assert [Path(item["image"]).name for item in datalist["unlabeled"]] == ["new1_study2_flair.nii.gz"]


def test_a_series_is_a_folder_in_a_datalist(patients):
    series = patients / "unlabeled" / "anna" / "study1"
    series.mkdir(parents=True)
    (series / "1.dcm").write_bytes(b"\0" * 128 + b"DICM")
    file = patients / "lists" / "datalist.json"
    save_datalist(patients_datalist(patients / "labeled", unlabeled=patients / "unlabeled", labeled=1), file)
    loaded = load_datalist(file)
    assert {"image": str(series), "patient": "anna"} in loaded["unlabeled"]
    (series / "1.dcm").unlink()
    series.rmdir()
    with pytest.raises(FileNotFoundError, match="1 of its files are missing"):
        load_datalist(file)


def test_command_writes_the_datalist_and_the_masks_beside_it(isbi, tmp_path, monkeypatch, capsys):
    before = sorted(isbi.iterdir())
    output = tmp_path / "lists" / "isbi.json"
    arguments = ["datalist", "isbi", str(isbi), "--labeled", "2", "--test", "1", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["python -m common", *arguments])
    main()
    printed = capsys.readouterr().out
    assert "labeled: 4 images of 2 patients" in printed
    assert f"written to {output}" in printed
    assert len(list((tmp_path / "lists" / "masks_intersection").iterdir())) == 10
    assert json.loads(output.read_text())["labeled"][0]["label"][0].startswith("masks_intersection/training0")
    assert len(load_datalist(output)["test"]) == 2
    assert sorted(isbi.iterdir()) == before


def test_command_ends_in_one_line_for_what_it_cannot_use(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["python -m common", "datalist", "patients", str(tmp_path / "none")])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert "there is no such folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"), [("labeled", 0), ("labeled", "x"), ("test", -1), ("test", 2.5), ("seed", -1)]
)
def test_numbers_are_looked_at_before_masks_are_written(isbi, tmp_path, name, value):
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least [01], got {value!r}"):
        isbi_datalist(isbi, output=tmp_path / "out" / "list.json", **{name: value})
    assert not (tmp_path / "out").exists()
