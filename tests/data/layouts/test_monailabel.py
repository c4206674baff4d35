"""Folders of studies that MONAI Label has served."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from monai.bundle import ConfigParser
from PIL import Image

from common.data import find_datalist, load_datalist, monailabel_datalist, save_datalist
from common.data.layouts.monailabel import study_items

BUNDLES = Path(__file__).parents[3] / "bundles"
CLASSES = ["right_ventricle", "myocardium", "left_ventricle"]


@pytest.fixture
def studies(tmp_path) -> Path:
    """Twelve images, two of each patient; of the first of each of four patients there is a label, of one a mask of the
    model's as well, and of another that alone."""
    folder = tmp_path / "studies"
    objects = {}
    for place in range(12):
        name = f"image{place:02d}"
        write(folder / f"{name}.png", place)
        labels = ["final"] if place in (0, 2, 4, 6) else []
        labels += ["original"] if place in (0, 8) else []
        for tag in labels:
            write(folder / "labels" / tag / f"{name}.png", place, 3)
        objects[name] = {"image": {"ext": ".png", "info": {}}, "labels": {tag: {"ext": ".png"} for tag in labels}}
    store = {"name": "new-dataset", "images_dir": ".", "labels_dir": "labels", "objects": objects}
    (folder / "datastore_v2.json").write_text(json.dumps(store))
    rows = [f"image{place:02d}.png,p{place // 2}" for place in range(12)]
    (folder / "patients.csv").write_text("\n".join(["image,patient", *rows]))
    return folder


def write(file: Path, seed: int, values: int = 255) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, values + 1, (16, 16)).astype(np.uint8)).save(file)
    return file


def handed_in(studies: Path, *places: int) -> list[dict]:
    """Pairs as MONAI Label writes them into a training's configuration."""
    names = [f"image{place:02d}.png" for place in places]
    return [{"image": str(studies / name), "label": str(studies / "labels" / "final" / name)} for name in names]


def in_training(labeled, validation, bundle="acdc_unimatch", **settings) -> dict:
    """The datalist that a bundle finds in a training of MONAI Label."""
    find = {"_target_": "common.data.find_datalist", "dataset_dir": "@dataset_dir", "datalist": "@datalist"}
    config = {"bundle_root": str(BUNDLES / bundle), "dataset_dir": "nowhere", "datalist": None, "data": find}
    config |= {"train": {"dataset": {"data": labeled}}, "validate": {"dataset": {"data": validation}}, **settings}
    return ConfigParser(config).get_parsed_content("data")


def names(items: list[dict]) -> list[int]:
    return [int(Path(item["image"]).stem[-2:]) for item in items]


def test_final_labels_are_labelled_and_all_other_images_unlabelled(studies, tmp_path):
    monailabel_datalist(studies, bundle=BUNDLES / "acdc_unimatch", output=tmp_path / "datalist.json")
    datalist = load_datalist(tmp_path / "datalist.json")
    assert (datalist["classes"], datalist["mode"]) == (CLASSES, "multiclass")
    assert names(datalist["labeled"]) == [0, 2, 4, 6]
    assert [Path(item["label"]).parent.name for item in datalist["labeled"]] == ["final"] * 4
    assert names(datalist["unlabeled"]) == [8, 9, 10, 11]  # parts share no patient
    assert datalist["left_out"] == 4


def test_parts_are_drawn_by_patient(studies):
    datalist = monailabel_datalist(studies, classes=["a", "b", "c"], validation=1, test=1)
    parts = {part: {item["patient"] for item in datalist[part]} for part in ("labeled", "validation", "test")}
    assert [len(patients) for patients in parts.values()] == [2, 1, 1]
    assert parts["labeled"] | parts["validation"] | parts["test"] == {"p0", "p1", "p2", "p3"}


