"""The tables of a grid: what stands in them, as CSV and as text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.files import replacing
from common.grid.cells import Draw, Grid, Row, Table
from common.grid.grid_file import CLASSES, LABELED
from common.grid.scores import Scores
from common.grid.settings import label
from common.report.results import MEAN, spread
from common.report.statistics import Difference, difference

ALL = "all"


@dataclass(frozen=True)
class Entry:
    """One place of a table: the values by draw, and how many of its cells there should be and how many failed."""

    values: dict[Draw, float]
    expected: int
    failed: int

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.values.values()))) if self.values else float("nan")

    @property
    def deviation(self) -> float:
        return spread(np.array(list(self.values.values())))


@dataclass(frozen=True)
class Contents:
    """A table with its values; `columns` and the keys of `entries` (row, column) are as the table's, or labels."""

    table: Table
    columns: list[Any]
    entries: dict[tuple[str, Any], Entry]
    differences: dict[tuple[str, Any], Difference]
    seconds: dict[str, float]
    failed: dict[str, list[str]]

    @property
    def heads(self) -> list[str]:
        """The columns as a reader sees them."""
        if self.table.column_key == LABELED:
            return [f"{column} labelled" for column in self.columns]
        if self.table.column_key == CLASSES:
            return [str(column).replace("_", " ") for column in self.columns]
        return [label(self.table.column_key, column) for column in self.columns]


def fill(table: Table, scores: Scores, classes: list[str]) -> Contents:
    """Looks up every value of a table, and pairs every row with its baseline: by column, and over all columns.

    Columns that are classes are not pooled: they are of the same images.
    """
    columns = [*classes, MEAN] if table.column_key == CLASSES else table.columns
    entries = {(row.name, column): _entry(table, row, column, scores) for row in table.rows for column in columns}
    base = {column: _series(table, table.baseline, column, scores) for column in columns}
    differences: dict[tuple[str, Any], Difference] = {}
    for row in table.rows:
        if row.name == table.baseline:
            continue
        own = {column: _series(table, row.name, column, scores) for column in columns}
        for column in columns:
            differences[row.name, column] = difference(own[column], base[column])
        if table.column_key != CLASSES and len(columns) > 1:
            differences[row.name, ALL] = difference(*(_pooled(series) for series in (own, base)))
    used = {row.name: list(dict.fromkeys(row.cells.values())) for row in table.rows}
    # a series, since the mean of none is then NaN without a warning
    seconds = {
        name: float(pd.Series({c: scores.seconds.get(c) for c in cells}, dtype=float).mean())
        for name, cells in used.items()
    }
    lost = {name: [cell for cell in cells if cell in scores.failed] for name, cells in used.items()}
    return Contents(table, columns, entries, differences, seconds, lost)


def _cells(table: Table, row: Row, column: Any) -> dict[Draw, str]:
    """The cells of one place, by draw."""
    place = None if table.column_key == CLASSES else column
    return {draw: row.cells[place, draw] for draw in table.draws if (place, draw) in row.cells}


def _label(table: Table, column: Any) -> str:
    return column if table.column_key == CLASSES else MEAN


def _series(table: Table, name: str, column: Any, scores: Scores) -> pd.Series:
    (row,) = (row for row in table.rows if row.name == name)
    return scores.series(_cells(table, row, column), table.score, _label(table, column))


def _pooled(series: dict[Any, pd.Series]) -> pd.Series:
    """The series of all columns as one, which are paired column by column."""
    return pd.concat({str(column): values for column, values in series.items()}, names=["column"])


def _entry(table: Table, row: Row, column: Any, scores: Scores) -> Entry:
    cells = _cells(table, row, column)
    found = {draw: scores.mean(cell, table.score, _label(table, column)) for draw, cell in cells.items()}
    values = {draw: value for draw, value in found.items() if value is not None and np.isfinite(value)}
    return Entry(values, len(cells), sum(cell in scores.failed for cell in cells.values()))


def write_csv(contents: Contents, path: Path) -> Path:
    """Writes a row for every place of the table, and one for every row against the baseline over all columns."""
    rows = []
    pooled = [ALL] if any(column == ALL for _, column in contents.differences) else []
    for row in contents.table.rows:
        for column in [*contents.columns, *pooled]:
            entry = contents.entries.get((row.name, column))
            against = contents.differences.get((row.name, column))
            if (entry is None and against is None) or (entry is not None and not entry.expected):
                continue
            rows.append(
                {
                    "row": row.name,
                    "column": column,
                    "runs": len(entry.values) if entry else None,
                    "score": contents.table.score,
                    "mean": entry.mean if entry else None,
                    "standard_deviation": entry.deviation if entry else None,
                    "failed": entry.failed if entry else len(contents.failed[row.name]),
                    "seconds": contents.seconds[row.name],
                    "baseline": contents.table.baseline if against else None,
                    "mean_difference": against.mean if against else None,
                    "low": against.low if against else None,
                    "high": against.high if against else None,
                    "wilcoxon_p": against.p if against else None,
                    "cases": against.cases if against else None,
                    "draws": against.draws if against else None,
                    "better_draws": against.better if against else None,
                    "wilcoxon_p_draws": against.draws_p if against else None,
                }
            )
    with replacing(path) as temporary:
        whole = dict.fromkeys(["runs", "cases", "draws", "better_draws"], "Int64")
        pd.DataFrame(rows).astype(whole).to_csv(temporary, index=False)
    return path


def all_contents(grid: Grid, scores: Scores, classes: list[str]) -> list[Contents]:
    return [fill(table, scores, classes) for table in grid.tables]
