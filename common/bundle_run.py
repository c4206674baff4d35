"""Trains and evaluates one model by a bundle's own commands, as typed by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common

BUNDLES = Path(common.__file__).parents[1] / "bundles"
BUNDLE, MS_BUNDLE = BUNDLES / "jsrt_rpg", BUNDLES / "ms_popcorn"
SCORES = {BUNDLE: "test.csv", MS_BUNDLE: "volumes.csv"}  # what an evaluation writes last


def train_and_evaluate(
    folder: Path,
    method: str,
    datalist: Path,
    config: str,
    settings: dict[str, Any],
    threads: int = 1,
    keep_open: Sequence[int] = (),
    bundle: Path = BUNDLE,
) -> None:
    """Runs ``training`` and ``evaluating`` in ``folder``, with a log there; goes on where an earlier run was stopped.

    Nothing happens where the folder has its test scores already.

    Args:
        folder: folder of the run.
        method: name of a method in ``common.methods``.
        datalist: the datalist's file.
        config: the bundle's configuration files, separated by commas.
        settings: further settings of the bundle, by id.
        threads: number of threads of the run.
        keep_open: file descriptors that the run inherits.
        bundle: the bundle's folder.

    Raises:
        ChildProcessError: when one of the two fails; the message names the log.
    """
    if (folder / SCORES[bundle]).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    train = [str(bundle / "configs" / name) for name in config.split(",")]
    evaluate = [*train, str(bundle / "configs" / "evaluate.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    log_file = folder / "log.txt"
    with log_file.open("a") as log:
        for run_id, files in (("training", train), ("evaluating", evaluate)):
            command = [sys.executable, *bundle_command(run_id, folder, method, datalist, files, settings, bundle)]
            done = subprocess.run(
                command, stdout=log, stderr=log, env=environment, check=False, pass_fds=tuple(keep_open)
            )
            if done.returncode != 0:
                raise ChildProcessError(f"{method} on {datalist.name} failed while {run_id}: see {log_file}.")


def bundle_command(
    run_id: str,
    folder: Path,
    method: str,
    datalist: Path,
    files: Sequence[str],
    settings: dict[str, Any],
    bundle: Path = BUNDLE,
) -> list[str]:
    """``-m monai.bundle run RUN_ID ...`` of a run in a folder, which goes on where it was stopped."""
    options = {
        "bundle_root": bundle,
        "datalist": datalist.resolve(),
        "output_dir": folder.resolve(),
        "ckpt_dir": folder.resolve(),
        "cache_dir": (folder.parent / "cache").resolve(),
        "resume": True,
        "method#_target_": f"common.methods.{method}",
        **settings,
    }
    arguments = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    return ["-m", "monai.bundle", "run", run_id, "--config_file", str(list(files)), *arguments]
