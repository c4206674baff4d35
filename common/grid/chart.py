"""The figure of a table whose columns are numbers of labelled images."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from common.files import replacing
from common.grid.grid_file import LABELED, SCORES
from common.grid.tables import Contents
from common.report.style import LIGHT

# Okabe and Ito's colours that are dark enough for a line on white; the baseline is the report's grey. Markers and
# strokes tell the rows apart in black and white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#1c2128")
MARKERS = ("s", "^", "D", "v", "P", "X", "<", ">", "*", "p")
STROKES = ("solid", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))


def write_chart(content: Contents, folder: Path) -> list[Path]:
    """Draws the mean score over the number of labelled images as PNG and SVG, with bands of one standard deviation.

    Nothing is drawn for other columns, for fewer than two of them, or without any value; a figure that an earlier call
    has drawn of a table of this name is then removed.
    """
    files = [folder / f"{content.table.name}{suffix}" for suffix in (".png", ".svg")]
    drawable = any(entry.values for entry in content.entries.values())
    if content.table.column_key != LABELED or len(content.columns) < 2 or not drawable:
        for file in files:
            file.unlink(missing_ok=True)
        return []
    # text stays text, and the same input gives the same file
    with matplotlib.rc_context({**LIGHT.parameters(), "svg.fonttype": "none", "svg.hashsalt": "grid"}):
        figure = _draw(content)
        FigureCanvasAgg(figure)
        for file in files:
            metadata = {"Date": None} if file.suffix == ".svg" else None
            with replacing(file) as temporary:
                figure.savefig(temporary, dpi=170, facecolor=LIGHT.background, metadata=metadata)
    return files


def _draw(content: Contents) -> Figure:
    figure = Figure(figsize=(7.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    others = 0
    for row in content.table.rows:
        if row.name == content.table.baseline:
            _line(axes, content, row.name, LIGHT.series[0], "o", "solid")
        else:
            _line(
                axes,
                content,
                row.name,
                COLORS[others % len(COLORS)],
                MARKERS[others % len(MARKERS)],
                STROKES[others % len(STROKES)],
            )
            others += 1
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
