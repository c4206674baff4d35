"""The bundle of slices of brain MRI: trained, resumed, evaluated by patient, used for inference, in its channels."""

from __future__ import annotations

import json
import shutil
import signal
from functools import partial
from pathlib import Path

import bundle_runs
import numpy as np
import pandas as pd
import pytest
from bundle_runs import configs, run_here, run_in_fork, same, train_log, weights
from PIL import Image

from common.data import load_datalist
from common.metrics import mask_scores, slice_scores

CONFIG = configs("train", bundle="lgg_segmatch")
EVALUATE = configs("train", "evaluate", bundle="lgg_segmatch")
TINY = {
    "image_size": [32, 32],  # not the pictures' size, which is 48
    "labeled_batch": 4,
    "unlabeled_batch": 4,
    "network_def#features": [4, 4, 4, 4, 8, 4],
    "epochs": 3,
    "iterations": 8,
    "val_interval": 1,
    "learning_rate": 0.02,
    "keep_last": True,
    "method#threshold": 0.6,
}


options = partial(bundle_runs.options, bundle="lgg_segmatch", tiny=TINY)


@pytest.fixture(scope="module")
def whole(lgg_data, tmp_path_factory) -> Path:
    """Folder of a run that was never stopped, and evaluated."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run_here("training", CONFIG, options(folder, lgg_data))
    run_here("evaluating", EVALUATE, options(folder, lgg_data))
    return folder


def test_it_learns_from_unlabelled_slices(whole):
    log = train_log(whole)
    assert {"loss_supervised", "loss_unsupervised", "pseudo_iou_tumor", "accepted", "gate_score"} <= set(log.columns)
    assert log["gate_score"].between(0, 1, inclusive="neither").all()  # the discriminator has looked at them
    assert pd.read_csv(whole / "validation.csv")["epoch"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("moment", [("iteration", 4), ("writing", 2)])
def test_a_killed_run_on_pictures_of_patients_ends_the_same(whole, lgg_data, tmp_path, moment):
    settings = options(tmp_path / "run", lgg_data)
    assert run_in_fork("training", CONFIG, settings, tmp_path / "log.txt", moment) == -signal.SIGKILL
    run_here("training", CONFIG, settings | {"resume": True})
    assert same(weights(tmp_path / "run"), weights(whole))


def infer(bundle, images, output, **changes):
    settings = {"bundle_root": str(bundle), "dataset_dir": str(images), "output_dir": str(output), **changes}
    run_here("inferring", [str(bundle / "configs" / "inference.json")], settings)


@pytest.fixture(scope="module")
def inferred(whole, lgg_data, tmp_path_factory) -> Path:
    """Masks of the phantom's folder, made by the run's bundle, copied elsewhere."""
    place = tmp_path_factory.mktemp("inferred")
    shutil.copytree(whole, place / "bundle", ignore=shutil.ignore_patterns("cases"))
    infer(place / "bundle", lgg_data, place / "out")
    return place / "out"


def mask_of(folder, data, image):
    """The mask that inference wrote of an image."""
    place = Path(image).relative_to(data)
    return np.asarray(Image.open(folder / place.parent / f"{place.stem}_tumor.png"))


def test_every_slice_gets_a_mask_and_a_preview_in_its_own_size(lgg_data, inferred):
    images = [path for path in lgg_data.rglob("*.tif") if not path.stem.endswith("_mask")]
    assert len(images) == 8 * 8 and len(list(inferred.rglob("*.png"))) == 2 * len(images)
    for path in images:
        mask = mask_of(inferred, lgg_data, path)
        assert mask.shape == (48, 48) and set(np.unique(mask)) <= {0, 255}
    assert any(mask_of(inferred, lgg_data, path).any() for path in images)


def test_scores_are_of_patients_in_the_size_of_their_slices(whole, lgg_data, inferred):
    """Of what inference says of the same slices, but for images that are cached in half precision."""
    test = load_datalist(lgg_data / "datalist.json")["test"]
    table = pd.read_csv(whole / "test.csv").set_index("case")
    assert sorted(table.index) == sorted({item["patient"] for item in test})
    assert set(table["unit"]) == {"voxels"}
    for patient, row in table.iterrows():
        own = [item for item in test if item["patient"] == patient]
        truth = np.stack([np.asarray(Image.open(item["label"][0])) > 0 for item in own], -1)
        found = np.stack([mask_of(inferred, lgg_data, item["image"]) > 0 for item in own], -1)
        assert row["truth_size"] == truth.sum() and found.any()
        expected = mask_scores(found, truth) | slice_scores(found, truth)
        names = ("dice", "sensitivity", "precision", "slice_dice", "slice_sensitivity")
        np.testing.assert_allclose([row[name] for name in names], [expected[name] for name in names], atol=0.01)
        assert row["false_positive_area"] == pytest.approx(expected["false_positive_area"], abs=2)
        assert (row["slices_with"], row["slices_without"]) == (expected["slices_with"], expected["slices_without"])


def test_pictures_of_patients_are_in_the_report_s_folder(whole):
    saved = {path.stem.split("_", 1)[1] for path in (whole / "cases" / "test").iterdir()}
    assert saved == set(pd.read_csv(whole / "test.csv")["case"])


def test_masks_are_not_taken_for_slices(whole, lgg_data, tmp_path):
    """Neither the layout's nor those that an earlier inference left in the same folder."""
    patient = next(path for path in sorted(lgg_data.iterdir()) if path.is_dir())
    shutil.copytree(patient, tmp_path / patient.name)
    for _ in range(2):
        infer(whole, tmp_path, tmp_path)
        assert len(list(tmp_path.rglob("*.png"))) == 2 * 8


