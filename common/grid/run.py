"""Runs the cells of a grid, each as a job in its own folder, on this machine or by Snakemake, and follows them."""

from __future__ import annotations

import importlib.util
import json
import os
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
from common.bundle_run import DONE
from common.files import read_json, replacing
from common.grid.cells import Cell, Grid
from common.grid.data import Source
from common.grid.job import DESCRIPTION, FAILED
from common.grid.lock import lock
from common.grid.settings import own_method

SNAKEFILE = Path(__file__).with_name("Snakefile")
# What a job asks a cluster for; another value by --set-resources cell:mem_mb=16000, say.
THREADS, MEMORY, MINUTES = 1, 8000, 720
EVERY = 1.0  # seconds between two looks at the runs


def require_snakemake() -> None:
    """Refuses to go on where Snakemake is asked for and not installed."""
    if importlib.util.find_spec("snakemake") is None:
        raise ValueError(
            "Snakemake must be installed for its options, got none: pip install -e '.[tables]', Python 3.11 or newer."
        )


def finished(cell: Cell, output: Path) -> bool:
    return (cell.folder(output) / DONE).is_file()


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
        cores: number of cells at the same time.
        options: options of Snakemake, as typed; without any, the cells are started by this process.

    Raises:
        ChildProcessError: when Snakemake itself ends before every cell has started.
    """
    waiting = [cell for cell in grid.cells.values() if not finished(cell, output)]
    for cell in waiting:
        describe(cell, grid, source, output)
    if not waiting:
        return
    jobs = SnakemakeJobs(waiting, output, cores, options, descriptor) if options else LocalJobs(waiting, output, cores)
    before = {kind: signal.signal(kind, lambda *_: sys.exit(143)) for kind in (signal.SIGTERM, signal.SIGHUP)}
    try:
        follow(jobs, list(grid.cells.values()), output)
    finally:
        jobs.end()
        for kind, handler in before.items():
            signal.signal(kind, handler)
    silent = [cell for cell in waiting if not finished(cell, output) and not failed(cell, output)]
    begun = [cell for cell in silent if changed_since(cell.folder(output) / "log.txt", jobs.started)]
    for cell in begun:
        with replacing(cell.folder(output) / FAILED) as temporary:
            temporary.write_text("It ended without an error of its own, as when it is killed for memory.\n")
    if len(silent) > len(begun):
        raise ChildProcessError(
            f"every cell must be started, got {len(silent) - len(begun)} of {len(waiting)} that were not: see "
            f"{jobs.log}, and run the same command again."
        )


def describe(cell: Cell, grid: Grid, source: Source, output: Path) -> None:
    """Writes all that the cell's job needs to know into its folder, and forgets that it failed."""
    folder = cell.folder(output)
    content = {
        "bundle": str(grid.file.bundle),
        "method": cell.method,
        "config": grid.file.config,
        "settings": {"name": cell.title, **own_method(cell.method, grid.file.merged), **cell.settings},
        "datalist": str(source.write(output, cell.labeled, cell.split).resolve()),
        "directory": str(Path.cwd()),
    }
    with replacing(folder / DESCRIPTION) as temporary:
        temporary.write_text(json.dumps(content, indent=1))
    (folder / FAILED).unlink(missing_ok=True)


class LocalJobs:
    """The jobs of cells, so many at a time, as processes of this machine that share its cores evenly."""

    def __init__(self, cells: list[Cell], output: Path, cores: int) -> None:
        # the slow methods mostly stand last in a table: started first, none of them is left to end alone
        self.waiting, self.output, self.cores = cells[::-1], output, min(cores, len(cells))
        self.running: list[subprocess.Popen] = []
        self.started, self.log = time.time(), output / "cells"

    def over(self) -> bool:
        """Starts what there is room for; whether nothing is left to run."""
        self.running = [job for job in self.running if job.poll() is None]
        while self.waiting and len(self.running) < self.cores:
            self.running.append(self.start(self.waiting.pop(0).folder(self.output)))
        return not self.running

    def start(self, folder: Path) -> subprocess.Popen:
        threads = max(1, (os.cpu_count() or 1) // self.cores)
        line = [sys.executable, "-m", "common.grid.job", str(folder), "--threads", str(threads)]
        with (folder / "log.txt").open("a") as log:  # a session of its own, so that all of a job can be ended
            return subprocess.Popen(line, stdout=log, stderr=log, start_new_session=True)

    def end(self) -> None:
        """Ends the jobs that have not ended; the next call goes on from their checkpoints."""
        left = [job for job in self.running if job.poll() is None]
        for kind, seconds in ((signal.SIGTERM, 10), (signal.SIGKILL, None)):
            for job in left:
                with suppress(ProcessLookupError):
                    os.killpg(job.pid, kind)
            for job in left:
                with suppress(subprocess.TimeoutExpired):
                    job.wait(seconds)


class SnakemakeJobs:
    """The jobs of cells under Snakemake, on whatever machines its options name."""

    def __init__(self, cells: list[Cell], output: Path, cores: int, options: str, descriptor: int) -> None:
        self.started, self.log = time.time(), output / "snakemake.log"
        with self.log.open("w") as said:
            line = command(output, cells, cores, options)
            self.child = subprocess.Popen(line, stdout=said, stderr=said, pass_fds=[descriptor])

    def over(self) -> bool:
        return self.child.poll() is not None

    def end(self) -> None:
        end(self.child)


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


def changed_since(file: Path, moment: float) -> bool:
    return file.exists() and file.stat().st_mtime >= moment


def follow(jobs: LocalJobs | SnakemakeJobs, cells: list[Cell], output: Path) -> None:
    """Shows finished cells and epochs, and the time that is left, until all jobs have ended."""
    total = sum(cell.epochs for cell in cells)
    shape = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} epochs [{elapsed}<{remaining}]"
    with tqdm(total=total, initial=epochs_done(cells, output), bar_format=shape) as bar:
        while True:
            over = jobs.over()
            ended, lost = sum(finished(c, output) for c in cells), sum(failed(c, output) for c in cells)
            bar.set_description_str(
                f"{ended} of {len(cells)} cells" + (f", {lost} failed" if lost else ""), refresh=False
            )
            done = epochs_done(cells, output)
            if done != bar.n or over or sys.stderr.isatty():  # a log gets a line for each epoch, not for each second
                bar.n = done
                bar.refresh()
            if over:
                return
            time.sleep(EVERY)


def epochs_done(cells: list[Cell], output: Path) -> int:
    return sum(cell.epochs if finished(cell, output) else epochs(cell.folder(output)) for cell in cells)


def epochs(folder: Path) -> int:
    """Finished epochs of a run; 0 where it has not started."""
    file = folder / "run.json"
    found = read_json(file, "remove the cell's folder") if file.is_file() else {}
    return found.get("epoch", 0) if isinstance(found, dict) else 0


def end(child: subprocess.Popen) -> None:
    """Ends Snakemake and its jobs, where they have not ended."""
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
