"""Extended JSRT: trained on fine classes from two labelled images, evaluated by the five."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from bundle_runs import ROOT, configs, options, run_here, run_in_fork, weights

from common.data import jsrt_datalist, save_datalist
from common.fused_label_space import load_fusion
from common.label_space import LabelSpace
from common.phantoms.fine import FINE_CLASSES, FINE_OF_ORGAN
from common.phantoms.jsrt import make_jsrt_phantom
from common.report.runs import load_run

CLASSES = ["right_lung", "left_lung", "heart", "right_clavicle", "left_clavicle"]
MAP = ROOT / "bundles" / "jsrt_rpg" / "configs" / "extended_fusion.json"


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    return make_jsrt_phantom(tmp_path_factory.mktemp("fine") / "phantom", patients=18, size=64, seed=0, fine=True)


def test_the_map_is_that_of_the_phantom():
    content = json.loads(MAP.read_text())
    assert {name: tuple(fine) for name, fine in content["classes"].items()} == FINE_OF_ORGAN
    assert list(load_fusion(MAP, LabelSpace(FINE_CLASSES)).classes) == CLASSES


def test_training_and_evaluating(phantom, tmp_path):
    """From the folder, as with JSRT itself: nothing but the overlay is needed."""
    folder, size = tmp_path / "run", {"method#reference_size": 16, "method#query_size": 16, "method#neighbors": 0.5}
    settings = options(folder, phantom, **size, epochs=2)
    run_here("training", configs("train", "extended"), settings)
    assert weights(folder)["final_conv.weight"].shape[0] == len(FINE_CLASSES)
    run = json.loads((folder / "run.json").read_text())
    assert run["classes"] == CLASSES
    assert (run["settings"]["labelled images"], run["settings"]["fine classes"]) == (2, 71)
    columns = {f"iou_{name}" for name in CLASSES} | {"iou_mean"}
    assert {name for name in pd.read_csv(folder / "validation.csv") if name.startswith("iou")} == columns
    assert not [name for name in pd.read_csv(folder / "train.csv") if "lobe" in name]
    run_here("evaluating", configs("train", "extended", "evaluate"), settings)
    scores = pd.read_csv(folder / "test.csv")
    assert scores["class"].tolist() == CLASSES * 9
    for file in (folder / "cases" / "test").glob("*.npz"):
        with np.load(file) as arrays:
            assert {arrays[name].shape[0] for name in ("truth", "prediction", "pseudo_label")} == {5}
    assert load_run(folder).classes == tuple(CLASSES)


def test_a_datalist_and_another_method(phantom, tmp_path):
    """The best model is chosen by the fused classes, with any method and the settings of the demonstration."""
    save_datalist(jsrt_datalist(phantom, labeled=2, fine=True), tmp_path / "fine.json")
    changes = {"datalist": str(tmp_path / "fine.json"), "method#_target_": "common.methods.Supervised", "epochs": 1}
    settings = options(tmp_path / "run", tmp_path, iterations=1, **changes)
    run_here("training", configs("train", "demo", "extended"), settings)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["classes"] == CLASSES
    assert (tmp_path / "run" / "model.pt").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"fusion": "nowhere.json"}, "nowhere.json: there is no such file"),
        ({"data#fine": False}, "must name classes of the data (right_lung, "),
    ],
)
def test_bad_input_ends_before_training(phantom, tmp_path, changes, sentence):
    log, settings = tmp_path / "log.txt", options(tmp_path / "run", phantom, **changes)
    assert run_in_fork("training", configs("train", "extended"), settings, log) == 1
    line = log.read_text().strip().splitlines()[-1]
    assert line.startswith("Error: ")
    assert sentence in line
    assert not (tmp_path / "run").exists()


def test_a_fine_datalist_without_the_overlay(phantom, tmp_path):
    save_datalist(jsrt_datalist(phantom, labeled=3, fine=True), tmp_path / "fine.json")
    log, settings = tmp_path / "log.txt", options(tmp_path / "run", tmp_path, datalist=str(tmp_path / "fine.json"))
    assert run_in_fork("training", configs("train"), settings, log) == 1
    assert "must be 71 masks, one for each of aortic_arch" in log.read_text().strip().splitlines()[-1]
