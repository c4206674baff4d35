"""Line charts and paired dot plots in the report's style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .results import Comparison
from .style import Theme, in_both_themes

# With more points than this a line is smoothed, and the points themselves shown faintly behind it.
SMOOTH_ABOVE = 40
WINDOWS = 20
COLUMNS = 3


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

    def draw(theme: Theme) -> Figure:
        columns = min(COLUMNS, len(facets))
        rows = -(-len(facets) // columns)
        figure = Figure(figsize=(10.8, 2.3 * rows + 0.2), layout="constrained")
        figure.get_layout_engine().set(hspace=0.07, wspace=0.05)
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, (label, lines) in zip(grid.flat, facets.items(), strict=False):
            _draw_lines(axes, lines, theme)
            axes.set_title(label, fontweight="bold")
            _limit(axes, unit=True)
        for axes in grid.flat[len(facets) :]:
            axes.set_axis_off()
        for axes in grid[-1]:
            axes.set_xlabel("iteration", loc="right")
        return figure

    return Chart(title, caption, in_both_themes(draw), legend, wide=True)


def paired_chart(
    title: str,
    caption: str,
    facets: dict[str, list[Comparison]],
    splits: dict[str, list[int]],
    colors: dict[str, str],
) -> Chart:
    """Per label a row for each method and split: the baseline's score, joined by a line to the method's."""

    def draw(theme: Theme) -> Figure:
        columns = min(COLUMNS, len(facets))
        rows = -(-len(facets) // columns)
        count = sum(len(values) for values in splits.values())
        figure = Figure(figsize=(10.8, rows * (0.75 + 0.24 * count)), layout="constrained")
        figure.get_layout_engine().set(hspace=0.1, wspace=0.05)
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for axes, (label, comparisons) in zip(grid.flat, facets.items(), strict=False):
            _draw_pairs(axes, comparisons, splits, colors, theme)
            axes.set_title(label, fontweight="bold")
        for axes in grid.flat[len(facets) :]:
            axes.set_axis_off()
        return figure

    return Chart(title, caption, in_both_themes(draw), list(colors.items()), wide=True)


def _draw_pairs(
    axes: Axes,
    comparisons: list[Comparison],
    splits: dict[str, list[int]],
    colors: dict[str, str],
    theme: Theme,
) -> None:
    names, row = [], 0
    for comparison in comparisons:
        for split in splits[comparison.method]:
            at = comparison.splits.index(split) if split in comparison.splits else None
            several = len(comparisons) > 1
            names.append(f"{comparison.method}, split {split}" if several else f"split {split}")
            if at is not None:
                before, after = comparison.baseline_scores[at], comparison.method_scores[at]
                method, baseline = (
                    theme.color(colors[comparison.method]),
                    theme.color(colors[comparison.baseline]),
                )
                style = "solid" if after >= before else (0, (1.2, 1.6))
                axes.plot([before, after], [row, row], color=method, linewidth=1.8, linestyle=style, alpha=0.75)
                axes.plot(before, row, "o", markersize=6, color=theme.background, markeredgecolor=baseline, mew=1.6)
                axes.plot(after, row, "o", markersize=6.5, color=method, markeredgecolor=method)
            row += 1
    axes.set_yticks(range(row), names)
    axes.set_ylim(row - 0.4, -0.6)
    axes.grid(axis="x")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]))
    axes.margins(x=0.08)


def _draw_lines(axes: Axes, lines: Sequence[Line], theme: Theme, smooth: bool = True) -> None:
    for line in lines:
        color = theme.color(line.color)
        known = line.y.notna().to_numpy()
        x, y = line.x.to_numpy(dtype=float)[known], line.y.to_numpy(dtype=float)[known]
        width = 2.2 if line.strong else 1.5
        if smooth and len(y) > SMOOTH_ABOVE:
            axes.plot(x, y, color=color, linewidth=0.6, alpha=0.22)
            y = pd.Series(y).rolling(max(5, len(y) // WINDOWS), min_periods=1, center=True).mean().to_numpy()
        marker = "o" if len(y) <= 12 and not line.faint else None
        axes.plot(
            x,
            y,
            color=color,
            linewidth=1.0 if line.faint else width,
            alpha=0.55 if line.faint else 1,
            marker=marker,
            markersize=3.2,
            zorder=3 if line.strong else 2,
        )


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
