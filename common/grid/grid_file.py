"""Reads a grid file: every key is known, every list holds something, every setting exists."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from common.bundle_run import BUNDLES
from common.files import read_text
from common.grid import strict_yaml
from common.grid.settings import (
    METHOD,
    GridError,
    configuration,
    default_of,
    keywords_of,
    known_settings,
    method_names,
    misfit,
    plain_value,
    resolve,
    suggestion,
)
from common.grid.trust import code

LABELED, CLASSES = "labeled", "classes"
TOP = ("bundle", "config", "data", "splits", "seeds", "labeled", "score", "settings", "tables")
TABLE = ("title", "baseline", "rows", "labeled", "splits", "seeds", "score", "settings", "columns", "curves")

TAKEN = ("results", "tables")  # results.csv and tables.md are of the whole grid
# scores of test.csv, and what tables call them
SCORES = {"iou": "IoU", "dice": "Dice", "surface_dice": "surface Dice", "lesion_f1": "lesion F1"}


@dataclass(frozen=True)
class RowPlan:
    """A row as written: its settings by id, each with the list of values that it spans, one value for one."""

    key: str
    name: str
    method: str
    values: dict[str, list[Any]]


@dataclass(frozen=True)
class TablePlan:
    """A table as written; `columns` is "labeled", "classes" or the id of a setting, `curves` are of train.csv."""

    name: str
    title: str
    baseline: str
    rows: list[RowPlan]
    labeled: list[int]
    splits: list[int]
    seeds: list[int]
    score: str
    settings: dict[str, Any]
    columns: str
    curves: list[str]


@dataclass(frozen=True)
class GridFile:
    """A grid file, read; `merged` is the bundle's configuration before any setting of the grid."""

    path: Path
    bundle: Path
    config: str
    merged: dict[str, Any]
    data: dict[str, Any]
    tables: list[TablePlan]


