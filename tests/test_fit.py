"""From a folder to a model: the plan fits data and machine, and what is trained ends in a bundle."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import nibabel
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from common import fit as fitting
from common import plan as planning
from common.fit import fit
from common.grid.grid_file import read_grid
from common.grid.make import checked
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


def test_what_cannot_be_fitted_is_refused(folder, tmp_path, capsys):
    images, data = folder
    for method in ("Unimatch", "Method", "Popcorn"):
        with pytest.raises(ValueError, match=f"method must be one of .*, got {method}"):
            fit(images, tmp_path / "out", data, method=method)
    for minutes in (0, "20min", float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"minutes must be a number above 0, got {minutes!r}"):
            fit(images, tmp_path / "out", data, minutes=minutes)
    with pytest.raises(ValueError, match="test must be 1 patient or more"):
        fit(images, tmp_path / "out", {**data, "test": 0})
    with pytest.raises(ValueError, match=r"\.png: each class must have a mask of its own"):
        fit(images, tmp_path / "out", {**data, "masks": dict.fromkeys(data["masks"], str(tmp_path / "heart"))})
    with pytest.raises(ValueError, match="unlabeled must hold images of patients who are not annotated, got none in"):
        fit(images, tmp_path / "out", {**data, "test": 9, "unlabeled": str(images)})
    Image.fromarray(np.full((64, 64), 255, np.uint8)).save(tmp_path / "heart" / "p03.png")
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(images / "p03.png")  # a damaged one
    with pytest.raises(ValueError, match=r"the data must be sound, got 1 errors: .*p03\.png"):
        fit(images, tmp_path / "out", data)
    assert " labels are heart everywhere: p03.png" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=r"output must be a new folder, got .* which holds files: give another\.$"):
        fit(images, images, data)


@pytest.fixture
def quick(monkeypatch):
    """Grids that are not run; gives the plans that they would have been of."""
    plans = []

    def run(file, output, cores, trusted):
        plans.append(yaml.safe_load(file.read_text()))
        read_grid(file, trusted)
        return []

    monkeypatch.setattr(fitting, "run_and_report", run)
    monkeypatch.setattr(fitting, "keep_bundle", lambda folder: folder / "bundle")
    monkeypatch.setattr(planning, "seconds_of_an_iteration", lambda *given: 0.1)
    return plans


def test_the_plan_is_a_grid_of_the_baseline_and_the_method(folder, quick, tmp_path):
    images, data = folder
    assert fit(images, tmp_path / "out", {**data, "test": 3}, method="RPG", minutes=1) == tmp_path / "out" / "bundle"
    (plan,) = quick
    assert plan["bundle"] == "jsrt_rpg" and plan["data"] == {"datalists": {2: ["datalist.json"]}}
    assert plan["settings"]["method#neighbors"] == 0.57 and plan["settings"]["epochs"] == 12
    assert plan["settings"]["image_size"] == [64, 64] and plan["settings"]["keep_last"] is False
    table = plan["tables"]["comparison"]
    assert [row["method"] for row in table["rows"]] == ["Supervised", "RPG"] and table["baseline"] == "Supervised"
    grid, _ = checked(tmp_path / "out" / "plan.yaml")
    keywords = [{k: v for k, v in cell.keywords.items() if k != "loss"} for cell in grid.cells.values()]
    assert keywords == [{}, {"neighbors": 0.57}]
    assert (tmp_path / "out" / "plan.yaml").read_text().count("# - ") == 4


def test_a_plan_is_edited_before_the_training(folder, quick, tmp_path):
    images, data = folder
    given = images, tmp_path / "out", {**data, "test": 3}
    assert fit(*given, minutes=1, plan_only=True) is None and not quick
    path = tmp_path / "out" / "plan.yaml"
    path.write_text(path.read_text().replace("epochs: 12", "epochs: 7"))
    with pytest.raises(ValueError, match="which holds files: give another, or --resume"):
        fit(*given, minutes=1)
    for other in ({"minutes": 2}, {"minutes": 1, "method": "FixMatch"}):
        with pytest.raises(ValueError, match=r"was started with .*: resume it alike"):
            fit(*given, **other, resume=True)
    fit(*given, minutes=1, resume=True)
    assert quick[0]["settings"]["epochs"] == 7


def test_trainings_that_fail_are_named(folder, quick, monkeypatch, tmp_path):
    images, data = folder
    monkeypatch.setattr(fitting, "run_and_report", lambda *given, **keywords: ["unimatch: see log.txt"])
    with pytest.raises(ChildProcessError, match=r"every training must end, got 1 that failed: unimatch: see log\.txt"):
        fit(images, tmp_path / "out", data, minutes=1)


def test_a_trial_that_fails_leaves_its_log_alone(monkeypatch, folder, tmp_path):
    images, data = folder
    failed = subprocess.CompletedProcess([], 1, "", "deep inside\nError: out of memory\n")
    monkeypatch.setattr(planning.subprocess, "run", lambda *given, **keywords: failed)
    for _ in range(2):  # the same command is not refused the second time
        with pytest.raises(ChildProcessError, match=r"the trial of Supervised failed, see .*trial\.log: out of memory"):
            fit(images, tmp_path / "out", data)
        assert [file.name for file in (tmp_path / "out").iterdir()] == ["trial.log"]
        assert "deep inside" in (tmp_path / "out" / "trial.log").read_text()


def infer(bundle, images, masks, cwd):
    command = ["-m", "monai.bundle", "run", "inferring", "--config_file", f"{bundle}/configs/inference.json"]
    command += ["--bundle_root", str(bundle), "--dataset_dir", str(images), "--output_dir", str(masks)]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    subprocess.run([sys.executable, *command], cwd=cwd, env=environment, check=True, capture_output=True)


@pytest.mark.slow
def test_a_folder_becomes_a_bundle(monkeypatch, folder, tmp_path, capsys):
    """Without unlabelled images it is the baseline's."""
    images, data = folder
    monkeypatch.setattr(planning, "LONGEST", {"cpu": 32, "cuda": 32})
    monkeypatch.setattr(planning, "FEWEST", 1)
    monkeypatch.setattr(planning, "EPOCH", 4)
    out = tmp_path / "out"
    fit(images, out, data, minutes=0.001)
    said = capsys.readouterr().out
    assert "No unlabelled images, from which UniMatch would learn" in said
    assert "image_size 32 x 32: images are 64 x 64" in said and "monai.bundle run inferring" in said
    assert not list(out.glob("cells/trial"))
    (table,) = out.glob("cells/*/test.csv")
    assert set(pd.read_csv(table)["class"]) == {"left_lung", "heart"}
    assert (out / "report.html").is_file() and (out / "results.csv").is_file()
    moved = (out / "bundle").rename(tmp_path / "elsewhere")
    shutil.rmtree(out)
    infer(moved, images, tmp_path / "masks", tmp_path)
    assert len(list((tmp_path / "masks").glob("*_heart.png"))) == 12
    metadata = json.loads((moved / "configs" / "metadata.json").read_text())
    assert metadata["run"]["test"]["cases"] == 9 and metadata["name"] == "Segmentation of left_lung, heart"
    assert json.loads((moved / "configs" / "train.json").read_text())["epochs"] == 1


