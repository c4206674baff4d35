"""Trains and evaluates rows of POPCORN's tables on lesion volumes, and compares them volume by volume."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common.bundle_run import MS_BUNDLE, train_and_evaluate
from common.compare import Cell, applies, follow, require_same

BASELINE = {"method#selection": "none", "method#consistency_weight": 0}
# The rows of tables 1 and 2 of Kamraoui et al. 2021: method and settings.
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "Supervised": ("Popcorn", BASELINE),
    "Supervised with consistency": ("Popcorn", {"method#selection": "none"}),
    "POPCORN": ("Popcorn", {}),
    "POPCORN half the steps": ("Popcorn", {"method#share": 0.5}),
    "POPCORN without consistency": ("Popcorn", {"method#consistency_weight": 0}),
    "POPCORN random selection": ("Popcorn", {"method#selection": "random"}),
    "Uncertainty-guided pseudo-labels": ("UncertaintyGuided", {"network_def#dropout": 0.2}),
    "Multi-task attention": ("MultiTaskAttention", {}),
    "Transformation consistency": ("TransformationConsistency", {"method#ramp_up": 200}),
}


def compare_lesions(
    output: str | Path,
    datalists: Sequence[str | Path],
    rows: str | Sequence[str] = ("Supervised", "POPCORN"),
    seeds: int = 1,
    config: str = "train.json",
    workers: int | None = None,
    settings: dict[str, Any] | None = None,
) -> Path:
    """Trains rows of the paper's tables under the same settings, scores the test volumes once and compares.

    Each run is the bundle's ``training`` and ``evaluating``, as typed by hand, in a folder of its own with its log. A
    comparison that was stopped goes on where it was. Writes ``results.csv`` (method, seed, volume, dice, precision,
    sensitivity, lesion_f1) and ``report.html``.

    Args:
        output: folder of the comparison.
        datalists: one datalist, which is trained on with the seeds 0, 1 and so on; or several, of which the i-th is
            trained on with seed i.
        rows: names of rows, or ``all``.
        seeds: number of seeds for a single datalist.
        config: the bundle's configuration files, separated by commas.
        workers: number of models trained at the same time; by default one for each core, two at most.
        settings: further settings of the bundle, by id.

    Returns:
        Path of the report.

    Raises:
        ValueError: for an unknown row, or when the folder holds a comparison with other settings.
        ChildProcessError: when a run fails; the message names its log.
    """
    from common.report import render
    from common.report.lesion_results import format_lesion_table, lesion_results, write_lesion_results

    names = row_names(rows)
    folder, started, cores = Path(output), time.time(), os.cpu_count() or 1
    files = [Path(datalist) for datalist in datalists] * (seeds if len(datalists) == 1 else 1)
    require_same(folder, {"datalists": [str(file) for file in files], "config": config, "settings": settings or {}})
    cells, options = [], {}
    for seed, datalist in enumerate(files):
        for name in names:
            cell = Cell(name, datalist, folder / f"{name.lower().replace(' ', '_')}_seed{seed}")
            cells.append(cell)
            method, own = ROWS[name]
            shared = {key: value for key, value in (settings or {}).items() if applies(key, method)}
            options[cell.folder] = method, {**shared, **own, "name": name, "seed": seed}
    workers = workers or min(2, cores)
    print(f"Training {len(cells)} models ({', '.join(names)}; {len(files)} seeds), {workers} at a time.")

    def run(cell: Cell) -> None:
        method, own = options[cell.folder]
        threads = max(1, cores // workers)
        train_and_evaluate(cell.folder, method, cell.datalist, config, own, threads, bundle=MS_BUNDLE)

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
    return Path(report)


def row_names(rows: str | Sequence[str]) -> list[str]:
    """Names of rows from a list of them, or from text with commas between.

    Raises:
        ValueError: naming the unknown ones.
    """
    given = rows.split(",") if isinstance(rows, str) else list(rows)  # fire makes a tuple of what has commas
    names = list(ROWS) if given == ["all"] else [str(name).strip() for name in given]
    unknown = [name for name in names if name not in ROWS]
    if unknown or len(set(names)) != len(names):
        raise ValueError(f"rows must be different ones of {', '.join(ROWS)}; or all; got {', '.join(names)}.")
    return names
