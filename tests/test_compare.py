"""The comparison: cells, settings by method, and what it refuses before anything runs."""

from __future__ import annotations

import json

import pytest

from common import bundle_run
from common.compare import applies, compare, epochs
from common.data import save_datalist
from common.demo import SETTINGS


@pytest.fixture
def datalist(tmp_path):
    image = tmp_path / "image.png"
    image.write_bytes(b"")
    parts = {
        part: [{"image": str(image.with_name(f"{part}.png")), "label": [str(image)], "patient": part}]
        for part in ("labeled", "validation", "test")
    }
    for part in parts:
        (tmp_path / f"{part}.png").write_bytes(b"")
    content = {"name": "x", "mode": "multilabel", "classes": ["organ"], "seed": 0, "split": 4, "unlabeled": [], **parts}
    save_datalist(content, tmp_path / "split4.json")
    return tmp_path / "split4.json"


def test_settings_of_a_method_go_to_the_methods_that_have_them():
    assert all(applies(key, "RPG") for key in SETTINGS)
    assert not any(applies(key, "Supervised") for key in SETTINGS)
    assert applies("image_size", "Supervised")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"methods": ["Supervised", "Guesswork"]}, "got Guesswork"),
        ({"methods": ["Supervised"], "settings": {"method#neighbors": 3}}, "got method#neighbors"),
    ],
)
def test_an_unknown_method_or_setting_is_refused_before_anything_is_written(tmp_path, datalist, arguments, message):
    with pytest.raises(ValueError, match=message):
        compare(tmp_path / "out", [datalist], **arguments)
    assert not (tmp_path / "out").exists()


def test_two_datalists_of_one_split_are_refused(tmp_path, datalist):
    with pytest.raises(ValueError, match="split of its own"):
        compare(tmp_path / "out", [datalist, datalist])


def test_a_folder_with_another_comparison_is_refused(tmp_path, datalist):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "comparison.json").write_text(json.dumps({"config": "other.json"}))
    with pytest.raises(ValueError, match=r"other\.json"):
        compare(tmp_path / "out", [datalist])


def test_a_failed_run_is_named_with_its_log_and_finished_ones_are_kept(tmp_path, datalist, monkeypatch):
    calls = []

    def run(command, stdout, **_):
        calls.append(command)
        stdout.write("what went wrong")
        return type("Done", (), {"returncode": 1})()

    monkeypatch.setattr(bundle_run.subprocess, "run", run)
    done = tmp_path / "out" / "supervised_split4"
    done.mkdir(parents=True)
    (done / "test.csv").write_text("case,label,iou,dice\n")
    with pytest.raises(ChildProcessError, match=r"RPG on split4\.json failed while training: see .*log\.txt"):
        compare(tmp_path / "out", [datalist], workers=1)
    assert len(calls) == 1  # of RPG alone
    assert (tmp_path / "out" / "rpg_split4" / "log.txt").read_text() == "what went wrong"


def test_epochs_of_a_run_that_has_not_started(tmp_path):
    assert epochs(tmp_path) == (0, 0)
    (tmp_path / "run.json").write_text(json.dumps({"epoch": 3, "epochs": 12}))
    assert epochs(tmp_path) == (3, 12)
