"""Runs of a bundle with tiny settings: as a command, in this process, or in a fork that may be killed."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pytest
import torch

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "bundles" / "jsrt_rpg"
FEATURES = [4, 4, 4, 4, 8, 4]
# few steps of a tiny network: what it learns does not matter here
TINY = {
    "image_size": [32, 32],
    "network_def#features": FEATURES,
    "epochs": 3,
    "iterations": 4,
    "val_interval": 1,
    "learning_rate": 0.001,
}


def configs(*names: str, bundle: str = "jsrt_rpg") -> list[str]:
    return [f"bundles/{bundle}/configs/{name}.json" for name in names]


def options(
    folder: Path, data: Path, bundle: str = "jsrt_rpg", tiny: Mapping[str, Any] = TINY, **changes: Any
) -> dict[str, Any]:
    """Overrides of a tiny run on ``data`` whose log and model lie in ``folder``."""
    folders = {"dataset_dir": data, "output_dir": folder, "ckpt_dir": folder, "cache_dir": data / "cache"}
    return {"bundle_root": f"bundles/{bundle}", **{k: str(v) for k, v in folders.items()}, **tiny, **changes}


def command(run_id: str, files: list[str], settings: dict[str, Any]) -> list[str]:
    """``-m monai.bundle run RUN_ID --config_file FILES --key value ...``."""
    arguments = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    config_file = files[0] if len(files) == 1 else str(files)
    return ["-m", "monai.bundle", "run", run_id, "--config_file", config_file, *arguments]


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **changes}


def python(*arguments: str, check: bool = True, **keywords: Any) -> subprocess.CompletedProcess:
    """Runs Python from the repository's root; shows what it printed when it fails unexpectedly."""
    keywords = {"cwd": ROOT, "env": environment(), "timeout": 300, **keywords}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, **keywords)
    if check and done.returncode != 0:
        pytest.fail(f"{' '.join(arguments)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return done


def run_here(run_id: str, files: list[str], settings: dict[str, Any]) -> None:
    """Runs the bundle in this process, which saves the imports, and without its report, which takes longest."""
    from monai.bundle import run

    os.chdir(ROOT)
    torch.set_num_threads(1)
    with mock.patch("common.report.render"):
        run(run_id=run_id, config_file=files, logging_file=False, **settings)


def type_here(run_id: str, files: list[str], settings: dict[str, Any]) -> None:
    """``python -m monai.bundle run ...`` from the repository's root, in this process."""
    os.chdir(ROOT)
    torch.set_num_threads(1)
    sys.argv = command(run_id, files, settings)[1:]
    with mock.patch("common.report.render") if run_id == "training" else nullcontext():
        runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)


def run_in_fork(
    run_id: str, files: list[str], settings: dict[str, Any], log: Path, die: tuple = (), typed: bool = False
) -> int:
    """Runs the bundle in a process that has imported everything already; gives its exit code.

    Args:
        log: file for what the process prints.
        die: the moment at which it kills itself, see :func:`die_at`.
        typed: by the command line of :func:`command`, with the bundle's logging, and with the evaluation's report.
    """
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(
        ["monai.bundle", "monai.engines", "common.batches", "common.handlers", "common.report.page", "itk"]
    )
    process = forks.Process(target=_in_fork, args=(run_id, files, settings, str(log), die, typed))
    process.start()
    process.join(120)
    if process.is_alive():
        process.kill()
        pytest.fail(f"{run_id} did not end:\n{log.read_text()[-3000:]}")
    return process.exitcode


def _in_fork(run_id: str, files: list[str], settings: dict[str, Any], log: str, die: tuple, typed: bool) -> None:
    multiprocessing.set_start_method("fork", force=True)  # of the loader's workers, as in a run of its own
    with Path(log).open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        if die:
            die_at(*die)
        try:
            (type_here if typed else run_here)(run_id, files, settings)
        except BaseException as error:  # what the interpreter does at the end of a program
            if isinstance(error, SystemExit):
                print(error.code, file=sys.stderr)
            else:
                sys.excepthook(type(error), error, error.__traceback__)
            sys.stderr.flush()
            os._exit(1)


def die_at(moment: str, number: float) -> None:
    """Kills this process with SIGKILL at the given moment.

    Args:
        moment: ``"iteration"``: after that iteration's step; ``"writing"``: when half of that epoch's checkpoint is
            written; ``"saved"``: right after it is written; ``"labelling"``: when the first pseudo-label of that step
            of a curriculum is written; ``"seconds"``: after that time, wherever it is.
        number: the iteration's, epoch's or step's number, from 1; or the seconds.
    """
    from common.handlers import Checkpoint, Curriculum
    from common.methods import Method

    os.setpgrp()  # the loader's workers die at once too, instead of noticing some seconds later

    def kill() -> None:
        os.killpg(0, signal.SIGKILL)

    def label(self: Curriculum, rows: list[int], step: int, device: Any) -> None:
        if moment == "labelling" and step == number:  # one image of the step has its label, the others not yet
            whole_label(self, rows[:1], step, device)
            kill()
        whole_label(self, rows, step, device)

    def after_step(self: Method, step: Any) -> None:
        whole_after_step(self, step)
        if moment == "iteration" and step.iteration == number:
            kill()

    def save_half(state: dict, path: Path) -> None:
        whole_save(state, path)
        if "trainer" in state and state["trainer"]["epoch"] == number:
            path.write_bytes(path.read_bytes()[:1000])
            kill()

    def save(self: Checkpoint, engine: Any) -> None:
        whole_checkpoint(self, engine)
        if engine.state.epoch == number:
            kill()

    if moment == "seconds":
        threading.Timer(number, kill).start()
    whole_save, whole_checkpoint, whole_label = torch.save, Checkpoint.save, Curriculum.label
    whole_after_step, Method.after_step, Curriculum.label = Method.after_step, after_step, label
    if moment == "writing":
        torch.save = save_half
    if moment == "saved":
        Checkpoint.save = save


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model.pt", weights_only=True)


def same(one: Any, other: Any) -> bool:
    """Whether two checkpoints are equal bit by bit, whatever they are nested of."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def train_log(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "train.csv").drop(columns="seconds")
