"""The bundle of slices of volumes: trained, resumed, evaluated in the volumes' own size, used for inference."""

from __future__ import annotations

import json
import shutil
import signal
from functools import partial
from pathlib import Path

import bundle_runs
import nibabel
import numpy as np
import pandas as pd
import pytest
from bundle_runs import configs, run_here, run_in_fork, same, train_log, weights

from common.data import load_datalist

CONFIG = configs("train", bundle="acdc_unimatch")
EVALUATE = configs("train", "evaluate", bundle="acdc_unimatch")
CLASSES = ["right_ventricle", "myocardium", "left_ventricle"]
TINY = {
    "image_size": [32, 32],  # not the volumes' size, which is 48
    "labeled_batch": 2,
    "unlabeled_batch": 2,
    "network_def#features": [2, 2, 2, 4, 4, 2],
    "epochs": 3,
    "iterations": 3,
    "val_interval": 1,
    "method#threshold": 0.3,
}


options = partial(bundle_runs.options, bundle="acdc_unimatch", tiny=TINY)


@pytest.fixture(scope="module")
def whole(acdc_data, tmp_path_factory) -> Path:
    """Folder of a run that was never stopped, and evaluated."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run_here("training", CONFIG, options(folder, acdc_data))
    run_here("evaluating", EVALUATE, options(folder, acdc_data))
    return folder


def test_all_terms_learn(whole):
    log = train_log(whole)
    assert {"loss_supervised", "loss_strong", "loss_features"} <= set(log.columns)
    assert (log[["loss_strong", "loss_features"]] > 0).any().all()


@pytest.mark.parametrize("moment", [("iteration", 4), ("writing", 2)])
def test_a_killed_run_ends_the_same(whole, acdc_data, tmp_path, moment):
    settings = options(tmp_path / "run", acdc_data)
    assert run_in_fork("training", CONFIG, settings, tmp_path / "log.txt", moment) == -signal.SIGKILL
    run_here("training", CONFIG, settings | {"resume": True})
    assert same(weights(tmp_path / "run"), weights(whole))


def test_scores_are_of_whole_volumes_in_their_own_size(whole, acdc_data):
    table, test = pd.read_csv(whole / "test.csv"), load_datalist(acdc_data / "datalist.json")["test"]
    assert len(table) == 3 * len(test) == 12 and set(table["class"]) == set(CLASSES)
    assert set(table["unit"]) == {"ml"} and set(table["image"]) == {item["image"] for item in test}
    for row in table.itertuples():
        truth, found = (np.asarray(nibabel.load(path).dataobj) for path in (row.truth, whole / row.prediction))
        value = 1 + CLASSES.index(row[2])
        masks = truth == value, found == value
        assert found.shape == truth.shape == (48, 48, 3)
        dice = 2 * (masks[0] & masks[1]).sum() / max(1, masks[0].sum() + masks[1].sum())
        assert row.dice == pytest.approx(dice, abs=1e-5)
        assert row.truth_size == pytest.approx(masks[0].sum() * 6 * 6 * 10 / 1000, rel=1e-4)


def test_distances_may_count_voxels(whole, acdc_data, tmp_path):
    shutil.copytree(whole / "models", tmp_path / "run")
    run_here("evaluating", EVALUATE, options(tmp_path / "run", acdc_data, unit="pixels"))
    table, before = pd.read_csv(tmp_path / "run" / "test.csv"), pd.read_csv(whole / "test.csv")
    assert set(table["unit"]) == {"voxels"}
    np.testing.assert_allclose(table["dice"], before["dice"])
    np.testing.assert_allclose(table["truth_size"] * 0.36, before["truth_size"], rtol=1e-4)


def test_inference_needs_the_run_s_folder_alone_and_agrees_with_the_evaluation(whole, tmp_path):
    bundle = tmp_path / "elsewhere"
    shutil.copytree(whole, bundle, ignore=shutil.ignore_patterns("predictions", "cases"))
    table = pd.read_csv(whole / "test.csv").drop_duplicates("image")
    (tmp_path / "images").mkdir()
    for image in table["image"]:
        shutil.copy(image, tmp_path / "images")
    settings = {
        "bundle_root": str(bundle),
        "dataset_dir": str(tmp_path / "images"),
        "output_dir": str(tmp_path / "out"),
    }
    run_here("inferring", [str(bundle / "configs" / "inference.json")], settings)
    assert len(list((tmp_path / "out").iterdir())) == 3 * len(table)
    different = total = 0
    for row in table.itertuples():
        evaluated, image = nibabel.load(whole / row.prediction), nibabel.load(row.image)
        for value, name in enumerate(CLASSES, 1):
            mask = nibabel.load(tmp_path / "out" / f"{row.case}_{name}.nii.gz")
            np.testing.assert_allclose(mask.affine, image.affine, atol=1e-9)
            assert mask.shape == image.shape
            there, expected = np.asarray(mask.dataobj) > 0, np.asarray(evaluated.dataobj) == value
            different += (there != expected).sum()
            total += expected.sum()
    assert total > 0 and different < 0.01 * total  # images are cached in half precision


def test_a_volume_of_one_slice_and_of_other_size(whole, tmp_path):
    (tmp_path / "images").mkdir()
    values = np.random.default_rng(0).random((40, 56, 1)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([1.5, 1.5, 8, 1])), tmp_path / "images" / "one.nii.gz")
    settings = {"bundle_root": str(whole), "dataset_dir": str(tmp_path / "images"), "output_dir": str(tmp_path / "out")}
    run_here("inferring", [str(whole / "configs" / "inference.json")], settings)
    # MONAI's writer leaves out a last axis of 1
    assert {nibabel.load(path).shape for path in (tmp_path / "out").iterdir()} == {(40, 56)}


def test_a_run_knows_its_size_and_classes(whole):
    inference = json.loads((whole / "configs" / "inference.json").read_text())
    assert (inference["image_size"], inference["classes"], inference["mode"]) == ([32, 32], CLASSES, "multiclass")
    metadata = json.loads((whole / "configs" / "metadata.json").read_text())
    assert metadata["network_data_format"]["outputs"]["pred"]["num_channels"] == 4
    assert metadata["run"]["test"]["cases"] == 4


@pytest.mark.parametrize("name", ["Supervised", "Popcorn", "RPG"])
def test_methods_of_other_kinds_train_on_slices(acdc_data, tmp_path, name):
    """The baseline, a curriculum over whole volumes with pairs of slices, and a method that needs every class."""
    settings = options(tmp_path / "run", acdc_data, **{"method#_target_": f"common.methods.{name}"})
    del settings["method#threshold"]
    settings["epochs"] = 4
    if name == "Popcorn":
        settings |= {"method#step_size": 3, "method#step_epochs": 1, "method#neighbors": 2, "supervised_epochs": 1}
    if name == "RPG":
        settings |= {"labeled_batch": 4, "method#neighbors": 0.5, "method#reference_size": 8, "method#query_size": 8}
    run_here("training", CONFIG, settings)
    assert train_log(tmp_path / "run")["loss"].notna().all()
    assert len(list((tmp_path / "run").glob("pseudo_labels/*.nii.gz"))) == (6 if name == "Popcorn" else 0)
