"""Trains and evaluates one model by a bundle's own commands, as typed by hand."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
from common.command_words import quoted

DONE = ".done"  # in the folder of a run that has been trained and evaluated to the end
BUNDLES = Path(common.__file__).parents[1] / "bundles"


def train_and_evaluate(
    folder: Path,
    bundle: Path,
    method: str,
    datalist: Path,
    config: str,
    settings: dict[str, Any],
    threads: int = 1,
    keep_open: Sequence[int] = (),
) -> None:
    """Runs ``training`` and ``evaluating`` in ``folder``; goes on where an earlier run was stopped.

    ``log.txt`` there holds both command lines, as they can be pasted, and what they say. Nothing happens where both
    have come to their end already.

    Args:
        folder: folder of the run.
        bundle: the bundle's folder.
        method: name of a method in ``common.methods``.
        datalist: the datalist's file.
        config: the bundle's configuration files, separated by commas.
        settings: further settings of the bundle, by id.
        threads: number of threads of the run.
        keep_open: file descriptors that the run inherits.

    Raises:
        ChildProcessError: when one of the two fails; the message names the log.
    """
    if (folder / DONE).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    train = [str(bundle / "configs" / name) for name in config.split(",")]
    evaluate = [*train, str(bundle / "configs" / "evaluate.json")]
    log_file = folder / "log.txt"
    with log_file.open("a") as log:
        for run_id, files in (("training", train), ("evaluating", evaluate)):
            command = bundle_command(run_id, folder, bundle, method, datalist, files, settings)
            log.write(f"{shlex.join(command)}\n")
            log.flush()
            done = subprocess.run(
                command, stdout=log, stderr=log, env=environment(threads), check=False, pass_fds=tuple(keep_open)
            )
            if done.returncode != 0:
                raise ChildProcessError(f"{method} on {datalist.name} failed while {run_id}: see {log_file}.")
    (folder / DONE).touch()


def environment(threads: int) -> dict[str, str]:
    """Variables of a run that shares the machine with others."""
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}


def bundle_command(
    run_id: str,
    folder: Path,
    bundle: Path,
    method: str,
    datalist: Path,
    files: Sequence[str],
    settings: dict[str, Any],
) -> list[str]:
    """``python -m monai.bundle run RUN_ID ...`` of a run in a folder, which goes on where it was stopped."""
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
    # MONAI passes over what is None on a command line, but not over an expression that is
    options = {key: "$None" if value is None else value for key, value in options.items()}
    words = {key: quoted(value) if isinstance(value, str) else str(value) for key, value in options.items()}
    arguments = [part for key, word in words.items() for part in (f"--{key}", word)]
    return [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", str(list(files)), *arguments]
