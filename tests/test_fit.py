"""From a folder to a model: the plan fits data and machine, and what is trained ends in a bundle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from common import fit as fitting
from common.fit import fit, image_size, neighbors, plan
from common.phantoms.jsrt import render_patient

ROOT = Path(__file__).parents[1]
TINY = {"image_size": [32, 32], "network_def#features": [4, 4, 4, 4, 8, 4], "learning_rate": 0.001}


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
    with pytest.raises(ValueError, match=r"method must be one of .*, got Unimatch"):
        fit(images, tmp_path / "out", data, method="Unimatch")
    with pytest.raises(ValueError, match="minutes must be above 0, got 0"):
        fit(images, tmp_path / "out", data, minutes=0)
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(images / "p03.png")  # a damaged one
    with pytest.raises(ValueError, match=r"the data must be sound, got 1 errors: .*p03\.png"):
        fit(images, tmp_path / "out", data)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=r"output must be a new folder, got .* which holds files: give another, or"):
        fit(images, images, data)


@pytest.mark.slow
def test_a_folder_becomes_a_bundle(monkeypatch, folder, tmp_path, capsys):
    """Without unlabelled images it is the baseline; an edited plan is kept when it goes on."""
    images, data = folder
    monkeypatch.setattr(fitting, "LONGEST", {"cpu": 32, "cuda": 32})
    monkeypatch.setattr(fitting, "FEWEST", 1)
    monkeypatch.setattr(fitting, "EPOCH", 4)
    out = tmp_path / "out"
    fit(images, out, {**data, "test": None}, minutes=0.001)
    said = capsys.readouterr().out
    assert "There are no unlabelled images, from which UniMatch would learn" in said
    assert "image_size 32 x 32: images are 64 x 64" in said and "a bundle" in said
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
    with pytest.raises(ValueError, match="output must be a new folder"):
        fit(images, out, data)
    before = (run / "test.csv").stat().st_mtime_ns
    fit(images, out, data, resume=True)
    assert (run / "test.csv").stat().st_mtime_ns == before
