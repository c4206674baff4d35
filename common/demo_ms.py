"""The demonstration in 3D: Supervised and POPCORN on invented brains of several scanners."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common.bundle_run import MS_BUNDLE, train_and_evaluate
from common.compare import Cell, follow, require_same
from common.data import save_datalist
from common.data.phantom_ms import make_ms_phantom, phantom_datalist

# few images join at a time, and near means near: there are 3 labelled images, not 21
STEPS = {"method#step_size": 3, "method#step_epochs": 2, "method#neighbors": 2}
BASELINE = {"method#selection": "none", "method#consistency_weight": 0}
# The rows of tables 1 and 2 of Kamraoui et al. 2021: method and settings.
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "Supervised": ("Popcorn", BASELINE),
    "Supervised with consistency": ("Popcorn", {"method#selection": "none"}),
    "POPCORN": ("Popcorn", {}),
    "POPCORN half the steps": ("Popcorn", {"method#share": 0.5}),
    "POPCORN without consistency": ("Popcorn", {"method#consistency_weight": 0}),
    "POPCORN random selection": ("Popcorn", {"method#selection": "random"}),
    "Uncertainty-guided pseudo-labels": ("UncertaintyGuided", {"network_def#dropout": 0.2, "method#seed": "@seed"}),
    "Multi-task attention": ("MultiTaskAttention", {"method#seed": "@seed"}),
    "Transformation consistency": ("TransformationConsistency", {"method#seed": "@seed", "method#ramp_up": 200}),
}


def demo_ms(
    directory: str = "runs/demo-ms",
    rows: str = "Supervised,POPCORN",
    seeds: int = 3,
    size: int = 90,
    unlabeled: int = 12,
    test: int = 8,
    workers: int | None = None,
    settings: dict[str, Any] | None = None,
) -> None:
    """Train methods with 3 labelled volumes of one scanner and unlabelled ones of others, and compare them.

    Writes ``results.csv`` (method, seed, volume, dice, precision, sensitivity, lesion_f1) and ``report.html``. A
    demonstration that was stopped goes on where it was.

    Args:
        directory: the demonstration's folder.
        rows: names of rows of the paper's tables, separated by commas, or ``all``.
        seeds: number of seeds, each with other labelled volumes.
        size: voxels of a phantom along its longest side, for 180 mm.
        unlabeled: number of unlabelled volumes.
        test: number of test volumes.
        workers: number of models trained at the same time; by default one for each core, two at most.
        settings: further settings of the bundle, by id.

    Raises:
        ValueError: for an unknown row, or when the folder holds a demonstration with other settings.
        RuntimeError: when a run fails; the message names its log.
    """
    from common.report import render
    from common.report.lesion_results import format_lesion_table, lesion_results, write_lesion_results

    given = rows.split(",") if isinstance(rows, str) else list(rows)  # fire makes a tuple of what has commas
    names = list(ROWS) if rows == "all" else [name.strip() for name in given]
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        raise ValueError(f"rows must be of {', '.join(ROWS)}, or all, got {', '.join(unknown)}.")
    folder, started, cores = Path(directory), time.time(), os.cpu_count() or 1
    settings = dict(settings or {})
    numbers = {"seeds": seeds, "size": size, "unlabeled": unlabeled, "test": test, "settings": settings}
    require_same(folder, numbers)
    data = folder / "phantom"
    if not data.exists():
        make_ms_phantom(data, labeled=6, unlabeled=unlabeled, test=test, size=size, seed=0)
    spacing = json.dumps([180 / size] * 3)
    cells, options = [], {}
    for seed in range(seeds):
        datalist = folder / f"seed{seed}.json"
        if not datalist.exists():
            save_datalist(phantom_datalist(data, labeled=3, split=seed), datalist)
        for name in names:
            cell = Cell(name, datalist, folder / f"{name.lower().replace(' ', '_')}_seed{seed}")
            cells.append(cell)
            method, own = ROWS[name]
            options[cell.folder] = method, {
                **STEPS, **settings, "spacing": spacing, "cache_dir": (folder / "cache").resolve(), **own, "name": name,
                "seed": seed,
            }  # fmt: skip
    workers = workers or min(2, cores)
    threads = max(1, cores // workers)
    print(f"Training {len(cells)} models ({', '.join(names)}; {seeds} seeds), {workers} at a time.")

    def run(cell: Cell) -> None:
        method, own = options[cell.folder]
        train_and_evaluate(cell.folder, method, cell.datalist, "train.json,demo.json", own, threads, bundle=MS_BUNDLE)

    with ThreadPoolExecutor(workers) as pool:
        jobs = [pool.submit(run, cell) for cell in cells]
        try:
            follow(jobs, cells)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    results = write_lesion_results(folder)
    report = render(folder)
    print(f"\n{format_lesion_table(lesion_results(folder))}\n\nIn {(time.time() - started) / 60:.1f} minutes.")
    print(f"Results: {results}\nReport:  {report}")
