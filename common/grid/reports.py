"""The report of each table of a grid."""

from __future__ import annotations

from pathlib import Path

from common.grid.cells import Grid, Table
from common.grid.grid_file import CLASSES, LABELED
from common.grid.settings import label
from common.report import load_run, render_runs


def write_reports(grid: Grid, output: Path) -> list[Path]:
    """Writes ``report.html``, or ``report_<table>.html`` of several tables, about the cells that have begun."""
    written = []
    for table in grid.tables:
        names, baselines = _names(table)
        folders = {(name, cell): grid.cells[cell].folder(output) for name, cell in names}
        runs = [load_run(folder, name) for (name, _), folder in folders.items() if (folder / "run.json").is_file()]
        begun = {run.name for run in runs}
        baselines = {own: other for own, other in baselines.items() if {own, other} <= begun}
        if runs:
            name = "report.html" if len(grid.tables) == 1 else f"report_{table.name}.html"
            written.append(render_runs(runs, output / name, table.title, baselines))
    return written


def _names(table: Table) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Each cell with what the report calls its run, and the name that each is compared with: that of its own column."""
    several = table.column_key != CLASSES and len(table.columns) > 1
    names: dict[tuple[str, str], None] = {}
    baselines = {}
    for row in table.rows:
        for (column, _), cell in row.cells.items():
            head = f"{column} labelled" if table.column_key == LABELED else label(table.column_key, column)
            end = f", {head}" if several else ""
            names[row.name + end, cell] = None
            if row.name != table.baseline:
                baselines[row.name + end] = table.baseline + end
    return list(names), baselines
