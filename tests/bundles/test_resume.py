"""A run that is killed, at whatever moment, and resumed ends as the one that was never stopped, bit by bit."""

from __future__ import annotations

import filecmp
import signal
from pathlib import Path

import pandas as pd
import pytest
import torch
from bundle_runs import configs, options, run_here, run_in_fork, same, train_log, weights

# dropout draws from torch's generator, whose state must be resumed as well, as the average of the weights must
RUN = {"network_def#dropout": 0.2, "method#average": 0.9}
METHODS = ("RPGPlus", "Supervised")  # the first one draws strong views as well
# in the middle of the first epoch and of the second, while a checkpoint is written, right after it
MOMENTS = (("iteration", 2), ("iteration", 6), ("writing", 2), ("saved", 2))


def settings(folder: Path, phantom: Path, method: str, **changes) -> dict:
    return options(folder, phantom, **RUN, **{"method#_target_": f"common.methods.{method}"}, **changes)


@pytest.fixture(scope="module")
def uninterrupted(phantom, tmp_path_factory) -> dict[str, Path]:
    """Folder of a run by method."""
    folders = {method: tmp_path_factory.mktemp("whole") / method for method in METHODS}
    for method, folder in folders.items():
        run_here("training", configs("train"), settings(folder, phantom, method))
    return folders


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("method", METHODS)
def test_killed_and_resumed_is_never_stopped(uninterrupted, phantom, tmp_path, method, workers):
    folder = tmp_path / "run"
    for moment in MOMENTS[1:3] if workers else MOMENTS:
        code = run_in_fork(
            "training",
            configs("train"),
            settings(folder, phantom, method, resume="true", num_workers=workers),
            tmp_path / "log.txt",
            die=moment,
        )
        assert code == -signal.SIGKILL, (tmp_path / "log.txt").read_text()[-3000:]
    run_here("training", configs("train"), settings(folder, phantom, method, resume="true", num_workers=workers))

    whole = uninterrupted[method]
    assert same(weights(folder), weights(whole))
    states = [torch.load(run / "checkpoint.pt", weights_only=True) for run in (folder, whole)]
    assert states[0]["trainer"]["epoch"] == 3
    assert same(*states)
    pd.testing.assert_frame_equal(train_log(folder), train_log(whole), check_exact=True)
    assert filecmp.cmp(folder / "validation.csv", whole / "validation.csv", shallow=False)
    assert [p.name for p in sorted((folder / "cases").rglob("*"))] == [
        p.name for p in sorted((whole / "cases").rglob("*"))
    ]


def test_a_finished_run_is_left_as_it_is(uninterrupted, phantom):
    folder = uninterrupted["RPGPlus"]
    before = (folder / "train.csv").read_bytes(), weights(folder)
    run_here("training", configs("train"), settings(folder, phantom, "RPGPlus", resume="true"))
    assert (folder / "train.csv").read_bytes() == before[0]
    assert same(weights(folder), before[1])


def test_methods_and_seeds_differ(uninterrupted):
    """Guards the comparison above: it must be able to fail."""
    assert not same(weights(uninterrupted["RPGPlus"]), weights(uninterrupted["Supervised"]))
