"""Runs the cells of a grid by Snakemake, each as a job in its own folder, and follows them."""

from __future__ import annotations

import importlib.util
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

import common
from common.compare import epochs
from common.files import replacing
from common.grid.cells import Cell, Grid
from common.grid.data import Source
from common.grid.job import DESCRIPTION, FAILED
from common.grid.lock import lock

SNAKEFILE = Path(__file__).with_name("Snakefile")
# What a job asks a cluster for; another value by --set-resources cell:mem_mb=16000, say.
THREADS, MEMORY, MINUTES = 1, 8000, 720
EVERY = 1.0  # seconds between two looks at the runs


def require_snakemake() -> None:
    """Refuses to go on where Snakemake is not installed."""
    if importlib.util.find_spec("snakemake") is None:
        raise ValueError(
            "Snakemake must be installed to run a grid, got none: pip install -e '.[tables]', for Python 3.11 or newer."
        )


def finished(cell: Cell, output: Path) -> bool:
    return (cell.folder(output) / "test.csv").is_file()


def failed(cell: Cell, output: Path) -> bool:
    return not finished(cell, output) and (cell.folder(output) / FAILED).is_file()


@contextmanager
def alone(output: Path) -> Iterator[int]:
    """Holds a grid's folder, so that no other command makes data or runs cells there; gives the lock's descriptor.

    Raises:
        ValueError: when the folder is in use.
    """
    with ExitStack() as stack:
        try:
            descriptor = stack.enter_context(lock(output / ".lock"))
        except BlockingIOError as error:
            raise ValueError(
                f"{output} must not be in use, got a grid that is running there: wait for its end."
            ) from error
        yield descriptor


def run_grid(grid: Grid, source: Source, output: Path, descriptor: int, cores: int, options: str = "") -> None:
    """Runs all cells that are not finished; on with those that were stopped.

    Args:
        grid: the grid.
        source: where its datalists come from.
        output: the grid's folder.
        descriptor: of the lock on that folder (`alone`), which Snakemake holds on.
        cores: number of cells at the same time, each on one core.
        options: further options of Snakemake, as typed.

    Raises:
        ChildProcessError: when Snakemake itself ends before every cell has started.
    """
    waiting = [cell for cell in grid.cells.values() if not finished(cell, output)]
    for cell in waiting:
        describe(cell, grid, source, output)
    if waiting:
        _run(waiting, grid, output, command(output, waiting, cores, options), descriptor)


def describe(cell: Cell, grid: Grid, source: Source, output: Path) -> None:
    """Writes all that the cell's job needs to know into its folder, and forgets that it failed."""
    folder = cell.folder(output)
    content = {
        "method": cell.method,
        "config": grid.file.config,
        "settings": cell.settings,
        "labeled": cell.labeled,
        "split": cell.split,
        "datalist": str(source.write(output, cell.labeled, cell.split).resolve()),
        "directory": str(Path.cwd()),
    }
    with replacing(folder / DESCRIPTION) as temporary:
        temporary.write_text(json.dumps(content, indent=1))
    (folder / FAILED).unlink(missing_ok=True)


def command(output: Path, cells: list[Cell], cores: int, options: str) -> list[str]:
    """Snakemake's command line; its configuration is written to ``snakemake.json``."""
    file = output.resolve() / "snakemake.json"
    root = Path(common.__file__).resolve().parents[1]
    content = {"cells": [cell.name for cell in cells], "root": str(root), "python": sys.executable}
    content |= {"threads": THREADS, "memory": MEMORY, "minutes": MINUTES}
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(content, indent=1))
    fixed = ["--snakefile", SNAKEFILE, "--configfile", file, "--directory", output.resolve(), "--cores", cores]
    fixed += ["--keep-going", "--rerun-incomplete", "--rerun-triggers", "mtime", "--scheduler", "greedy"]
    # Snakemake's own lock survives a kill; the one on this folder does not, and keeps a second grid out as well.
    fixed += ["--nolock"]
    return [sys.executable, "-m", "snakemake", *map(str, fixed), *shlex.split(options)]


def _run(cells: list[Cell], grid: Grid, output: Path, line: list[str], descriptor: int) -> None:
    """Starts Snakemake and stays with it; a job that ended without a word is marked as failed."""
    log, started = output / "snakemake.log", time.time()
    with log.open("w") as said:
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        try:
            child = subprocess.Popen(line, stdout=said, stderr=said, pass_fds=[descriptor])
            try:
                follow(child, list(grid.cells.values()), output)
            finally:
                end(child)
        finally:
            signal.signal(signal.SIGTERM, before)
    silent = [cell for cell in cells if not finished(cell, output) and not failed(cell, output)]
    begun = [cell for cell in silent if changed_since(cell.folder(output) / "log.txt", started)]
    for cell in begun:
        with replacing(cell.folder(output) / FAILED) as temporary:
            temporary.write_text("It ended without an error of its own, as when it is killed for memory.\n")
    if len(silent) > len(begun):
        raise ChildProcessError(
            f"Snakemake must start every cell, got status {child.returncode} with {len(silent) - len(begun)} of "
            f"{len(cells)} not started: see {log}, and run the same command again."
        )


def changed_since(file: Path, moment: float) -> bool:
    return file.exists() and file.stat().st_mtime >= moment


def follow(child: subprocess.Popen, cells: list[Cell], output: Path) -> None:
    """Shows finished cells and epochs until Snakemake has ended."""
    total = sum(cell.epochs for cell in cells)
    shape = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} epochs [{elapsed}<{remaining}]"
    with tqdm(total=total, initial=epochs_done(cells, output), bar_format=shape) as bar:
        while True:
            over = child.poll() is not None
            ended, lost = sum(finished(c, output) for c in cells), sum(failed(c, output) for c in cells)
            bar.set_description_str(
                f"{ended} of {len(cells)} cells" + (f", {lost} failed" if lost else ""), refresh=False
            )
            bar.n = epochs_done(cells, output)
            bar.refresh()
            if over:
                return
            time.sleep(EVERY)


def epochs_done(cells: list[Cell], output: Path) -> int:
    return sum(cell.epochs if finished(cell, output) else epochs(cell.folder(output))[0] for cell in cells)


def end(child: subprocess.Popen) -> None:
    """Ends Snakemake and its jobs, where they have not ended; the next call goes on from their checkpoints."""
    if child.poll() is not None:
        return
    import psutil  # Snakemake's

    gone = psutil.NoSuchProcess
    with suppress(gone):
        parent = psutil.Process(child.pid)
        parent.suspend()  # so that it starts no job beside those that are ended
        try:
            processes = [*parent.children(recursive=True), parent]
            for process in processes:
                with suppress(gone):
                    process.terminate()
        finally:
            with suppress(gone):
                parent.resume()
        for process in psutil.wait_procs(processes, timeout=10)[1]:
            with suppress(gone):
                process.kill()
    child.wait()
