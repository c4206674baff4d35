"""A run's folder is one process's at a time, and what a killed one left half written goes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from ignite.engine import Engine, Events

from common.handlers import RunFolder
from common.methods import Supervised
from common.run_lock import RunLock, clear_leftovers

HOLDER = "import sys; from common.run_lock import RunLock; RunLock(sys.argv[1]); print('held', flush=True); "


@pytest.fixture
def holder():
    """``holder(folder)`` starts a process that holds the folder's lock until its input ends."""
    started = []

    def start(folder):
        command = [sys.executable, "-c", HOLDER + "sys.stdin.read()", str(folder)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def run(tmp_path, labels, epoch=None, ckpt_dir="models"):
    """A training of two epochs that does nothing but ``epoch(engine)``."""
    engine = Engine(lambda *_: None)
    RunFolder(tmp_path / "eval", tmp_path / ckpt_dir, labels, Supervised(labels), {}).attach(engine)
    if epoch is not None:
        engine.add_event_handler(Events.EPOCH_STARTED, epoch)
    engine.run([0], max_epochs=2)


def test_a_second_process_is_told_who_holds_the_folder(holder, tmp_path, multilabel):
    process = holder(tmp_path / "eval")
    with pytest.raises(ValueError, match=rf"one training at a time.*process {process.pid} on .*another output_dir"):
        run(tmp_path, multilabel)
    assert not (tmp_path / "eval" / "run.json").exists()
    process.communicate("")  # ends as a run does
    assert not (tmp_path / "eval").exists()
    run(tmp_path, multilabel)


def test_a_killed_process_holds_nothing(holder, tmp_path, multilabel):
    process = holder(tmp_path / "eval")
    process.kill()
    process.wait()
    assert (tmp_path / "eval" / ".training.lock").exists()
    run(tmp_path, multilabel)
    assert sorted(file.name for file in (tmp_path / "eval").iterdir()) == ["run.json"]


def test_two_runs_do_not_share_a_model(holder, tmp_path, multilabel):
    holder(tmp_path / "models")
    with pytest.raises(ValueError, match=r"models must be the folder of one.*another ckpt_dir"):
        run(tmp_path, multilabel)
    assert not (tmp_path / "eval").exists()


def test_the_lock_is_held_while_the_run_lasts_and_names_it(tmp_path, multilabel):
    def look(engine):
        found.append((tmp_path / "eval" / ".training.lock").read_text())
        command = [sys.executable, "-c", HOLDER, str(tmp_path / "eval")]
        refused.append(subprocess.run(command, capture_output=True, text=True, check=False))

    found, refused = [], []
    run(tmp_path, multilabel, look)
    assert all(text.startswith(f"process {os.getpid()} on ") for text in found)
    assert [(f"process {os.getpid()} on" in end.stderr, end.returncode) for end in refused] == [(True, 1)] * 2
    assert not (tmp_path / "eval" / ".training.lock").exists()
    assert not (tmp_path / "models").exists()


def test_a_run_that_fails_leaves_no_lock_and_no_folder(tmp_path, multilabel):
    def fail(engine):
        raise RuntimeError("as told")

    with pytest.raises(RuntimeError, match="as told"):
        run(tmp_path, multilabel, fail)
    assert list(tmp_path.iterdir()) == []


def test_one_process_goes_on_with_its_own_lock(tmp_path):
    first, second = RunLock(tmp_path / "eval"), RunLock(tmp_path / "eval")
    first.release()
    assert (tmp_path / "eval" / ".training.lock").exists()
    second.release()
    assert not (tmp_path / "eval").exists()


def test_leftovers_are_cleared_and_nothing_else(tmp_path):
    kept = ["model.pt", "my.part", ".notes.part.txt", ".a.12.partial", f".a.{os.getppid()}.part"]
    left = [".checkpoint.99999999.part.pt", ".1.99999998.part.nii.gz", ".log.99999997.part"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".training.lock").write_text("")
    (tmp_path / "other" / left[0]).write_text("")
    (tmp_path / "cases").mkdir()
    for name in (*kept, *left):
        (tmp_path / name).write_text("")
        (tmp_path / "cases" / name).write_text("")
    clear_leftovers(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir() if file.is_file()) == sorted(kept)
    assert sorted(file.name for file in (tmp_path / "cases").iterdir()) == sorted(kept)
    assert (tmp_path / "other" / left[0]).exists()


@pytest.mark.parametrize("ckpt_dir", ["models", "eval", "eval/models"])
def test_an_earlier_run_is_moved_aside_with_the_folder_held(tmp_path, multilabel, ckpt_dir):
    def look(engine):
        found.append((tmp_path / "eval" / ".training.lock").read_text())

    found = []
    run(tmp_path, multilabel, ckpt_dir=ckpt_dir)
    run(tmp_path, multilabel, look, ckpt_dir)
    assert all(text.startswith(f"process {os.getpid()} on ") for text in found)
    assert len(found) == 2
    assert list(tmp_path.rglob(".training.lock")) == []
    assert len(list(tmp_path.glob("*/run.json"))) == 2


def test_what_is_written_last_is_written_with_the_folder_held(tmp_path, multilabel):
    """A checkpoint adds its last writing only when the training starts."""
    held, engine = [], Engine(lambda *_: None)
    RunFolder(tmp_path / "eval", tmp_path / "models", multilabel, Supervised(multilabel), {}).attach(engine)

    def start(engine):
        engine.add_event_handler(Events.COMPLETED, lambda _: held.append((tmp_path / "eval/.training.lock").exists()))

    engine.add_event_handler(Events.STARTED, start)
    engine.run([0], max_epochs=1)
    assert held == [True]
    assert not (tmp_path / "eval" / ".training.lock").exists()
