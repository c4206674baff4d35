"""From a folder to a model: the plan fits data and machine, and what is trained ends in a bundle."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from common import fit as fitting
from common.files import replacing
from common.fit import fit, image_size, neighbors, plan
from common.phantoms.jsrt import render_patient


@pytest.fixture
def folder(tmp_path):
    """Twelve radiographs of twelve patients with masks of two classes, and a keyword for them."""
    masks = {}
    for patient in range(12):
        image, organs = render_patient(1, patient, 64)
        for name in ("images", "left_lung", "heart"):
            (tmp_path / name).mkdir(exist_ok=True)
        Image.fromarray((image * 255).astype(np.uint8)).save(tmp_path / "images" / f"p{patient:02d}.png")
        for name in ("left_lung", "heart"):
            masks[name] = str(tmp_path / name)
            Image.fromarray(organs[name].astype(np.uint8) * 255).save(tmp_path / name / f"p{patient:02d}.png")
    return tmp_path / "images", {"masks": masks, "labeled": 2, "validation": 1}


@pytest.mark.parametrize(
    ("size", "longest", "expected"),
    [
        ((2048, 2048), 128, [128, 128]),
        ((384, 288), 128, [128, 96]),
        ((300, 500), 512, [304, 496]),  # not larger than it is, in multiples of 16
        ((41, 33), 128, [48, 32]),
        ((1000, 50), 128, [128, 16]),
    ],
)
def test_sizes_are_those_of_the_images_as_far_as_the_machine_goes(size, longest, expected):
    assert image_size(size, longest) == expected


def test_neighbors_are_a_share_for_methods_that_have_them():
    assert neighbors("RPGPlus") == {"method#neighbors": 0.57} and neighbors("UniMatch") == neighbors("Supervised") == {}


@pytest.mark.parametrize(("minutes", "seconds", "epochs"), [(10, 0.2, 60), (1, 0.2, 6), (0.1, 5.0, 4)])
def test_epochs_fill_the_minutes(monkeypatch, folder, tmp_path, minutes, seconds, epochs):
    images, _ = folder
    tried = []
    monkeypatch.setattr(fitting, "seconds_of_an_iteration", lambda *given: tried.append(given) or seconds)
    found = plan({"labeled": [{"image": str(images / "p00.png")}]}, tmp_path / "d.json", "RPG", minutes, tmp_path / "t")
    assert found.settings["epochs"] == epochs and found.settings["iterations"] == 50
    assert found.settings["val_interval"] == max(1, epochs // 10)
    assert found.settings["image_size"] == [64, 64] and found.settings["method#neighbors"] == 0.57
    assert tried[0][2:] == ("RPG", tmp_path / "t")
    assert len(found.reasons) == 3 and f"epochs {epochs} of 50 iterations: {seconds:.2f} s" in found.reasons[-1]


def test_what_cannot_be_fitted_is_refused(folder, tmp_path):
    images, data = folder
    for method in ("Unimatch", "Method", "Popcorn"):
        with pytest.raises(ValueError, match=f"method must be one of .*, got {method}"):
            fit(images, tmp_path / "out", data, method=method)
    for minutes in (0, "20min"):
        with pytest.raises(ValueError, match=f"minutes must be a number above 0, got {minutes!r}"):
            fit(images, tmp_path / "out", data, minutes=minutes)
    with pytest.raises(ValueError, match="test must be 1 patient or more"):
        fit(images, tmp_path / "out", {**data, "test": 0})
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(images / "p03.png")  # a damaged one
    with pytest.raises(ValueError, match=r"the data must be sound, got 1 errors: .*p03\.png"):
        fit(images, tmp_path / "out", data)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=r"output must be a new folder, got .* which holds files: give another\.$"):
        fit(images, images, data)


@pytest.fixture
def quick(monkeypatch):
    """Trainings that only leave their settings; gives them by method."""
    runs = {}

    def train(folder, method, datalist, config, settings, threads):
        runs[method] = {**settings, "config": config}
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / "run.json") as temporary:  # it is read meanwhile, for the progress bar
            temporary.write_text("{}")

    monkeypatch.setattr("common.compare.train_and_evaluate", train)
    monkeypatch.setattr("common.report.summarize", lambda output: pd.DataFrame({"a": [1]}))
    monkeypatch.setattr("common.report.write_results", lambda results, path: None)
    monkeypatch.setattr("common.report.render", lambda output: output / "report.html")
    monkeypatch.setattr("common.report.format_table", str)
    monkeypatch.setattr(fitting, "seconds_of_an_iteration", lambda *given: 0.1)
    return runs


def test_both_get_the_plan_and_each_its_own_keywords(folder, quick, tmp_path):
    images, data = folder
    fit(images, tmp_path / "out", {**data, "test": 3}, method="RPG", minutes=1)
    assert quick["RPG"].pop("method#neighbors") == 0.57 and "method#neighbors" not in quick["Supervised"]
    assert quick["RPG"] == quick["Supervised"] and quick["RPG"]["epochs"] == 12
    assert quick["RPG"]["config"] == "train.json" and quick["RPG"]["image_size"] == [64, 64]


def test_a_plan_is_edited_before_the_training_and_not_after_it(folder, quick, tmp_path):
    images, data = folder
    given = images, tmp_path / "out", {**data, "test": 3}
    assert fit(*given, minutes=1, plan_only=True) is None and not quick
    path = tmp_path / "out" / "plan.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "epochs": 7}))
    with pytest.raises(ValueError, match="which holds files: give another, or --resume"):
        fit(*given, minutes=1)
    for other in ({"minutes": 2}, {"minutes": 1, "method": "FixMatch"}):
        with pytest.raises(ValueError, match=r"was started with .*: resume it alike"):
            fit(*given, **other, resume=True)
    fit(*given, minutes=1, resume=True)
    assert quick["Supervised"]["epochs"] == quick["UniMatch"]["epochs"] == 7
    path.write_text(json.dumps({**json.loads(path.read_text()), "epochs": 9}))
    with pytest.raises(ValueError, match=r"holds a comparison with .*'epochs': 7.*, got .*'epochs': 9"):
        fit(*given, minutes=1, resume=True)


def test_a_trial_that_fails_leaves_its_log_alone(monkeypatch, folder, tmp_path):
    images, data = folder
    failed = subprocess.CompletedProcess([], 1, "", "deep inside\nError: out of memory\n")
    monkeypatch.setattr(fitting.subprocess, "run", lambda *given, **keywords: failed)
    for _ in range(2):  # the same command is not refused the second time
        with pytest.raises(ChildProcessError, match=r"the trial of Supervised failed, see .*trial\.log: out of memory"):
            fit(images, tmp_path / "out", data)
        assert [file.name for file in (tmp_path / "out").iterdir()] == ["trial.log"]
        assert "deep inside" in (tmp_path / "out" / "trial.log").read_text()


@pytest.mark.slow
def test_a_folder_becomes_a_bundle(monkeypatch, folder, tmp_path, capsys):
    """Without unlabelled images it is the baseline's."""
    images, data = folder
    monkeypatch.setattr(fitting, "LONGEST", {"cpu": 32, "cuda": 32})
    monkeypatch.setattr(fitting, "FEWEST", 1)
    monkeypatch.setattr(fitting, "EPOCH", 4)
    out = tmp_path / "out"
    fit(images, out, data, minutes=0.001)
    said = capsys.readouterr().out
    assert "No unlabelled images, from which UniMatch would learn" in said
    assert "image_size 32 x 32: images are 64 x 64" in said and "Each run is a bundle" in said
    settings = json.loads((out / "plan.json").read_text())
    assert settings["epochs"] == 1 and settings["iterations"] == 4 and not (out / "trial").exists()
    run = out / "supervised_datalist"
    assert set(pd.read_csv(run / "test.csv")["label"]) == {"left_lung", "heart"}
    assert (out / "report.html").is_file() and (out / "results.csv").is_file()
    command = ["-m", "monai.bundle", "run", "inferring", "--config_file", f"{run}/configs/inference.json"]
    command += ["--bundle_root", str(run), "--dataset_dir", str(images), "--output_dir", str(tmp_path / "masks")]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    subprocess.run([sys.executable, *command], cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert len(list((tmp_path / "masks").glob("*_heart.png"))) == 12