def test_pictures_that_lack_the_channel_are_named(whole, tmp_path):
    grey = tmp_path / "grey_1.tif"
    Image.fromarray(np.eye(48, dtype=np.uint8)).save(grey)
    with pytest.raises(SystemExit, match=rf"Error: images must have channel 1 \(from 0\), got \['{grey}'\]"):
        infer(whole, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def three(lgg_data, tmp_path_factory) -> Path:
    """Folder of a run on all three contrasts."""
    folder = tmp_path_factory.mktemp("three") / "run"
    run_here("training", CONFIG, options(folder, lgg_data, channel="all", epochs=1))
    return folder


def test_all_channels_by_the_one_key(three, lgg_data, tmp_path):
    assert weights(three)["conv_0.conv_0.conv.weight"].shape[1] == 3
    run_here("evaluating", EVALUATE, options(three, lgg_data, channel="all"))
    assert pd.read_csv(three / "test.csv")["dice"].notna().all()
    patient = next(path for path in sorted(lgg_data.iterdir()) if path.is_dir())
    infer(three, patient, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*_tumor.png"))) == 8
    inputs = json.loads((three / "configs" / "metadata.json").read_text())["network_data_format"]["inputs"]["image"]
    assert inputs["num_channels"] == 3


def test_one_channel_is_not_evaluated_with_the_weights_of_another(whole, lgg_data, tmp_path):
    shutil.copytree(whole / "models", tmp_path / "run")
    settings = options(tmp_path / "run", lgg_data, channel=0)
    assert run_in_fork("evaluating", EVALUATE, settings, tmp_path / "log.txt") == 1
    assert "was trained with channel 1.0, got 0.0" in (tmp_path / "log.txt").read_text().splitlines()[-1]


def test_a_patient_in_two_parts_stops_a_training(lgg_data, tmp_path):
    content = load_datalist(lgg_data / "datalist.json")
    moved = content["test"].pop()
    content["labeled"].append(moved)
    (tmp_path / "two.json").write_text(json.dumps(content))
    settings = options(tmp_path / "run", lgg_data, datalist=str(tmp_path / "two.json"))
    assert run_in_fork("training", CONFIG, settings, tmp_path / "log.txt") == 1
    line = (tmp_path / "log.txt").read_text().splitlines()[-1]
    assert line.startswith("Error: ")
    assert f"'labeled' and 'test' must not share a patient, got 1 in both: {moved['patient']}." in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["Supervised", "UniMatch", "RPG", "Popcorn"])
def test_other_methods_train_on_slices_of_patients(lgg_data, tmp_path, name):
    settings = options(tmp_path / "run", lgg_data, epochs=1, **{"method#_target_": f"common.methods.{name}"})
    del settings["method#threshold"]
    if name == "Popcorn":
        settings |= {"method#step_size": 5, "method#step_epochs": 1, "method#neighbors": 2, "supervised_epochs": 1}
        settings["epochs"] = 3
    if name == "RPG":
        settings |= {"method#neighbors": 0.5, "method#reference_size": 8, "method#query_size": 8}
    run_here("training", CONFIG, settings)
    assert train_log(tmp_path / "run")["loss"].notna().all()


def test_slices_of_an_annotation_tool_have_no_patients(lgg_data, tmp_path):
    """MONAI Label writes its own slices, with label maps, into train.json; each is a case."""
    items = load_datalist(lgg_data / "datalist.json")["labeled"]
    shown = [item for item in items if np.asarray(Image.open(item["label"][0])).any()]
    pairs = []
    for place, item in enumerate(shown[:6]):
        label = tmp_path / f"label{place}.png"
        Image.fromarray((np.asarray(Image.open(item["label"][0])) > 0).astype(np.uint8)).save(label)
        pairs.append({"image": item["image"], "label": str(label)})
    settings = options(tmp_path / "run", lgg_data, epochs=1)
    settings |= {"train#dataset#data": pairs[:4], "validate#dataset#data": pairs[4:]}
    run_here("run", CONFIG, settings)
    saved = {path.stem.split("_", 1)[1] for path in (tmp_path / "run" / "cases" / "validation").iterdir()}
    assert saved == {Path(pair["image"]).stem for pair in pairs[4:]}