def read_grid(path: str | Path, trusted: bool = False) -> GridFile:
    """Reads a grid file; data, methods and names of rows are looked at later.

    Args:
        path: the file.
        trusted: its values may hold what runs code; see :func:`~common.grid.trust.code`.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for anything in it that is unknown, missing, empty or of the wrong kind; one error for the first.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such grid file. grids/ holds examples.")
    try:
        content = strict_yaml.load(read_text(path, "save it as text in UTF-8"))
        named = [] if trusted else list(code(content))
    except yaml.YAMLError as error:
        raise GridError(
            path, "a grid file", "YAML with each key once", " ".join(str(error).split()), "correct that line"
        ) from error
    except RecursionError as error:
        raise GridError(path, "a grid file", "YAML", "brackets or names within themselves", "correct it") from error
    for key, found in named:
        expected, advice = "a value that runs no code", "pass --trusted where you know that the file does no harm"
        raise GridError(path, key, expected, repr(found), advice)
    return _Reader(path).grid(content)


class _Reader:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.bundle = Path()
        self.merged: dict[str, Any] = {}
        self.methods: list[str] = []
        self.unit: str | None = None  # where the grid sets it

    def wrong(self, key: str, expected: str, found: Any, advice: str) -> GridError:
        return GridError(self.path, key, expected, found, advice)

    def grid(self, content: Any) -> GridFile:
        self.mapping(content, "the grid", TOP, required=("bundle", "data", "tables"))
        self.bundle = self.bundle_of(content["bundle"])
        config = self.config(content.get("config", "train.json"))
        self.merged = configuration(self.bundle, f"{config},evaluate.json")
        tables = content["tables"]
        if not isinstance(tables, dict) or not tables:
            raise self.wrong("tables", "a mapping of names to tables", repr(tables), "describe at least one table")
        for name, table in tables.items():
            if not re.fullmatch(r"[\w-]+", str(name)):
                raise self.wrong("tables", "named by letters, digits, - and _", repr(name), "files get that name")
            if str(name).lower() in TAKEN or str(name).endswith("_curves"):
                expected = f"of other names than {' and '.join(TAKEN)}, and not of one that ends in _curves"
                raise self.wrong("tables", expected, repr(name), "name it otherwise, since files of all tables have it")
            self.mapping(table, f"tables.{name}", TABLE, required=("baseline", "rows"))
            self.methods += self.methods_of(f"tables.{name}.rows", table["rows"])
        shared = self.settings("settings", content.get("settings", {}), self.methods)
        self.unit = shared.get("unit")
        plans = [self.table(str(name), {**content, **table}, table, shared) for name, table in tables.items()]
        return GridFile(self.path, self.bundle, config, self.merged, self.data(content["data"]), plans)

    @property
    def table_of_cases(self) -> dict[str, Any]:
        """The configuration of the handler that writes the table of test scores."""
        return next(h for h in self.merged["validate"]["handlers"] if h["_target_"].endswith(".CaseScores"))

    @property
    def has_spacing(self) -> bool:
        unit = str(self.table_of_cases.get("unit"))
        return (self.unit or self.merged.get(unit[1:]) if unit.startswith("@") else unit) == "mm"

    @property
    def has_lesions(self) -> bool:
        return self.merged.get("lesions") is not None

    def bundle_of(self, value: Any) -> Path:
        known = sorted(file.parents[1].name for file in BUNDLES.glob("*/configs/evaluate.json"))
        if value not in known:
            raise self.wrong("bundle", f"one of {', '.join(known)}", repr(value), suggestion(value, known))
        return BUNDLES / value

    def config(self, value: Any) -> str:
        names = value.split(",") if isinstance(value, str) else value
        for name in names if isinstance(names, list) else [names]:
            there = sorted(file.name for file in (self.bundle / "configs").glob("*.json"))
            if name not in there:
                raise self.wrong("config", "files of the bundle, as train.json,demo.json", repr(name), f"use {there}")
        return ",".join(names)

    def data(self, value: Any) -> dict[str, Any]:
        kinds = ("phantom", "layout", "datalists")
        if not isinstance(value, dict) or sum(kind in value for kind in kinds) != 1:
            found = ", ".join(value) if isinstance(value, dict) else repr(value)
            raise self.wrong("data", f"a mapping with one of {', '.join(kinds)}", found or "none", "give exactly one")
        if self.merged.get("data", {}).get("fine") and "datalists" not in value:
            advice = "make the datalists by `python -m common datalist jsrt DIR --fine`"
            raise self.wrong("data", "datalists for a configuration with fine classes", ", ".join(value), advice)
        return value

    def mapping(self, value: Any, key: str, known: Sequence[str], required: Sequence[str] = ()) -> None:
        if not isinstance(value, dict):
            raise self.wrong(key, f"a mapping with {', '.join(known)}", repr(value), "see the files in grids/")
        for name in value:
            if name not in known:
                raise self.wrong(key, f"of the keys {', '.join(known)}", repr(name), suggestion(name, known))
        for name in required:
            if name not in value:
                raise self.wrong(key, f"given with {name}", f"only {', '.join(map(str, value))}", f"add {name}")

    def methods_of(self, key: str, rows: Any) -> list[str]:
        if not isinstance(rows, list) or not rows:
            raise self.wrong(key, "a list of rows", repr(rows), "add one, as {name: RPG, method: RPG}")
        names = method_names()
        for index, row in enumerate(rows):
            found = row.get("method") if isinstance(row, dict) else row
            if found not in names:
                place = f"{key}[{index}].method"
                raise self.wrong(place, f"one of {', '.join(names)}", repr(found), suggestion(found, names))
        return [row["method"] for row in rows]

    def numbers(self, key: str, value: Any, least: int) -> list[int]:
        """A list of different whole numbers, from a list or from one number."""
        values = value if isinstance(value, list) else [value]
        whole = all(isinstance(v, int) and not isinstance(v, bool) and v >= least for v in values)
        if not values or not whole or len(set(values)) != len(values):
            expected = f"a list of different whole numbers of at least {least}"
            raise self.wrong(key, expected, repr(value), "write [3, 6, 12], say")
        return list(values)

    def settings(self, key: str, value: Any, methods: Sequence[str]) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise self.wrong(key, "a mapping of settings to values", repr(value), "write epochs: 12, say")
        checked = {}
        for name, one in value.items():
            found = self.setting(f"{key}.{name}", name, methods)
            owner = next((m for m in methods if found.removeprefix(METHOD) in keywords_of(m)), methods[0])
            checked[found] = self.checked(f"{key}.{name}", found, one, default_of(found, owner, self.merged))
        return checked

    def setting(self, key: str, name: Any, methods: Sequence[str]) -> str:
        found = resolve(str(name), methods, self.merged)
        if found is None:
            known = known_settings(methods, self.merged)
            owner = f"a keyword of {' or '.join(dict.fromkeys(methods))} or a setting of the bundle"
            raise self.wrong(key, owner, repr(name), suggestion(name, known))
        return found

    def table(self, name: str, inherited: dict, table: dict, shared: dict[str, Any]) -> TablePlan:
        key = f"tables.{name}"
        methods = self.methods_of(f"{key}.rows", table["rows"])
        rows = [self.row(f"{key}.rows[{index}]", row) for index, row in enumerate(table["rows"])]
        for part in ("labeled", "splits"):
            if part not in inherited:
                raise self.wrong(key, f"given with {part}", "none", f"add {part} to it, or for all tables at the top")
        columns = table.get("columns", LABELED)
        if columns not in (LABELED, CLASSES):
            columns = self.setting(f"{key}.columns", columns, methods)
            for row in rows:
                if columns not in row.values:
                    raise self.wrong(row.key, f"given with {table['columns']}, the columns", "none", "add its values")
            self.columns(f"{key}.columns", table["columns"], [v for row in rows for v in row.values[columns]])
        labeled = self.numbers(f"{key}.labeled", inherited["labeled"], 1)
        if columns != LABELED and len(labeled) != 1:
            expected = f"one number where columns are {table['columns']}"
            raise self.wrong(f"{key}.labeled", expected, labeled, "write labeled: 3, say")
        own = self.settings(f"{key}.settings", table.get("settings", {}), methods)
        splits = self.numbers(f"{key}.splits", inherited["splits"], 0)
        seeds = self.numbers(f"{key}.seeds", inherited.get("seeds", [0]), 0)
        score = inherited.get("score", "iou")
        if score not in SCORES:
            raise self.wrong(f"{key}.score", f"one of {', '.join(SCORES)}", repr(score), suggestion(score, SCORES))
        title, baseline = str(table.get("title", name)), str(table["baseline"])
        if (score == "surface_dice" and not self.has_spacing) or (score == "lesion_f1" and not self.has_lesions):
            raise self.wrong(f"{key}.score", "one that the bundle has", repr(score), "use iou or dice")
        curves = table.get("curves", [])
        if not isinstance(curves, list) or not all(isinstance(curve, str) for curve in curves):
            raise self.wrong(f"{key}.curves", "a list of columns of train.csv", repr(curves), "write [accepted], say")
        settings = {**shared, **own}
        return TablePlan(name, title, baseline, rows, labeled, splits, seeds, score, settings, columns, curves)

    def columns(self, key: str, name: str, values: list[Any]) -> None:
        """Refuses values that cannot be told apart as columns: lists, and 1 beside 1.0, its equal in Python."""
        for index, value in enumerate(values):
            twins = [other for other in values[:index] if other == value and repr(other) != repr(value)]
            if twins or isinstance(value, list | dict):
                found = " and ".join(map(repr, [*twins[:1], value]))
                expected = f"a setting with single values that differ ({name})"
                raise self.wrong(key, expected, found, "make them rows, or two tables")

    def row(self, key: str, row: dict[str, Any]) -> RowPlan:
        method, values = row["method"], {}
        for name, value in row.items():
            if name in ("name", "method"):
                continue
            found = self.setting(f"{key}.{name}", name, [method])
            values[found] = self.spanned(f"{key}.{name}", found, method, value)
        return RowPlan(key, str(row.get("name", method)), method, values)

    def spanned(self, key: str, found: str, method: str, value: Any) -> list[Any]:
        """The values of a row's setting: a list is several, unless the setting itself is a list (image_size)."""
        default = default_of(found, method, self.merged)
        one = not isinstance(value, list)
        if isinstance(default, list) and not one:
            one = not all(isinstance(part, list) for part in value)
        values = [self.checked(key, found, part, default) for part in ([value] if one else value)]
        if not values or len({json.dumps(part) for part in values}) != len(values):
            raise self.wrong(key, "a value or a list of different values", repr(value), "write [0.25, 0.5], say")
        return values

    def checked(self, key: str, found: str, value: Any, default: Any) -> Any:
        value = plain_value(value)
        if expected := misfit(found, value, default):
            raise self.wrong(key, expected, repr(value), f"the default is {default!r}")
        return value
