"""The job of one cell, as a grid starts it: ``python -m common.grid.job FOLDER --threads N``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from common.bundle_run import train_and_evaluate
from common.files import replacing
from common.grid.lock import lock

DESCRIPTION, FAILED = "cell.json", "failed.txt"


def run(folder: Path, threads: int) -> None:
    """Trains and evaluates the cell that ``cell.json`` in ``folder`` describes; on from its checkpoint if it has one.

    The process goes to the folder that the grid was started in, since paths among the settings are relative to that. A
    training that goes on there, because only the one who started it was killed, is waited for first. Where anything
    fails, ``failed.txt`` says so until the cell is started again.

    Raises:
        ChildProcessError: when training or evaluating fails.
        OSError, ValueError, KeyError: when the cell cannot be started.
    """
    folder = folder.resolve()
    with lock(folder / ".lock", wait=True) as descriptor:
        (folder / FAILED).unlink(missing_ok=True)
        try:
            cell = json.loads((folder / DESCRIPTION).read_text())
            os.chdir(cell.pop("directory"))
            paths = {key: Path(cell.pop(key)) for key in ("bundle", "datalist")}
            train_and_evaluate(folder, **paths, **cell, threads=threads, keep_open=[descriptor])
        except Exception as error:
            with replacing(folder / FAILED) as temporary:
                temporary.write_text(f"{str(error) or type(error).__name__}\n")
            raise


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    try:
        run(options.folder, options.threads)
    except ChildProcessError as error:
        sys.exit(f"Error: {error}")
