"""The Decathlon's layout: classes and volumes of dataset.json, who is in which part, what is refused."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import nibabel
import numpy as np
import pytest

from common.data import decathlon_datalist, load_datalist
from common.data.layouts.decathlon import read_task
from common.grid.data import data_source
from common.grid.settings import GridError

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "hippocampus"
PARTS = ("labeled", "unlabeled", "validation", "test")
LABELS = {"0": "background", "1": "anterior", "2": "posterior"}


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(np.asarray(values, np.uint8), np.eye(4)).to_filename(path)


def write_task(root, number=12, unlabeled=2, both=lambda index: True):
    """Volumes v00 and so on, of which `both` says whether they show both classes or the first alone."""
    training = []
    for index in range(number):
        name = f"v{index:02d}.nii.gz"
        label = np.zeros((4, 4, 4))
        label[1], label[2] = 1, 2 if both(index) else 1
        save(root / "imagesTr" / name, np.arange(64).reshape(4, 4, 4) + index)
        save(root / "labelsTr" / name, label)
        training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    for index in range(unlabeled):
        save(root / "imagesTs" / f"w{index}.nii.gz", np.arange(64).reshape(4, 4, 4) + 100 + index)
    (root / "imagesTr" / "._v00.nii.gz").write_bytes(b"\0")  # as macOS leaves in the archives
    task = {"name": "Hippocampus", "modality": {"0": "MRI"}, "labels": LABELS, "training": training}
    describe(root, {**task, "test": [f"./imagesTs/w{index}.nii.gz" for index in range(unlabeled)]})
    return root


def describe(root, task):
    (root / "dataset.json").write_text(json.dumps(task))


def described(root):
    return json.loads((root / "dataset.json").read_text())


@pytest.fixture
def task(tmp_path):
    return write_task(tmp_path / "Task04")


def who(datalist, part):
    return sorted(item["patient"] for item in datalist[part])


# ---- what is found


def test_classes_volumes_and_patients_are_those_of_dataset_json(task):
    found = read_task(task)
    assert (found["name"], found["classes"]) == ("Hippocampus", ["anterior", "posterior"])
    assert found["labeled"][3] == {
        "image": str(task / "imagesTr" / "v03.nii.gz"),
        "label": str(task / "labelsTr" / "v03.nii.gz"),
        "patient": "v03",
    }
    assert found["unlabeled"] == [
        {"image": str(task / "imagesTs" / f"w{index}.nii.gz"), "patient": f"w{index}"} for index in range(2)
    ]


def test_without_test_volumes_and_a_name(task):
    content = described(task)
    describe(task, {"labels": {"2": "b", "0": "background", "1": "a"}, "training": content["training"]})
    found = read_task(task)
    assert (found["name"], found["classes"], found["unlabeled"]) == ("Task04", ["a", "b"], [])


# ---- parts


def test_parts_and_hidden_truths(task, tmp_path):
    datalist = decathlon_datalist(task, labeled=2, validation=3, test=4, split=1)
    assert (datalist["name"], datalist["mode"]) == ("Hippocampus", "multiclass")
    assert datalist["classes"] == ["anterior", "posterior"]
    assert [len(datalist[part]) for part in PARTS] == [2, 3 + 2, 3, 4] and datalist["left_out"] == 0
    assert len({item["patient"] for part in PARTS for item in datalist[part]}) == 14
    hidden = [item for item in datalist["unlabeled"] if "truth" in item]
    assert len(hidden) == 3 and not any("label" in item for item in datalist["unlabeled"])
    for item in hidden:
        assert item["truth"] == item["image"].replace("imagesTr", "labelsTr")
    assert who(datalist, "unlabeled")[-2:] == ["w0", "w1"]
    file = tmp_path / "out" / "task.json"
    assert decathlon_datalist(task, labeled=2, validation=3, test=4, split=1, name="mine", output=file) is None
    assert load_datalist(file) == {**datalist, "name": "mine"}


def test_test_and_validation_do_not_depend_on_how_many_are_labelled(task):
    drawn = [decathlon_datalist(task, labeled=labeled, validation=2, test=4, split=1) for labeled in range(1, 7)]
    assert len({tuple(who(datalist, "test") + who(datalist, "validation")) for datalist in drawn}) == 1
    assert all(set(who(few, "labeled")) < set(who(more, "labeled")) for few, more in pairwise(drawn))
    others = [who(decathlon_datalist(task, validation=2, test=4, split=split), "test") for split in range(4)]
    assert len(set(map(tuple, others))) == 4


def test_without_a_number_all_that_is_left_is_tested_on(task):
    datalist = decathlon_datalist(task, labeled=3, validation=2)
    assert len(datalist["test"]) == 7 and who(datalist, "unlabeled") == ["w0", "w1"]


def test_every_class_occurs_among_the_labelled_volumes(tmp_path):
    task = write_task(tmp_path / "task", both=lambda index: index == 7)
    for split in range(3):
        assert who(decathlon_datalist(task, labeled=1, validation=2, test=4, split=split), "labeled") == ["v07"]


def test_a_grid_draws_from_it(task):
    source = data_source(Path("g.yaml"), {"layout": "decathlon", "folder": str(task), "test": 4, "validation": 2})
    assert source.datalist(2, 3) == decathlon_datalist(task, labeled=2, validation=2, test=4, split=3)
    assert source.space() == (["anterior", "posterior"], "multiclass")
    with pytest.raises(GridError, match="data must be given with folder, the folder, got layout"):
        data_source(Path("g.yaml"), {"layout": "decathlon"})


def test_a_real_task():
    if not REAL.is_dir():
        pytest.skip("the hippocampus data are not on this machine")
    datalist = decathlon_datalist(REAL, labeled=5, validation=5, test=40)
    assert [len(datalist[part]) for part in PARTS] == [5, 155, 5, 40]
    assert datalist["classes"] == ["anterior", "posterior"]


# ---- what is refused


def test_folders_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        decathlon_datalist(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"must hold dataset\.json, got none: give the folder of one task"):
        decathlon_datalist(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"labels": {"0"', r"dataset\.json must be valid JSON, got .*: unpack the task's archive again"),
        ("[]", r"dataset\.json must be an object with labels and training, got list"),
        ("{}", r"dataset\.json: training must be a list of volumes, got None"),
        ('{"training": []}', r"training must be a list of volumes, got \[\]"),
        ('{"training": [{"image": "a"}]}', r"each of training must give the file of image and label, got .*'a'"),
        ('{"training": ["a.nii"]}', "each of training must give the file of image and label, got 'a.nii'"),
    ],
)
def test_a_damaged_description(task, text, message):
    (task / "dataset.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        decathlon_datalist(task)


@pytest.mark.parametrize("test", ["imagesTs", [1], [{"label": "a"}]])
def test_a_damaged_list_of_test_volumes(task, test):
    describe(task, described(task) | {"test": test})
    with pytest.raises(ValueError, match=r"test must (be a list of volumes|give the file of image), got "):
        decathlon_datalist(task)


@pytest.mark.parametrize("labels", [None, ["background", "a"], {"0": "background"}, {"0": "background", "2": "a"}])
def test_labels_that_do_not_name_all_values(task, labels):
    describe(task, described(task) | {"labels": labels})
    with pytest.raises(ValueError, match=r"labels must name all values from 0, the background, on, as .*, got "):
        decathlon_datalist(task)


def test_a_class_that_no_file_can_be_called_after(task):
    describe(task, described(task) | {"labels": {"0": "background", "1": "a/b", "2": "c"}})
    with pytest.raises(ValueError, match=r"dataset.json: labels must name classes, got .*can be a file's.*'a/b'"):
        decathlon_datalist(task)


@pytest.mark.parametrize("key", ["training", "test"])
def test_volumes_of_one_name_would_be_one_patient_s(task, key):
    again = {"image": "./other/v03.nii.gz", "label": "./labelsTr/v03.nii.gz"}
    describe(task, described(task) | {key: [*described(task)[key], again if key == "training" else again["image"]]})
    with pytest.raises(ValueError, match=r"must have a name of its own, got 2 that share theirs: .*v03\.nii\.gz"):
        decathlon_datalist(task)


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("imagesTr/v03.nii.gz", r"each label must have its image, got 1 of 12 without: imagesTr/v03\.nii\.gz\. Copy"),
        ("labelsTr/v03.nii.gz", r"each image must have its label, got 1 of 12 without: labelsTr/v03\.nii\.gz"),
        ("imagesTs/w1.nii.gz", r"each image of test must be there, got 1 of 2 without: imagesTs/w1\.nii\.gz"),
    ],
)
def test_files_that_are_missing(task, lost, message):
    (task / lost).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        decathlon_datalist(task)


@pytest.mark.parametrize("place", ["imagesTr/v05.nii.gz", "imagesTs/w1.nii.gz"])
def test_volumes_of_several_contrasts(task, place):
    describe(task, described(task) | {"modality": {"0": "FLAIR", "1": "T1w"}})
    save(task / place, np.arange(128).reshape(4, 4, 4, 2))
    with pytest.raises(ValueError, match=rf"{place} must be a volume of one contrast, got 2 \(FLAIR, T1w\): write"):
        decathlon_datalist(task)


def test_channels_behind_a_fourth_axis_of_one(task):
    save(task / "imagesTr" / "v05.nii.gz", np.arange(192).reshape(4, 4, 4, 1, 3))
    with pytest.raises(ValueError, match="must be a volume of one contrast, got 3"):
        decathlon_datalist(task)


def test_a_fourth_axis_of_one_contrast_is_none(task):
    save(task / "imagesTr" / "v05.nii.gz", np.arange(64).reshape(4, 4, 4, 1))
    assert len(read_task(task)["labeled"]) == 12


def test_an_image_that_cannot_be_read(task):
    (task / "imagesTr" / "v05.nii.gz").write_bytes(b"not gzip")
    with pytest.raises(ValueError, match=r"v05\.nii\.gz must be a NIfTI file, got .*: copy it again"):
        decathlon_datalist(task)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"labeled": 7, "test": 4}, "labeled must be at most 3: of 12 patients"),
        ({"labeled": 0}, "labeled must be a whole number of at least 1"),
        ({"test": "Task05"}, "test must be a whole number of at least 0, got 'Task05'"),
    ],
)
def test_requests_that_cannot_be_met(task, request_, message):
    with pytest.raises(ValueError, match=message):
        decathlon_datalist(task, **request_)
