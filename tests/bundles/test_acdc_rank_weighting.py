"""The bundle of rank weighting: with its detector, without it, without either, and of other hosts."""

from __future__ import annotations

import json
import signal
from functools import partial
from pathlib import Path

import bundle_runs
import pandas as pd
import pytest
import torch
from bundle_runs import ROOT, configs, run_here, run_in_fork, same, train_log, weights

BUNDLE = "acdc_rank_weighting"
CONFIG = configs("train", bundle=BUNDLE)
EVALUATE = configs("train", "evaluate", bundle=BUNDLE)
TINY = {
    "image_size": [32, 32],  # not the volumes' size, which is 48
    "labeled_batch": 2,
    "unlabeled_batch": 2,
    "network_def#features": [2, 2, 2, 4, 4, 6],
    "epochs": 2,
    "iterations": 3,
    "val_interval": 1,
    "method#threshold": 0.3,
    "method#added_weight#threshold": 0.3,
    "method#added_weight#reliable#threshold": 0.3,
    # so few iterations find nothing above the lowest score that is given
    "train#detector": {
        "_target_": "common.detection.DetectorStage",
        "batches": "@train#batches",
        "validation": "@train#detector_images",
        "folder": "$@output_dir + '/detector'",
        "seed": "@seed",
        "iterations": 2,
        "batch": 2,
        "features": [4, 8, 8],
        "width": 8,
        "min_size": 4,
        "score": 0.05,
    },
}
RANKED = "terms.strong.weight.weights.1."  # the added weight among the method's state

options = partial(bundle_runs.options, bundle=BUNDLE, tiny=TINY)


@pytest.fixture(scope="module")
def whole(acdc_data, tmp_path_factory) -> Path:
    """Folder of a run that was never stopped, and evaluated."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run_here("training", CONFIG, options(folder, acdc_data))
    run_here("evaluating", EVALUATE, options(folder, acdc_data))
    return folder


def checkpoint(folder: Path) -> dict:
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def content(name: str, bundle: str = BUNDLE) -> dict:
    return json.loads((ROOT / "bundles" / bundle / "configs" / f"{name}.json").read_text())


def test_a_detector_is_trained_and_features_are_remembered(whole, acdc_data):
    files = {"detector.pt", "train.csv", "validation.csv", "boxes.csv"}
    assert {file.name for file in (whole / "detector").iterdir()} == files
    state = checkpoint(whole)
    assert state["method"][RANKED + "memory.added"].sum() > 0 and state["method"][RANKED + "steps"] == 6
    assert state["settings"]["detector"]["iterations"] == 2
    unlabeled = {Path(name).name for name in pd.read_csv(whole / "detector" / "boxes.csv")["image"]}
    datalist = json.loads((acdc_data / "datalist.json").read_text())
    assert unlabeled <= {Path(item["image"]).name for item in datalist["unlabeled"]}
    run = json.loads((whole / "run.json").read_text())
    assert (run["name"], run["method"]) == ("UniMatch + RankSimilarity", "UniMatch")
    assert run["settings"]["detector"] == "trained"
    assert len(pd.read_csv(whole / "test.csv")) == 12


@pytest.mark.parametrize("moment", [("iteration", 2), ("saved", 1)])
def test_a_killed_run_ends_the_same(whole, acdc_data, tmp_path, moment):
    settings = options(tmp_path / "run", acdc_data)
    assert run_in_fork("training", CONFIG, settings, tmp_path / "log.txt", moment) == -signal.SIGKILL
    run_here("training", CONFIG, settings | {"resume": True})
    assert same(weights(tmp_path / "run"), weights(whole))
    assert same(checkpoint(tmp_path / "run")["method"], checkpoint(whole)["method"])


def test_without_the_detector_labelled_pixels_alone_are_remembered(whole, acdc_data, tmp_path):
    settings = options(tmp_path / "run", acdc_data, **{"method#added_weight#reliable": "$None"})
    del settings["method#added_weight#reliable#threshold"]
    run_here("training", CONFIG, settings)
    assert not (tmp_path / "run" / "detector").exists()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["settings"]["detector"] == "none"
    state = checkpoint(tmp_path / "run")
    assert state["method"][RANKED + "memory.added"].sum() > 0
    assert not state["settings"]["detector"].get("iterations")


def test_without_the_weight_it_is_the_bundle_of_unimatch(acdc_data, tmp_path):
    settings = options(tmp_path / "run", acdc_data, **{"method#added_weight": "$None"})
    settings = {key: value for key, value in settings.items() if not key.startswith("method#added_weight#")}
    run_here("training", CONFIG, settings)
    other = {key: value for key, value in settings.items() if key not in ("method#added_weight", "train#detector")}
    other |= {key: str(tmp_path / "other") for key in ("output_dir", "ckpt_dir")}
    run_here("training", configs("train", bundle="acdc_unimatch"), other | {"bundle_root": "bundles/acdc_unimatch"})
    assert same(weights(tmp_path / "run"), weights(tmp_path / "other"))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["name"] == "UniMatch"


@pytest.mark.parametrize("name", ["AugSeg", "RPG"])
def test_other_hosts(acdc_data, tmp_path, name):
    """A teacher's features, and labels of references beside what the network says."""
    settings = options(tmp_path / "run", acdc_data, **{"method#_target_": f"common.methods.{name}"})
    if name == "RPG":
        del settings["method#threshold"]
        settings |= {"labeled_batch": 4, "method#neighbors": 0.5, "method#reference_size": 8, "method#query_size": 8}
    run_here("training", CONFIG, settings)
    assert train_log(tmp_path / "run")["loss"].notna().all()
    state = checkpoint(tmp_path / "run")["method"]
    assert state[RANKED.replace("strong", "unsupervised") + "memory.added"].sum() > 0
    assert (tmp_path / "run" / "detector" / "detector.pt").exists()


def test_inference_is_that_of_the_bundle_of_unimatch():
    """The network and what becomes of an image are the same: the method is of the training alone."""
    assert content("inference") == content("inference", "acdc_unimatch")
    assert content("evaluate") == content("evaluate", "acdc_unimatch")
    mine, theirs = (content("train", bundle) for bundle in (BUNDLE, "acdc_unimatch"))
    differing = {key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)}
    assert differing == {"method", "name", "parts", "train"}
    differing = {key for key in mine["train"].keys() | theirs["train"].keys()} - {
        key for key in theirs["train"] if mine["train"][key] == theirs["train"][key]
    }
    assert differing == {"detector", "detector_data", "detector_images", "settings", "state", "handlers"}
