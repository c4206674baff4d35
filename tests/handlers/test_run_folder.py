"""The folder of a run: described, never overwritten."""

from __future__ import annotations

import json

import pytest
from ignite.engine import Engine

from common.flags import flag
from common.handlers import RunFolder
from common.methods import RPG, Supervised

SETTINGS = {"learning rate": 0.01, "image size": "8 x 8"}


@pytest.fixture
def run(tmp_path, multilabel):
    """``run(method, resume, settings)`` runs two epochs of an engine that does nothing; gives what run.json holds."""

    def start(method=RPG, resume=False, settings=SETTINGS, folder="eval", split=1):
        engine = Engine(lambda *_: None)
        output_dir = tmp_path / folder
        handler = RunFolder(output_dir, tmp_path / "models", multilabel, method(multilabel), settings, split, resume)
        handler.attach(engine)
        engine.run([0], max_epochs=2)
        return json.loads((output_dir / "run.json").read_text())

    return start


def test_what_it_says(run):
    content = run()
    assert content["method"] == "RPG"
    assert content["classes"] == ["lung", "heart"]
    assert (content["mode"], content["split"], content["settings"]) == ("multilabel", 1, SETTINGS)
    assert (content["epoch"], content["epochs"]) == (2, 2)
    assert content["seconds"] >= 0
    assert content["started"][:2] == "20"


def test_an_earlier_run_is_moved_aside_with_its_model(run, tmp_path):
    started = run()["started"]
    (tmp_path / "eval" / "train.csv").write_text("old")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.pt").write_text("old weights")
    run(Supervised)
    (aside,) = [folder for folder in tmp_path.iterdir() if folder.name.startswith("eval-")]
    assert aside.name == "eval-" + "".join(c for c in started[:19] if c.isalnum())
    assert (aside / "train.csv").read_text() == "old"
    assert (aside / "model.pt").read_text() == "old weights"
    assert json.loads((aside / "run.json").read_text())["method"] == "RPG"
    assert not (tmp_path / "eval" / "train.csv").exists()


@pytest.mark.parametrize("folder", ["eval", "split0.v1"])
def test_no_number_of_runs_overwrites_another(run, tmp_path, folder):
    for number in range(4):
        run(settings={"number": number}, folder=folder)
    found = sorted(json.loads(path.read_text())["settings"]["number"] for path in tmp_path.glob("*/run.json"))
    assert found == [0, 1, 2, 3]
    assert all(path.name.startswith(folder) for path in tmp_path.iterdir())


def test_a_folder_without_a_run_stays(run, tmp_path):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "notes.txt").write_text("mine")
    run()
    assert (tmp_path / "eval" / "notes.txt").read_text() == "mine"


def test_resuming_keeps_the_folder_the_start_and_the_time(run, tmp_path):
    first = run()
    path = tmp_path / "eval" / "run.json"
    path.write_text(json.dumps({**first, "started": "2020-01-01T00:00:00+00:00", "seconds": 1000.0}))
    second = run(resume=True)
    assert second["started"] == "2020-01-01T00:00:00+00:00"
    assert second["seconds"] >= 1000
    assert [folder.name for folder in tmp_path.iterdir()] == ["eval"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": Supervised}, "method 'RPG', got 'Supervised'"),
        ({"split": 2}, "split 1, got 2"),
        ({"settings": {**SETTINGS, "learning rate": 0.1}}, r"learning rate 0\.01, got 0\.1"),
    ],
)
def test_resuming_with_other_settings_is_refused_and_changes_nothing(run, tmp_path, change, words):
    run()
    before = (tmp_path / "eval" / "run.json").read_bytes()
    with pytest.raises(ValueError, match=words):
        run(resume=True, **change)
    assert (tmp_path / "eval" / "run.json").read_bytes() == before


def test_flags_of_the_command_line():
    assert flag(True) and flag("true") and flag("True")
    assert not flag(False) and not flag("false") and not flag("FALSE")
    for value in ("yes", 1, None, ""):
        with pytest.raises(ValueError, match="resume must be true or false"):
            flag(value, "resume")
