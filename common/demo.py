"""The demonstration: Supervised and RPG on invented radiographs, trained, evaluated, compared and pictured."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import common
from common.data import find_datalist, save_datalist
from common.data.phantom import make_jsrt_phantom

logger = logging.getLogger(__name__)
BUNDLE = Path(common.__file__).parents[1] / "bundles" / "jsrt_rpg"
METHODS = ("Supervised", "RPG")


def demo(
    directory: str = "runs/demo", splits: int = 3, patients: int = 120, workers: int | None = None
) -> None:
    """Train Supervised and RPG with 3 labelled radiographs on several splits of a phantom and compare them.

    Writes ``results.csv`` and ``report.html`` into the folder, and a folder with log, model and report for each run. A
    demonstration that was stopped goes on where it was: finished runs are kept, and the others resume.

    Args:
        directory: the demonstration's folder.
        splits: number of splits.
        patients: number of patients of the phantom; half of them are the test part.
        workers: number of runs at the same time; one for each core, up to two, by default.
    """
    from tqdm import tqdm

    from common.report import format_table, render, summarize, write_results

    folder, started = Path(directory), time.time()
    settings = require_same_settings(folder, {"splits": splits, "patients": patients})
    overlay = json.loads((BUNDLE / "configs" / "demo.json").read_text())
    data = folder / "phantom"
    if not data.exists():
        make_jsrt_phantom(data, patients=patients, size=overlay["image_size"][0], seed=0)
    cells = []
    for split in range(splits):
        datalist = folder / f"split{split}.json"
        save_datalist(find_datalist(data, labeled=3, split=split), datalist)
        cells += [(method, split, datalist) for method in METHODS]
    workers = workers or min(2, os.cpu_count() or 1)
    print(
        f"Training {len(cells)} models ({', '.join(METHODS)} on {splits} splits), {workers} at a time.",
        flush=True,
    )
    with ThreadPoolExecutor(workers) as pool, tqdm(total=len(cells) * overlay["epochs"], unit="epoch") as bar:
        jobs = [
            pool.submit(run_cell, folder, data, *cell, threads=(os.cpu_count() or 1) // workers)
            for cell in cells
        ]
        try:
            follow(jobs, [folder / cell_name(method, split) for method, split, _ in cells], bar)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    results = summarize(folder)
    write_results(results, folder / "results.csv")
    print(f"\n{format_table(results)}\n")
    minutes = (time.time() - started) / 60
    print(f"{splits} splits of {settings['patients']} patients, 3 labelled images each, in {minutes:.1f} minutes.")
    print(f"Results: {folder / 'results.csv'}")
    print(f"Report:  {render(folder)}")


def require_same_settings(folder: Path, settings: dict[str, int]) -> dict[str, int]:
    """Keeps the settings of a demonstration beside it; another one does not go on in its folder.

    Raises:
        ValueError: when the folder holds a demonstration with other settings.
    """
    file = folder / "demo.json"
    if file.exists():
        before = json.loads(file.read_text())
        if before != settings:
            raise ValueError(
                f"{folder} holds a demonstration with {before}, got {settings}: remove the folder or give another one."
            )
    else:
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings))
    return settings


def cell_name(method: str, split: int) -> str:
    return f"{method.lower()}_split{split}"


def run_cell(folder: Path, data: Path, method: str, split: int, datalist: Path, threads: int) -> None:
    """Trains and evaluates one method on one split, each one ``monai.bundle run``, unless that has been done.

    Raises:
        RuntimeError: when a run fails; it names the log.
    """
    cell = folder / cell_name(method, split)
    if (cell / "test.csv").exists():
        return
    cell.mkdir(exist_ok=True)
    configs = [str(BUNDLE / "configs" / name) for name in ("train.json", "demo.json")]
    evaluate = [*configs, str(BUNDLE / "configs" / "evaluate.json")]
    options = {
        "bundle_root": BUNDLE,
        "dataset_dir": data.resolve(),
        "datalist": datalist.resolve(),
        "split": split,
        "output_dir": cell.resolve(),
        "ckpt_dir": cell.resolve(),
        "resume": True,
        "method#_target_": f"common.methods.{method}",
    }
    arguments = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, threads)), "OMP_WAIT_POLICY": "PASSIVE"}
    with (cell / "log.txt").open("a") as log:
        for run_id, files in (("training", configs), ("evaluating", evaluate)):
            command = [
                sys.executable,
                "-m",
                "monai.bundle",
                "run",
                run_id,
                "--config_file",
                str(files),
                *arguments,
            ]
            done = subprocess.run(command, stdout=log, stderr=log, env=environment, check=False)
            if done.returncode != 0:
                raise RuntimeError(
                    f"{method} on split {split} failed while {run_id}: see {cell / 'log.txt'}."
                )


def follow(jobs: list[Future], cells: list[Path], bar) -> None:
    """Moves the progress bar by the epochs that the runs have finished, until all are over; raises what they raise."""
    while True:
        over = all(job.done() for job in jobs)
        bar.n = sum(finished_epochs(cell) for cell in cells)
        bar.refresh()
        for job in jobs:
            if job.done():
                job.result()
        if over:
            return
        time.sleep(1)


def finished_epochs(cell: Path) -> int:
    file = cell / "run.json"
    return json.loads(file.read_text()).get("epoch", 0) if file.exists() else 0
