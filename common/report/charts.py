"""Line charts and paired dot plots in the report's style."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .style import Theme, in_both_themes
from .text import plain

# With more points than this a line is smoothed, and the points themselves shown faintly behind it.
SMOOTH_ABOVE = 40
WINDOWS = 20
COLUMNS = 3
LONGEST_NAME = 26


@dataclass(frozen=True)
class Line:
    """One line of a chart; `color` as in `Theme.color`."""

    label: str
    x: pd.Series
    y: pd.Series
    color: str
    strong: bool = False
    faint: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart with all that its reader needs: what it shows, how to read it, and what its colours mean."""

    title: str
    caption: str
    pictures: dict[str, str]
    legend: list[tuple[str, str]] = field(default_factory=list)
    wide: bool = False


def lines_of(table: pd.DataFrame, columns: dict[str, tuple[str, str]]) -> list[Line]:
    """A line for each column (its label and colour) of which the table holds numbers; strong where it is in ink."""
    return [
        Line(plain(label), table["iteration"], table[column], color, strong=color == "ink")
        for column, (label, color) in columns.items()
        if column in table and table[column].notna().any()
    ]


def line_chart(
    title: str,
    caption: str,
    lines: Sequence[Line],
    unit: bool = True,
    smooth: bool = True,
    marks: Sequence[tuple[float, float]] = (),
) -> Chart:
    """A chart over iterations; `unit` fixes the axis to 0..1, `marks` are points (x, y) to point out."""
    if smooth and any(line.y.notna().sum() > SMOOTH_ABOVE for line in lines):
        caption += " Pale: the values as logged; solid: their running mean."

    def draw(theme: Theme) -> Figure:
        figure = Figure(figsize=(5.2, 2.7), layout="constrained")
        axes = figure.add_subplot()
        _draw_lines(axes, lines, theme, smooth)
        _limit(axes, unit)
        axes.set_xlabel("iteration", loc="right")
        for x, y in marks:
            axes.plot(x, y, "o", color=theme.ink, markersize=8, markeredgecolor=theme.background, mew=1.2, zorder=5)
        return figure

    legend = [(line.label, line.color) for line in lines]
    return Chart(title, caption, in_both_themes(draw), legend if len(lines) > 1 else [])


def facet_chart(title: str, caption: str, facets: dict[str, list[Line]], legend: list[tuple[str, str]]) -> Chart:
    """The same lines for every label, one small chart each, on one common scale."""

    def draw(axes: Axes, lines: list[Line], theme: Theme) -> None:
        _draw_lines(axes, lines, theme)
        _limit(axes, unit=True)

    return Chart(title, caption, in_both_themes(lambda theme: _grid(facets, theme, 2.3, draw, True)), legend, wide=True)


def paired_chart(
    title: str, caption: str, facets: dict[str, pd.DataFrame], pairs: dict[str, str], colors: dict[str, str]
) -> Chart:
    """A row for each case or draw: each baseline's score (open dot), joined by a line to the method's (filled).

    Args:
        title, caption: as of a `Chart`.
        facets: a small chart each: scores with the same index, of which the names are columns.
        pairs: the name of each method and of its baseline.
        colors: the colour of every name.
    """
    height = 0.75 + max(0.24, 0.12 * len(pairs)) * len(next(iter(facets.values())))

    def draw(axes: Axes, table: pd.DataFrame, theme: Theme) -> None:
        _draw_pairs(axes, table, pairs, {name: theme.color(color) for name, color in colors.items()})

    pictures = in_both_themes(lambda theme: _grid(facets, theme, height, draw, False))
    return Chart(title, caption, pictures, list(colors.items()), wide=True)


