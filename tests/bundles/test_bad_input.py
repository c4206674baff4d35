"""What cannot work ends before training with one clear sentence at the end, and leaves nothing behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from bundle_runs import FEATURES, command, configs, options, python, run_in_fork

from common.data import find_datalist, save_datalist


@pytest.fixture
def last_line(phantom, tmp_path):
    """``last_line(run_id, files, **changes)`` runs what must fail, and gives what a person reads last."""

    def run(run_id: str = "training", files: tuple = ("train",), **changes: Any) -> str:
        log = tmp_path / "log.txt"
        settings = options(tmp_path / "run", phantom, **changes)
        assert run_in_fork(run_id, configs(*files), settings, log) == 1, log.read_text()[-2000:]
        line = log.read_text().strip().splitlines()[-1]
        assert line.startswith("Error: ")
        return line

    yield run
    # only what a test put there
    left = {file.name for file in (tmp_path / "run").glob("*")} if (tmp_path / "run").exists() else set()
    assert left <= {"model.pt", "checkpoint.pt", "checkpoint.previous.pt", "run.json"}


@pytest.fixture
def datalist(phantom, tmp_path):
    """``datalist(change)`` writes the phantom's datalist after a change of its content; gives the file."""

    def write(change) -> str:
        file = tmp_path / "datalist.json"
        save_datalist(find_datalist(phantom), file)
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))
        return str(file)

    return write


def test_as_a_command(phantom, tmp_path):
    """The sentence ends what the real command prints, after the traceback."""
    settings = options(tmp_path / "run", tmp_path / "nowhere")
    done = python(*command("training", configs("train"), settings), check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: dataset_dir must be a folder with a datalist.json or JSRT's layout, got")
    assert "nowhere" in last
    assert not (tmp_path / "run").exists()


def test_empty_folder(last_line, tmp_path):
    (tmp_path / "empty").mkdir()
    line = last_line(dataset_dir=str(tmp_path / "empty"))
    assert "empty: no radiograph named JPCLN001" in line


def test_more_labelled_images_than_there_are(last_line):
    assert "labeled must be at most" in last_line(num_labeled=100)


def test_missing_files(last_line, datalist):
    line = last_line(datalist=datalist(lambda content: content["unlabeled"][0].update(image="gone.png")))
    assert "1 of its files are missing" in line
    assert "gone.png" in line


def test_shared_patients(last_line, datalist):
    def share(content: dict) -> None:
        content["test"][0]["patient"] = content["labeled"][0]["patient"]

    assert "'labeled' and 'test' must not share a patient" in last_line(datalist=datalist(share))


def test_truncated_image(last_line, phantom, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(phantom, copy)
    image = Path(find_datalist(copy)["unlabeled"][0]["image"])
    image.write_bytes(image.read_bytes()[:-100])
    line = last_line(dataset_dir=str(copy))
    assert f"{image}: an .IMG file must hold a square of 2-byte pixels" in line


def test_values_outside_the_classes(last_line, datalist, tmp_path):
    import numpy as np
    from PIL import Image

    Image.fromarray(np.full((64, 64), 9, np.uint8)).save(tmp_path / "label.png")
    line = last_line(datalist=datalist(lambda content: content["validation"][0].update(label="label.png")))
    assert "must hold values 0 to 5, got [9]" in line


def test_unknown_method(last_line):
    line = last_line(**{"method#_target_": "common.methods.FixMatc"})
    assert "common.methods.FixMatc" in line


def test_stale_keyword_of_a_method(last_line):
    line = last_line(**{"method#_target_": "common.methods.Supervised", "method#threshold": 0.5})
    assert "Supervised has the settings labels, terms, joining, loss, " in line
    assert "got threshold. (Failed to instantiate component 'common.methods.Supervised'" in line


@pytest.mark.parametrize("name", ["resume", "amp", "compile", "deterministic", "keep_last"])
def test_a_flag_that_is_neither_true_nor_false(last_line, name):
    assert f"{name} must be true or false, got 'maybe'" in last_line(**{name: "maybe"})


def test_evaluating_before_training(last_line):
    line = last_line("evaluating", ("train", "evaluate"))
    assert "model.pt must be a checkpoint, got no such file: train first" in line


def test_evaluating_another_network(last_line, trained, tmp_path):
    (tmp_path / "run").mkdir()
    shutil.copy(trained / "model.pt", tmp_path / "run")
    line = last_line("evaluating", ("train", "evaluate"), **{"network_def#features": [8, 4, 4, 4, 8, 4]})
    assert "model.pt must hold the weights of this network, got another's" in line


@pytest.fixture
def started(trained, tmp_path) -> dict[str, bytes]:
    """A copy of the finished run in the test's folder; gives its files, which must stay as they are."""
    (tmp_path / "run").mkdir()
    for name in ("checkpoint.pt", "run.json", "model.pt"):
        shutil.copy(trained / name, tmp_path / "run")
    return {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"network_def#features": [8, 4, 4, 4, 8, 4]}, "network#features#0 4, got 8"),
        ({"method#_target_": "common.methods.Supervised"}, "has method 'RPG', got 'Supervised'"),
        ({"split": 1}, "has split 0, got 1"),
        ({"epochs": 5}, "has iterations 12, got 20"),
    ],
)
def test_resuming_another_run(last_line, started, tmp_path, changes, sentence):
    assert sentence in last_line(resume="true", **changes)
    assert {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()} == started