@pytest.mark.slow
def test_volumes_with_label_maps_become_a_bundle(monkeypatch, tmp_path):
    """Two classes in 3D, with unlabelled volumes."""
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for patient in range(8):
        rng = np.random.default_rng(patient)
        label = np.zeros((24, 20, 18), np.uint8)
        label[4:12, 4:16, 4:14], label[12:20, 4:16, 4:14] = 1, 2
        image = label * 40.0 + rng.normal(0, 5, label.shape)
        for folder, values in (("images", image.astype(np.float32)), ("labels", label)):
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / folder / f"p{patient}.nii.gz")
    monkeypatch.setattr(planning, "FEWEST", 1)
    monkeypatch.setattr(planning, "EPOCH", 3)
    data = {"labels": str(tmp_path / "labels"), "labeled": 2, "validation": 1, "test": 2, "classes": "front,back"}
    bundle = fit(tmp_path / "images", tmp_path / "out", data, method="FixMatch", minutes=0.001)
    table = pd.concat(map(pd.read_csv, (tmp_path / "out").glob("cells/*/test.csv")))
    assert set(table["class"]) == {"front", "back"} and len(table) == 2 * 2 * 2 and set(table["unit"]) == {"ml"}
    infer(bundle, tmp_path / "images", tmp_path / "masks", tmp_path)
    assert len(list((tmp_path / "masks").glob("*_front.nii.gz"))) == 8