def test_without_a_list_each_image_is_of_a_patient_of_its_own(studies):
    (studies / "patients.csv").unlink()
    assert len({item["patient"] for item in study_items(studies)}) == 12
    other = studies.parent / "other.csv"
    other.write_text("image,patient\n" + "\n".join(f"image{place:02d},q{place // 3}" for place in range(12)))
    assert len({item["patient"] for item in study_items(studies, other)}) == 4


def test_what_is_no_such_folder_is_refused(studies):
    with pytest.raises(ValueError, match="either bundle or classes must be given"):
        monailabel_datalist(studies)
    with pytest.raises(FileNotFoundError, match=r"configs/inference\.json must be the bundle's"):
        monailabel_datalist(studies, bundle=studies)
    with pytest.raises(ValueError, match="labeled must be at most 3"):
        monailabel_datalist(studies, classes=["a"], labeled=4, validation=1)
    (studies / "datastore_v2.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"must hold datastore_v2\.json, got none: give the folder of studies"):
        monailabel_datalist(studies, classes=["a"])


def test_a_training_finds_the_unlabelled_images_of_the_studies(studies, caplog):
    datalist = in_training(handed_in(studies, 0, 2, 4), handed_in(studies, 6))
    assert (datalist["classes"], datalist["mode"], datalist["name"]) == (CLASSES, "multiclass", "studies")
    assert names(datalist["labeled"]) == [0, 2, 4] and names(datalist["validation"]) == [6]
    assert names(datalist["unlabeled"]) == [1, 3, 5, 8, 9, 10, 11]  # 7 is of the patient that is validated on
    assert "images among both" not in caplog.text


def test_a_patient_on_both_sides_is_warned_of(studies, caplog):
    with caplog.at_level(logging.WARNING):
        datalist = in_training(handed_in(studies, 0, 2), [*handed_in(studies, 4), {**handed_in(studies, 1)[0]}])
    assert "1 patients have images among both those to train on and those to validate on" in caplog.text
    assert names(datalist["unlabeled"]) == [3, 6, 7, 8, 9, 10, 11]


def test_images_of_a_datalist_are_learnt_from_as_well(studies, tmp_path):
    own = [
        {"image": str(write(tmp_path / f"own{place:02d}.png", 50 + place)), "patient": f"o{place}"}
        for place in (20, 21)
    ]
    label = str(write(tmp_path / "label.png", 70, 3))
    scored = [{"image": str(studies / "image11.png"), "label": label, "patient": "scored"}]
    content = {"classes": CLASSES, "mode": "multiclass", "unlabeled": own, "test": scored}
    labeled = [{"image": str(write(tmp_path / "own22.png", 72)), "label": label, "patient": "o22"}]
    save_datalist({**content, "labeled": labeled}, tmp_path / "datalist.json")
    given = handed_in(studies, 0, 2, 4), handed_in(studies, 6)
    datalist = in_training(*given, bundle="jsrt_rpg", datalist=str(tmp_path / "datalist.json"))
    assert datalist["classes"] == CLASSES
    assert names(datalist["labeled"]) == [0, 2, 4]
    assert names(datalist["unlabeled"]) == [20, 21, 1, 3, 5, 8, 9, 10]


def test_without_any_label_a_training_says_so():
    with pytest.raises(RuntimeError) as caught:
        in_training([], [])
    assert "must hold labelled images, got none: annotate some, and save them as final" in str(caught.value.__cause__)


def test_other_trainings_find_their_data_as_ever(studies, tmp_path):
    with pytest.raises(FileNotFoundError, match="dataset_dir must be a folder"):
        find_datalist("nowhere")
    elsewhere = [{"image": str(studies / "image00.png"), "label": str(write(tmp_path / "x" / "label.png", 1, 3))}]
    for data in (elsewhere, "$@data['labeled']"):
        with pytest.raises(RuntimeError) as caught:
            in_training(data, [])
        assert "dataset_dir must be a folder" in str(caught.value.__cause__)
