"""Trains and evaluates several methods on several datalists, and compares them."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from common import methods as all_methods
from common.bundle_run import train_and_evaluate
from common.data import load_datalist
from common.files import replacing
from common.settings import keywords


@dataclass(frozen=True)
class Cell:
    """One method on one datalist, and the folder of its run."""

    method: str
    datalist: Path
    folder: Path


def compare(
    output: str | Path,
    datalists: Sequence[str | Path],
    methods: Sequence[str] = ("Supervised", "RPG"),
    config: str = "train.json",
    settings: dict[str, Any] | None = None,
    workers: int | None = None,
) -> Path:
    """Trains every method on every datalist with the same settings, scores the test parts and compares.

    Each run is the bundle's ``training`` and ``evaluating``, as typed by hand, in a folder ``<method>_<datalist>`` with
    its log. A comparison that was stopped goes on where it was: finished runs are kept, others resume.

    Args:
        output: folder of the comparison; gets ``results.csv`` and ``report.html``.
        datalists: the datalists, one for each split.
        methods: names of methods in ``common.methods``.
        config: the bundle's configuration files, separated by commas: ``"train.json,demo.json"``.
        settings: further settings of the bundle, by id. Those of the method (``method#neighbors``) go to the methods
            that have them.
        workers: number of runs at the same time; by default one for each core, two at most.

    Returns:
        Path of the report.

    Raises:
        ValueError: for an unknown method, a setting that no method has, or when the folder holds a comparison with
            other settings.
        ChildProcessError: when a run fails; the message names its log.
    """
    from common.report import format_table, render, summarize, write_results

    output, started, cores = Path(output), time.time(), os.cpu_count() or 1
    unknown = [name for name in methods if name not in all_methods.__all__]
    if unknown:
        raise ValueError(f"methods must be of {all_methods.__all__}, got {', '.join(unknown)}.")
    settings = dict(settings or {})
    homeless = [key for key in settings if not any(applies(key, method) for method in methods)]
    if homeless:
        raise ValueError(f"settings of a method must be keywords of one of {list(methods)}, got {', '.join(homeless)}.")
    datalists = [Path(datalist) for datalist in datalists]
    splits = [load_datalist(datalist)["split"] for datalist in datalists]
    if len(set(splits)) != len(splits):
        raise ValueError(f"every datalist must be of a split of its own, got the splits {splits}.")
    require_same(output, {"datalists": [d.name for d in datalists], "config": config, "settings": settings})
    cells = [Cell(m, d, output / f"{m.lower()}_{d.stem}") for d in datalists for m in methods]
    workers = workers or min(2, cores)
    print(f"Training {len(cells)} models ({', '.join(methods)} on {len(datalists)} splits), {workers} at a time.")
    with ThreadPoolExecutor(workers) as pool:
        jobs = [pool.submit(run_cell, cell, config, settings, max(1, cores // workers)) for cell in cells]
        try:
            follow(jobs, cells)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    results = summarize(output)
    write_results(results, output / "results.csv")
    report = render(output)
    print(f"\n{format_table(results)}\n\nIn {(time.time() - started) / 60:.1f} minutes.")
    print(f"Results: {output / 'results.csv'}\nReport:  {report}")
    return report


def require_same(output: Path, settings: dict[str, Any]) -> None:
    """Keeps a comparison's settings in its folder, so that one with others does not go on in it."""
    file = output / "comparison.json"
    if file.exists():
        before = json.loads(file.read_text())
        if before != settings:
            raise ValueError(f"{output} holds a comparison with {before}, got {settings}: give another folder.")
        return
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(settings))


def applies(setting: str, method: str) -> bool:
    """Whether a setting of the bundle is one for this method: all are but the keywords of other methods."""
    prefix, _, keyword = setting.partition("#")
    return prefix != "method" or keyword in keywords(getattr(all_methods, method))


def run_cell(cell: Cell, config: str, settings: dict[str, Any], threads: int) -> None:
    """Trains and evaluates one cell with the settings that its method has, unless that has been done."""
    own = {key: value for key, value in settings.items() if applies(key, cell.method)}
    train_and_evaluate(cell.folder, cell.method, cell.datalist, config, own, threads)


def follow(jobs: list[Future], cells: list[Cell]) -> None:
    """Shows the epochs that the runs have finished, until all are over; raises what they raise."""
    with tqdm(unit=" epochs", bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} epochs [{elapsed}<{remaining}]") as bar:
        while True:
            over = all(job.done() for job in jobs)
            finished, total = zip(*[epochs(cell.folder) for cell in cells], strict=True)
            bar.total = max(total) * len(cells) or None
            if bar.n != sum(finished) or sys.stderr.isatty():  # a log gets a line for each epoch, not for each second
                bar.n = sum(finished)
                bar.refresh()
            for job in jobs:
                if job.done():
                    job.result()
            if over:
                return
            time.sleep(1)


def epochs(folder: Path) -> tuple[int, int]:
    """Finished epochs of a run, and how many it will have; 0 where it has not started."""
    file = folder / "run.json"
    run = json.loads(file.read_text()) if file.exists() else {}
    return run.get("epoch", 0), run.get("epochs", 0)
