"""What the cells of a grid came to: their scores, how long they took, and which failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.files import replacing
from common.grid.cells import Cell, Draw, Grid
from common.grid.run import failed, finished
from common.grid.settings import METHOD, default_of
from common.report.results import MEAN, scores_by_case
from common.report.runs import load_run


@dataclass(frozen=True)
class Scores:
    """The rows of ``test.csv`` and, where there is one, of ``train.csv`` by cell.

    Cells that have not finished have none; those that have failed are named.
    """

    cases: dict[str, pd.DataFrame]
    seconds: dict[str, float]
    failed: list[str]
    trainings: dict[str, pd.DataFrame] = field(default_factory=dict)

    def mean(self, cell: str, score: str, label: str = MEAN) -> float | None:
        """A cell's mean over cases, and over classes; None where it has not finished, NaN where all is undefined."""
        if cell not in self.cases:
            return None
        if score not in self.cases[cell]:  # lesions in a bundle that counts none
            return float("nan")
        means = self.cases[cell].groupby("class", sort=False)[score].mean()
        return float(means.mean() if label == MEAN else means.get(label, float("nan")))

    def series(self, cells: Mapping[Draw, str], score: str, label: str = MEAN) -> pd.Series:
        """Scores of the cells of several draws, as :func:`~common.report.results.scores_by_case` has them."""
        parts = [pd.DataFrame(columns=["split", "seed", "case", "class", score])]
        for (split, seed), cell in cells.items():
            if score in self.cases.get(cell, ()):
                table = self.cases[cell]
                table = table if label == MEAN else table[table["class"] == label]
                parts.append(table.assign(split=split, seed=seed))
        return scores_by_case(pd.concat(parts[1:] or parts), score)

    @property
    def classes(self) -> list[str]:
        """The classes that were scored, which need not be those that were trained; none before a cell has finished."""
        return list(dict.fromkeys(name for table in self.cases.values() for name in table["class"]))


def read_scores(grid: Grid, output: Path) -> Scores:
    """Reads the folders of all cells of the grid; others that lie there, of an earlier grid, are not looked at.

    Raises:
        ValueError: naming a file of a cell that is damaged or gone.
    """
    cases, seconds, trainings = {}, {}, {}
    for cell in grid.cells.values():
        if finished(cell, output):
            run = load_run(cell.folder(output))
            if run.test is None:
                raise ValueError(
                    f"{run.folder / 'test.csv'} must hold the scores of a cell that has finished, got none: remove the "
                    "cell's folder, and run the grid again."
                )
            cases[cell.name] = run.test
            if run.train is not None:
                trainings[cell.name] = run.train
            seconds[cell.name] = float("nan") if run.seconds is None else float(run.seconds)
    return Scores(cases, seconds, [cell.name for cell in grid.cells.values() if failed(cell, output)], trainings)


def write_results(grid: Grid, scores: Scores, path: Path) -> Path:
    """Writes one row for each finished cell, case and class: the cell, its method and settings, and all scores.

    The settings are those that any cell is given; where this one is not, its default stands there, and nothing where
    its method has no such keyword.
    """
    names = list(dict.fromkeys(name for cell in grid.cells.values() for name in cell.settings if name != "seed"))
    tables = []
    for name, table in scores.cases.items():
        cell = grid.cells[name]
        own = {}
        for setting in names:
            title = setting.removeprefix(METHOD)
            title = f"setting {title}" if title in table else title  # it may be called as a score is: precision
            own[title] = cell.settings.get(setting, default_of(setting, cell.method, grid.file.merged))
        start: dict[str, Any] = {"cell": name, "method": cell.method, **{k: str_of(v) for k, v in own.items()}}
        start |= {"labeled": cell.labeled, "split": cell.split, "seed": cell.seed, "seconds": scores.seconds[name]}
        tables.append(pd.DataFrame(start, index=table.index).join(table.drop(columns=["seed"], errors="ignore")))
    with replacing(path) as temporary:
        (pd.concat(tables) if tables else pd.DataFrame(columns=["cell"])).to_csv(temporary, index=False)
    return path


def str_of(value: Any) -> Any:
    """A setting as a table's cell."""
    return np.nan if value is None else str(value) if isinstance(value, list | dict) else value


def log_of(cell: Cell, output: Path) -> Path:
    """The log that says why a cell failed; Snakemake's where the cell's own was never begun."""
    own = cell.folder(output) / "log.txt"
    return own if own.exists() else output / "snakemake.log"
