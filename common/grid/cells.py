"""From the tables of a grid file to the cells that are trained: every axis spanned, every cell once."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.grid.grid_file import CLASSES, LABELED, GridFile, RowPlan, TablePlan
from common.grid.settings import (
    METHOD,
    GridError,
    default_of,
    given_to,
    keywords_of,
    label,
    named_files,
    with_value,
)

Draw = tuple[int, int]  # split and seed

# In a folder's name, where they are not the bundle's or the method's own; the other settings are in the hash alone.
IN_NAME = {"seed": "seed", "labeled_batch": "p", "method#neighbors": "k", "method#threshold": "threshold"}


@dataclass(frozen=True)
class Cell:
    """One training: a method with its settings, by id, on one datalist; `name` is its folder's, `title` for people.

    `pool_size` is the number of labelled images in a step, 0 where a step has any number of patches of them.
    """

    name: str
    title: str
    method: str
    settings: dict[str, Any]
    labeled: int
    split: int
    seed: int
    epochs: int
    pool_size: int
    key: str

    @property
    def keywords(self) -> dict[str, Any]:
        """The keywords that the method's object is made with."""
        return {key.removeprefix(METHOD): value for key, value in self.settings.items() if key.startswith(METHOD)}

    def folder(self, output: Path) -> Path:
        return output / "cells" / self.name


@dataclass(frozen=True)
class Row:
    """A row of a table: the names of its cells by column and draw. With classes as columns, the column is None."""

    name: str
    cells: dict[tuple[Any, Draw], str]


@dataclass(frozen=True)
class Table:
    """A table to be: `columns` are values of the setting `column_key`, numbers of labelled images, or none yet."""

    name: str
    title: str
    baseline: str
    rows: list[Row]
    column_key: str
    columns: list[Any]
    labeled: list[int]
    draws: list[Draw]
    score: str
    left_out: bool = False
    curves: tuple[str, ...] = ()


@dataclass
class Grid:
    """All tables, and all their cells by name."""

    file: GridFile
    tables: list[Table] = field(default_factory=list)
    cells: dict[str, Cell] = field(default_factory=dict)


def expand(file: GridFile, identity: Callable[[int, int], Any]) -> Grid:
    """Spans the axes of all tables.

    A cell of a row that asks for a pool larger than the number of labelled images does not exist and is left out.

    Args:
        file: the grid file.
        identity: what a cell's name depends on beside its settings, by number of labelled images and split.

    Raises:
        ValueError: for a baseline that is no row, rows of one name, or a row without any cell.
    """
    grid = Grid(file)
    for plan in file.tables:
        grid.tables.append(_table(grid, plan, identity))
    return grid


def _table(grid: Grid, plan: TablePlan, identity: Callable[[int, int], Any]) -> Table:
    key, path = f"tables.{plan.name}", grid.file.path
    rows: list[Row] = []
    left_out = False
    for row in plan.rows:
        spanned = [axis for axis, values in row.values.items() if axis != plan.columns and len(values) > 1]
        fixed = {axis: values[0] for axis, values in row.values.items() if len(values) == 1}
        for combination in itertools.product(*(row.values[axis] for axis in spanned)):
            chosen = dict(zip(spanned, combination, strict=True))
            name = ", ".join([row.name, *(label(axis, value) for axis, value in chosen.items())])
            cells, missing = _row_cells(grid, plan, row, name, {**fixed, **chosen}, identity)
            if not cells:
                raise GridError(
                    path, row.key, f"trainable with labeled {plan.labeled}", f"a larger labeled_batch in {name!r}",
                    "lower labeled_batch, which is at most the number of labelled images",
                )  # fmt: skip
            left_out |= missing
            rows.append(Row(name, cells))
    names = [row.name for row in rows]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise GridError(path, f"{key}.rows", "of different names", f"{twice!r} twice", "give one another name")
    if plan.baseline not in names:
        raise GridError(
            path, f"{key}.baseline", f"the name of a row ({'; '.join(names)})", repr(plan.baseline), "correct it"
        )
    draws = list(itertools.product(plan.splits, plan.seeds))
    return Table(
        plan.name, plan.title, plan.baseline, rows, plan.columns, _columns(plan), plan.labeled, draws, plan.score,
        left_out, tuple(plan.curves),
    )  # fmt: skip