def _grid(facets: dict[str, Any], theme: Theme, height: float, draw: Callable, iterations: bool) -> Figure:
    """Small charts in rows with common y axes, and a common x axis where it is of iterations."""
    columns = min(COLUMNS, len(facets))
    rows = -(-len(facets) // columns)
    figure = Figure(figsize=(10.8, height * rows + 0.2), layout="constrained")
    figure.get_layout_engine().set(hspace=0.08, wspace=0.05)
    grid = figure.subplots(rows, columns, sharex=iterations, sharey=True, squeeze=False)
    for axes, (label, content) in zip(grid.flat, facets.items(), strict=False):
        draw(axes, content, theme)
        axes.set_title(label, fontweight="bold")
    for axes in grid.flat[len(facets) :]:
        axes.set_axis_off()
    for axes in grid[-1] if iterations else ():
        axes.set_xlabel("iteration", loc="right")
    return figure


def _draw_pairs(axes: Axes, table: pd.DataFrame, pairs: dict[str, str], colors: dict[str, str]) -> None:
    # Several methods in a row lie a little above each other, so that none hides another.
    shifts = np.linspace(-0.18, 0.18, len(pairs)) if len(pairs) > 1 else [0.0]
    for (method, baseline), shift in zip(pairs.items(), shifts, strict=True):
        for row, (before, after) in enumerate(table[[baseline, method]].to_numpy()):
            style = (0, (1.2, 1.6)) if after < before else "solid"
            axes.plot(
                [before, after], [row + shift] * 2, color=colors[method], linewidth=1.6, linestyle=style, alpha=0.7
            )
        axes.plot(table[method], np.arange(len(table)) + shift, "o", markersize=6, color=colors[method])
    for baseline in dict.fromkeys(pairs.values()):
        look = {"markersize": 7, "markerfacecolor": "none", "markeredgecolor": colors[baseline], "mew": 1.6}
        axes.plot(table[baseline], np.arange(len(table)), "o", **look)
    axes.set_yticks(range(len(table)), [shorten(str(name)) for name in table.index])
    axes.set_ylim(len(table) - 0.4, -0.6)
    axes.grid(axis="x")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    axes.margins(x=0.08)


def _draw_lines(axes: Axes, lines: Sequence[Line], theme: Theme, smooth: bool = True) -> None:
    for line in lines:
        color = theme.color(line.color)
        known = line.y.notna().to_numpy()
        x, y = line.x.to_numpy(dtype=float)[known], line.y.to_numpy(dtype=float)[known]
        if smooth and len(y) > SMOOTH_ABOVE:
            axes.plot(x, y, color=color, linewidth=0.6, alpha=0.22)
            y = pd.Series(y).rolling(max(5, len(y) // WINDOWS), min_periods=1, center=True).mean().to_numpy()
        look = {"linewidth": 1.0, "alpha": 0.55} if line.faint else {"linewidth": 2.2 if line.strong else 1.5}
        marker = "o" if len(y) <= 12 and not line.faint else None
        axes.plot(x, y, color=color, marker=marker, markersize=3.2, zorder=3 if line.strong else 2, **look)


def _limit(axes: Axes, unit: bool) -> None:
    if unit:
        axes.set_ylim(-0.02, 1.02)
        axes.set_yticks(np.linspace(0, 1, 6))
    elif min(_lowest(axes), default=0) >= 0:
        axes.set_ylim(bottom=0)
    axes.margins(x=0.02)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def _lowest(axes: Axes) -> list[float]:
    return [float(np.min(line.get_ydata())) for line in axes.get_lines() if len(line.get_ydata())]


def joining_chart(joined: pd.DataFrame) -> Chart | None:
    """Dice of the pseudo-labels whose truth is known, over the step at which they were made; `None` if none is."""
    known = joined.dropna(subset="dice")
    if known.empty:
        return None
    means = known.groupby("step")["dice"].mean()

    def draw(theme: Theme) -> Figure:
        figure = Figure(figsize=(5.2, 4.1), layout="constrained")
        axes = figure.add_subplot()
        dots = {"markersize": 5.5, "color": theme.color("series-1"), "alpha": 0.7, "mew": 0, "zorder": 3}
        axes.plot(known["step"], known["dice"], "o", **dots)
        axes.plot(means.index, means, color=theme.ink, linewidth=2, marker="_", markersize=13, mew=2.4)
        axes.set_ylim(-0.02, 1.02)
        axes.set_yticks(np.linspace(0, 1, 6))
        axes.set_xlim(joined["step"].min() - 0.5, joined["step"].max() + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
        axes.set_xlabel("joined at step", loc="right")
        axes.set_ylabel("Dice")
        return figure

    caption = (
        "Dice with the hidden truth, which training does not see, of each pseudo-label as it was made when its image "
        "joined; 1 is perfect."
    )
    if len(known) < len(joined):
        caption += f" The truth is known for {len(known)} of {len(joined)}."
    legend = [("pseudo-label", "series-1"), ("mean of the step", "ink")]
    return Chart("Dice of each pseudo-label over the steps", caption, in_both_themes(draw), legend)


def shorten(name: str) -> str:
    """A long name with its middle left out: what tells cases apart is mostly at the ends."""
    half = LONGEST_NAME // 2
    return name if len(name) <= LONGEST_NAME else f"{name[: half - 1]}…{name[-half:]}"