def test_a_damaged_checkpoint(last_line, started, tmp_path):
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:2000])
    assert "checkpoint.pt must be a checkpoint of tensors and numbers" in last_line(resume="true")


@pytest.mark.parametrize(("method", "finished"), [("RPG", 0), ("Supervised", 1)])
def test_a_loss_that_is_not_finite(phantom, tmp_path, method, finished):
    """Stops, names the batch, and keeps the last good checkpoint, where an epoch was over before it happened."""
    log, folder = tmp_path / "log.txt", tmp_path / "run"
    changes = {"method#_target_": f"common.methods.{method}", "iterations": 1 if finished else 4}
    settings = options(folder, phantom, learning_rate=1e25, **changes)
    assert run_in_fork("training", configs("train"), settings, log) == 1
    line = log.read_text().strip().splitlines()[-1]
    assert line.startswith("Error: the loss must be finite, got")
    assert "at iteration 2 with the files" in line
    assert "JPC" in line
    assert (folder / "checkpoint.pt").exists() == bool(finished)
    if finished:
        state = torch.load(folder / "checkpoint.pt", weights_only=True)
        assert state["trainer"]["epoch"] == finished
        assert all(torch.isfinite(value).all() for value in state["network"].values())


@pytest.mark.parametrize("case", ["no folder", "no images", "no model", "another network", "another size"])
def test_inference(trained, tmp_path, case):
    images, model = tmp_path / "images", trained / "model.pt"
    if case == "another network":  # nobody says what these weights were trained with
        model = tmp_path / "model.pt"
        shutil.copy(trained / "model.pt", model)
    if case != "no folder":
        images.mkdir()
    if case in ("no model", "another network", "another size"):
        (images / "a.png").write_bytes(b"")
    settings = {
        "bundle_root": "bundles/jsrt_rpg",
        "dataset_dir": str(images),
        "output_dir": str(tmp_path / "masks"),
        "ckpt_path": str(tmp_path / "none.pt" if case == "no model" else model),
        "network_def#features": [8, 4, 4, 4, 8, 4] if case == "another network" else FEATURES,
    }
    log = tmp_path / "log.txt"
    assert run_in_fork("inferring", configs("inference"), settings, log) == 1
    line = log.read_text().strip().splitlines()[-1]
    sentence = {
        "no folder": f"Error: dataset_dir must be a folder, got {images}",
        "no images": f"Error: dataset_dir must hold images, got none in {images}",
        "no model": f"Error: ckpt_path must be a trained model, got no file {tmp_path / 'none.pt'}",
        "another network": f"Error: another network in {model}: set classes, mode, network_def.",
        "another size": f"Error: {model} needs image_size [32, 32], got [512, 512]: set that.",
    }[case]
    assert line == sentence
    assert not (tmp_path / "masks").exists()
