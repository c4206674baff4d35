"""What is found out about a grid before anything runs: data, methods and pools."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from monai.bundle import ConfigParser

from common import methods as all_methods
from common.batches.class_cover import ClassCover
from common.data.labels import classes_present
from common.grid.cells import Cell, Grid
from common.grid.data import Source
from common.grid.grid_file import GridFile
from common.grid.settings import GridError, given_to
from common.label_space import LabelSpace


def check_data(file: GridFile, source: Source) -> None:
    """Draws every datalist, and so refuses numbers of labelled images and splits that the data does not have."""
    places = {(labeled, split) for table in file.tables for labeled in table.labeled for split in table.splits}
    for labeled, split in sorted(places):
        if not source.datalist(labeled, split).get("test"):
            found = f"none with labeled {labeled}, split {split}"
            raise GridError(file.path, "data", "images with a test part", found, "leave annotated images for it")


def check_methods(grid: Grid, source: Source) -> None:
    """Makes the object of every method with its keywords and the bundle's, and hands on what it says of their values.

    Raises:
        ValueError: when a method refuses its keywords.
    """
    labels = LabelSpace(*source.space())
    known: list[tuple[str, dict]] = []
    for cell in grid.cells.values():
        if (cell.method, cell.keywords) in known:
            continue
        try:
            given = {**given_to(cell.method, grid.file.merged), **cell.keywords}
            # what refers to the bundle can be made by it alone
            keywords = {name: made(value) for name, value in given.items() if "@" not in str(value)}
            getattr(all_methods, cell.method)(labels, **keywords)
        except (ValueError, TypeError, RuntimeError) as error:
            values = ", ".join(f"{name}={value!r}" for name, value in cell.keywords.items())
            reason = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error  # MONAI's
            raise ValueError(
                f"{grid.file.path}: {cell.key}: {cell.method}({values}) is not possible: {reason}"
            ) from error
        known.append((cell.method, cell.keywords))


def made(value: Any) -> Any:
    """The object that a keyword's configuration describes, a part or a loss; any other value as it is."""
    if isinstance(value, dict) and "_target_" in value:
        return ConfigParser({"value": value}).get_parsed_content("value")
    return value


def check_pools(grid: Grid, source: Source) -> None:
    """Makes the pool of labelled images of every datalist, whose images must be able to hold every class.

    It reads the labels of all labelled images, and so takes a while.

    Raises:
        ValueError: when they are not.
    """
    classes, _ = source.space()
    present = cache(lambda label: classes_present(label, len(classes)))
    first: dict[tuple[int, int, int], Cell] = {}
    for cell in grid.cells.values():
        if cell.pool_size:
            first.setdefault((cell.labeled, cell.split, cell.pool_size), cell)
    for cell in first.values():
        _check_pool(grid, source, cell, classes, present)


def _check_pool(grid: Grid, source: Source, cell: Cell, classes: list[str], present) -> None:
    items = source.datalist(cell.labeled, cell.split)["labeled"]
    found = [present(item["label"] if isinstance(item["label"], str) else tuple(item["label"])) for item in items]
    presence = np.array([[j in shown for j in range(len(classes))] for shown in found])
    try:
        ClassCover(presence, cell.pool_size, classes)
    except ValueError as error:
        raise ValueError(
            f"{grid.file.path}: {cell.key}, labeled {cell.labeled}, split {cell.split}, labeled_batch "
            f"{cell.pool_size}: {error}"
        ) from error
