"""What the cells of a grid came to: their scores, how long they took, and which failed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from common.files import replacing
from common.grid.cells import Cell, Grid
from common.grid.run import failed, finished
from common.grid.settings import METHOD, default_of
from common.report.results import MEAN, collect
from common.report.runs import load_run


@dataclass(frozen=True)
class Scores:
    """Test scores by cell: ``tables`` has label, iou and dice; cells that failed or have not run are in neither."""

    tables: dict[str, pd.DataFrame]
    seconds: dict[str, float]
    failed: list[str]

    def iou(self, cell: str, label: str = MEAN) -> float | None:
        """A cell's IoU; None where it has not finished, NaN for a class that occurs in no test image."""
        return float(self.tables[cell]["iou"].get(label, float("nan"))) if cell in self.tables else None

    @property
    def classes(self) -> list[str]:
        """The classes that were scored, which need not be those that were trained; none before a cell has finished."""
        return [
            name for name in dict.fromkeys(n for table in self.tables.values() for n in table.index) if name != MEAN
        ]


def read_scores(grid: Grid, output: Path) -> Scores:
    """Reads the folders of all cells of the grid; others that lie there, of an earlier grid, are not looked at."""
    tables, seconds = {}, {}
    for cell in grid.cells.values():
        if finished(cell, output):
            run = load_run(cell.folder(output))
            tables[cell.name] = collect([run], "test").set_index("label")[["iou", "dice"]]
            seconds[cell.name] = float("nan") if run.seconds is None else float(run.seconds)
    return Scores(tables, seconds, [cell.name for cell in grid.cells.values() if failed(cell, output)])


def write_results(grid: Grid, scores: Scores, path: Path) -> Path:
    """Writes one row for each finished cell and label: the cell, its method and settings, and its scores.

    The settings are those that any cell is given; where this one is not, its default stands there, and nothing where
    its method has no such keyword.
    """
    names = list(dict.fromkeys(name for cell in grid.cells.values() for name in cell.settings))
    rows: list[dict[str, Any]] = []
    for name, table in scores.tables.items():
        cell = grid.cells[name]
        own = {
            setting.removeprefix(METHOD): cell.settings.get(setting, default_of(setting, cell.method, grid.file.merged))
            for setting in names
        }
        start = {"cell": name, "method": cell.method, **own, "labeled": cell.labeled, "split": cell.split}
        rows += [
            {**start, "label": label, "iou": row["iou"], "dice": row["dice"], "seconds": scores.seconds[name]}
            for label, row in table.iterrows()
        ]
    columns = ["cell", "method", *(name.removeprefix(METHOD) for name in names)]
    columns += ["labeled", "split", "label", "iou", "dice", "seconds"]
    with replacing(path) as temporary:
        pd.DataFrame(rows, columns=columns).to_csv(temporary, index=False)
    return path


def log_of(cell: Cell, output: Path) -> Path:
    """The log that says why a cell failed; Snakemake's where the cell's own was never begun."""
    own = cell.folder(output) / "log.txt"
    return own if own.exists() else output / "snakemake.log"