def _columns(plan: TablePlan) -> list[Any]:
    if plan.columns == LABELED:
        return plan.labeled
    if plan.columns == CLASSES:
        return []
    return list(dict.fromkeys(value for row in plan.rows for value in row.values[plan.columns]))


def _row_cells(
    grid: Grid,
    plan: TablePlan,
    row: RowPlan,
    title: str,
    chosen: Mapping[str, Any],
    identity: Callable[[int, int], Any],
) -> tuple[dict[tuple[Any, Draw], str], bool]:
    """The cells of one row, and whether some were left out; new ones are added to the grid."""
    cells: dict[tuple[Any, Draw], str] = {}
    missing = False
    along = row.values[plan.columns] if plan.columns not in (LABELED, CLASSES) else [None]
    for labeled, value, split, seed in itertools.product(plan.labeled, along, plan.splits, plan.seeds):
        settings = {**plan.settings, **({} if plan.seeds == [0] else {"seed": seed}), **chosen}
        if plan.columns not in (LABELED, CLASSES):
            settings[plan.columns] = value
        cell = make_cell(grid.file, row, title, settings, labeled, split, identity)
        if "labeled_batch" in row.values and cell.pool_size > labeled:  # asked for here: not with images drawn twice
            missing = True
            continue
        grid.cells.setdefault(cell.name, cell)
        column = labeled if plan.columns == LABELED else value
        cells[column, (split, seed)] = cell.name
    return cells, missing


def make_cell(
    file: GridFile,
    row: RowPlan,
    title: str,
    settings: Mapping[str, Any],
    labeled: int,
    split: int,
    identity: Callable[[int, int], Any],
) -> Cell:
    """A cell and its name: readable, with a hash of what its result depends on but the code and the images' content.

    That is the bundle, the method with all its keywords, the bundle's and then the method's defaults filled in (so that
    null, which takes back what the bundle gives, is another cell), the bundle's whole configuration of
    training and evaluating as it will be, the content of files that these name, and which images are in which part of
    the data; so a setting that is written out with its default value is the same cell.
    """
    method, defaults = row.method, keywords_of(row.method)
    own = {k: v for k, v in settings.items() if not k.startswith(METHOD) or k.removeprefix(METHOD) in defaults}
    merged = {name: value for name, value in file.merged.items() if name != "method"}
    for setting, value in own.items():
        if not setting.startswith(METHOD):
            merged = with_value(merged, setting, value)
    given = given_to(method, file.merged)
    keywords = {**defaults, **given, **{k.removeprefix(METHOD): v for k, v in own.items() if k.startswith(METHOD)}}
    everything = {
        "bundle": file.bundle.name,
        "method": method,
        "keywords": keywords,
        "configuration": merged,
        "files": named_files([keywords, merged], file.bundle),
        "data": identity(labeled, split),
        "labeled": labeled,
        "split": split,
    }
    digest = hashlib.sha256(json.dumps(everything, sort_keys=True, default=repr).encode()).hexdigest()[:8]
    parts = [method.lower(), f"labeled{labeled}", f"split{split}"]
    for setting, short in IN_NAME.items():
        if setting in own and own[setting] != default_of(setting, method, file.merged):
            parts += [f"{short}{own[setting]}"] if re.fullmatch(r"[\w.]+", str(own[setting])) else []
    return Cell(
        "_".join([*parts, digest]), title, method, own, labeled, split, merged["seed"],
        merged["epochs"], merged["labeled_batch"] if merged["patch_size"] is None else 0, row.key,
    )  # fmt: skip
