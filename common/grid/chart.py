"""The figures of a table: its score over numbers of labelled images, and curves over the trainings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from common.files import replacing
from common.grid.cells import Row, Table
from common.grid.grid_file import CLASSES, LABELED, SCORES
from common.grid.tables import Contents
from common.report.style import LIGHT

# Okabe and Ito's colours that are dark enough for a line on white; the baseline is the report's grey. Markers and
# strokes tell the rows apart in black and white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#1c2128")
MARKERS = ("s", "^", "D", "v", "P", "X", "<", ">", "*", "p")
LONG_NAME = 40  # letters of a row's name, of which two do not stand side by side
STROKES = ("solid", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))


def write_chart(content: Contents, folder: Path) -> list[Path]:
    """Draws the mean score over the number of labelled images as PNG and SVG, with bands of one standard deviation.

    Nothing is drawn for other columns, for fewer than two of them, or without any value; a figure that an earlier call
    has drawn of a table of this name is then removed.
    """
    drawable = any(entry.values for entry in content.entries.values())
    drawable &= content.table.column_key == LABELED and len(content.columns) > 1
    file = folder / content.table.name
    return _write(lambda: _draw(content), file) if drawable else _gone(file)


def write_curves(content: Contents, trainings: Mapping[str, pd.DataFrame], folder: Path) -> list[Path]:
    """Draws the table's ``curves``, columns of ``train.csv``, over the iterations as PNG and SVG.

    There is a panel for each of them and each column of the table, and in it a line for each row that has logged it,
    its mean over splits and seeds. A curve that no training has is told of.

    Args:
        content: the table.
        trainings: the tables of the cells that have one, by cell.
        folder: where the figure is written, as ``<table>_curves.png``; without anything to draw one is removed.
    """
    table, file = content.table, folder / f"{content.table.name}_curves"
    columns = [None] if table.column_key == CLASSES else table.columns
    lines = {
        (curve, column): {
            row.name: line for row in table.rows if len(line := mean_curve(row, column, curve, trainings))
        }
        for curve in table.curves
        for column in columns
    }
    known = [curve for curve in table.curves if any(lines[curve, column] for column in columns)]
    for curve in [curve for curve in table.curves if curve not in known and trainings]:
        print(f"{table.name}: no training has logged {curve!r}, which is one of its curves.")
    if not known:
        return _gone(file)
    heads = [""] if table.column_key == CLASSES else content.heads
    return _write(lambda: _draw_curves(table, lines, known, dict(zip(columns, heads, strict=True))), file)


def mean_curve(row: Row, column: Any, curve: str, trainings: Mapping[str, pd.DataFrame]) -> pd.Series:
    """The mean over those splits and seeds that have logged it, at each iteration that one of them has."""
    tables = [trainings[cell] for (place, _), cell in row.cells.items() if place == column and cell in trainings]
    found = [table.set_index("iteration", drop=False)[curve].dropna() for table in tables if curve in table]
    return pd.concat(found, axis=1).sort_index().mean(axis=1) if found else pd.Series(dtype=float)


def _gone(stem: Path) -> list[Path]:
    for suffix in (".png", ".svg"):
        stem.with_name(stem.name + suffix).unlink(missing_ok=True)
    return []


def _write(draw: Callable[[], Figure], stem: Path) -> list[Path]:
    files = [stem.with_name(stem.name + suffix) for suffix in (".png", ".svg")]
    # text stays text, and the same input gives the same file
    with matplotlib.rc_context({**LIGHT.parameters(), "svg.fonttype": "none", "svg.hashsalt": "grid"}):
        figure = draw()
        FigureCanvasAgg(figure)
        for file in files:
            metadata = {"Date": None} if file.suffix == ".svg" else None
            with replacing(file) as temporary:
                figure.savefig(temporary, dpi=170, facecolor=LIGHT.background, metadata=metadata)
    return files


def _looks(table: Table) -> dict[str, tuple[str, str, Any]]:
    """Colour, marker and stroke of each row."""
    others = [row.name for row in table.rows if row.name != table.baseline]
    looks = {
        name: (COLORS[place % len(COLORS)], MARKERS[place % len(MARKERS)], STROKES[place % len(STROKES)])
        for place, name in enumerate(others)
    }
    return {table.baseline: (LIGHT.series[0], "o", "solid"), **looks}


def _draw_curves(
    table: Table, lines: Mapping[tuple[str, Any], dict[str, pd.Series]], curves: list[str], heads: dict[Any, str]
) -> Figure:
    """A row of panels for each curve; of a table of one column, two curves side by side."""
    pairs = len(heads) == 1
    rows, columns = (math.ceil(len(curves) / 2), min(2, len(curves))) if pairs else (len(curves), len(heads))
    names = [row.name for row in table.rows if any(row.name in drawn for drawn in lines.values())]
    beside = 2 if pairs and columns == 2 and max(map(len, names)) < LONG_NAME else 1  # columns of the legend
    width, height = 2.6 * columns + 2.2, 1.9 * rows + 0.4
    if pairs:  # the legend lies below
        width, height = max(3.6 * columns, 5.4), height + 0.22 * math.ceil(len(names) / beside)
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey="none" if pairs else "row", squeeze=False)
    looks, handles = _looks(table), {}
    panels = list(zip(grid.flat, itertools.product(curves, heads), strict=False))
    for axes, (curve, column) in panels:
        for name, line in lines[curve, column].items():
            color, _, stroke = looks[name]
            (handles[name],) = axes.plot(line.index, line, color=color, linestyle=stroke, linewidth=1.4)
        if pairs or column == next(iter(heads)):
            axes.set_ylabel(curve.replace("_", " "), loc="top")
        if heads[column] and curve == curves[0]:
            axes.set_title(heads[column], fontweight="bold")
        if pairs and (limits := _settled(lines[curve, column].values())):
            axes.set_ylim(*limits)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    for axes, _ in panels[-columns:]:  # the last of each column
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("iteration", loc="right")
    place = {"loc": "outside lower left", "ncols": beside} if pairs else {"loc": "outside right upper"}
    figure.legend([handles[name] for name in names], names, frameon=False, handlelength=3.6, **place)
    return figure


def _settled(lines: Iterable[pd.Series]) -> tuple[float, float] | None:
    """Limits for what curves are once a tenth of the training is over: at its start they may be anywhere."""
    later = np.concatenate([line[line.index >= 0.1 * line.index.max()] for line in lines])
    later = later[np.isfinite(later)]
    if not later.size:
        return None
    low, high = float(later.min()), float(later.max())
    margin = max(0.05 * (high - low), 0.01 * abs(high), 1e-6)
    return low - margin, high + margin


def _draw(content: Contents) -> Figure:
    figure = Figure(figsize=(7.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    looks = _looks(content.table)
    for row in content.table.rows:
        _line(axes, content, row.name, *looks[row.name])
    axes.set_xscale("log", base=2)
    axes.set_xticks(content.columns, [str(number) for number in content.columns])
    axes.minorticks_off()
    axes.set_xlabel("labelled images (bands: ± one standard deviation)", loc="right")
    axes.set_ylabel(f"mean {SCORES[content.table.score]}", loc="top")
    axes.set_title(content.table.title, fontweight="bold")
    # beside the lines, so that it never lies over one
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, handlelength=3.6)
    return figure


def _line(axes: Axes, content: Contents, name: str, color: str, marker: str, stroke) -> None:
    entries = [content.entries[name, column] for column in content.columns]
    x, mean = np.array(content.columns, dtype=float), np.array([entry.mean for entry in entries])
    deviation = np.nan_to_num([entry.deviation for entry in entries])
    known = np.isfinite(mean)
    if not known.any():
        return
    x, mean, deviation = x[known], mean[known], deviation[known]
    axes.fill_between(x, mean - deviation, mean + deviation, color=color, alpha=0.12, linewidth=0)
    axes.plot(
        x,
        mean,
        color=color,
        linestyle=stroke,
        linewidth=1.6,
        marker=marker,
        markersize=6.5,
        markeredgecolor=LIGHT.background,
        markeredgewidth=0.5,
        label=name,
    )
