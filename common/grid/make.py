"""The command ``grid``: checks a grid, runs what is missing of it, and writes its tables, figures and reports."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from common.data.splits import check_numbers
from common.files import replacing
from common.grid.cells import Cell, Grid, expand
from common.grid.chart import write_chart, write_curves
from common.grid.check import check_data, check_methods, check_pools
from common.grid.data import Source, data_source
from common.grid.grid_file import read_grid
from common.grid.reports import write_reports
from common.grid.run import alone, failed, finished, require_snakemake, run_grid
from common.grid.scores import Scores, log_of, read_scores, write_results
from common.grid.tables import all_contents, write_csv
from common.grid.text import render


def run_and_report(
    file: str | Path,
    output: str | Path,
    cores: int | None = None,
    dry_run: bool = False,
    tables_only: bool = False,
    snakemake: str = "",
    trusted: bool = False,
) -> list[str]:
    """Trains and evaluates every cell of a grid that has not been, and writes ``tables.md`` and what belongs to it.

    Args:
        file: the grid file.
        output: the grid's folder.
        cores: number of cells at the same time; by default as `default_cores`.
        dry_run: list the cells, and how long they would take, and write nothing.
        tables_only: run nothing, and write the tables of what there is.
        snakemake: options of Snakemake, as typed, to run the cells by it: ``--executor slurm --jobs 40``.
        trusted: the file may hold what runs code.

    Returns:
        One line for each cell that failed, with its log; none where all is well.

    Raises:
        ValueError, FileNotFoundError: for a grid that cannot be run, before anything is, without Snakemake, or when
            the folder is in use.
        ChildProcessError: when Snakemake ends before it has started every cell; the tables are written all the same.
    """
    output, cores = Path(output), default_cores() if cores is None else cores
    check_numbers(cores=(cores, 1))
    if tables_only and not output.is_dir():
        raise FileNotFoundError(
            f"{output} must be the folder of a grid that has run, got none: give the grid's folder."
        )
    grid, source = checked(Path(file), trusted)
    if dry_run:
        print(overview(grid, output, cores))
        return []
    if not tables_only:
        if snakemake:
            require_snakemake()
        with alone(output) as descriptor:
            source.prepare(output)
            check_data(grid.file, source)
            check_pools(grid, source)
            print(f"{len(grid.cells)} cells in {len(grid.tables)} tables, {cores} at a time, in {output}.")
            try:
                run_grid(grid, source, output, descriptor, cores, snakemake)
            except ChildProcessError:
                show_tables(grid, source, output)
                raise
    return [f"{name}: see {log_of(grid.cells[name], output)}" for name in show_tables(grid, source, output).failed]


def show_tables(grid: Grid, source: Source, output: Path) -> Scores:
    """Writes and prints the tables of what there is."""
    scores = read_scores(grid, output)
    print(f"\n{write_tables(grid, source, scores, output)}")
    reports = write_reports(grid, output)
    print(f"In {output}: tables.md, results.csv, a CSV file of each table, and figures.")
    for report in reports:
        print(f"Report: {report}")
    return scores


def default_cores() -> int:
    """One cell at a time on a machine with a GPU, which they would share; one for each core on another."""
    return 1 if torch.cuda.is_available() else os.cpu_count() or 1


def checked(file: Path, trusted: bool = False) -> tuple[Grid, Source]:
    """The grid of a file and where its data is from, once all has been checked but what the data holds."""
    plan = read_grid(file, trusted)
    source = data_source(file, plan.data)
    grid = expand(plan, source.identity)
    check_methods(grid, source)
    return grid, source


def write_tables(grid: Grid, source: Source, scores: Scores, output: Path) -> str:
    """Writes ``results.csv``, ``tables.md``, and of each table a CSV file and a figure; gives the tables as text."""
    write_results(grid, scores, output / "results.csv")
    contents = all_contents(grid, scores, scores.classes or list(source.space()[0]))
    for content in contents:
        write_csv(content, output / f"{content.table.name}.csv")
        write_chart(content, output)
        write_curves(content, scores.trainings, output)
    text = render(grid, contents, scores, output)
    with replacing(output / "tables.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return text


def overview(grid: Grid, output: Path, cores: int) -> str:
    """Every cell and its state, and how long the rest will take by the finished cells' times."""
    lines = [f"{_state(cell, output):>8}  {cell.name}" for cell in grid.cells.values()]
    waiting = [cell for cell in grid.cells.values() if not finished(cell, output)]
    lines.append(f"{len(grid.cells)} cells in {len(grid.tables)} tables, {len(waiting)} to run.")
    seconds = estimate(waiting, read_scores(grid, output), grid)
    if waiting and seconds is not None:
        lines.append(
            f"About {seconds / cores / 60:.0f} minutes of training on {cores} cores, by the times of finished cells."
        )
    return "\n".join(lines)


def estimate(waiting: list[Cell], scores: Scores, grid: Grid) -> float | None:
    """Seconds that the cells will train: as long as the finished ones of their method, or of all; None without any."""
    times: dict[str, list[float]] = {}
    for name, seconds in scores.seconds.items():
        times.setdefault(grid.cells[name].method, []).append(seconds)
    if not times:
        return None
    overall = float(np.mean([second for own in times.values() for second in own]))
    return sum(float(np.mean(times[cell.method])) if cell.method in times else overall for cell in waiting)


def _state(cell: Cell, output: Path) -> str:
    if finished(cell, output):
        return "finished"
    if failed(cell, output):
        return "failed"
    return "stopped" if (cell.folder(output) / "checkpoint.pt").exists() else "to run"
