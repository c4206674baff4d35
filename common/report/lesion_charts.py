"""Charts of lesion segmentation: every volume under every method, and the pseudo-labels' Dice over the steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .charts import Chart
from .lesion_results import TITLES, volume_means
from .results import methods_of
from .style import Theme, in_both_themes

LONGEST_NAME = 26


def volume_chart(results: pd.DataFrame, colors: dict[str, str], scores: Sequence[str]) -> Chart:
    """A row for each volume, lowest Dice of the first method on top: an open dot for it, filled dots for the others."""
    methods = methods_of(results)
    order = volume_means(results, "dice").sort_values(methods[0], na_position="last").index
    tables = {score: volume_means(results, score).reindex(order) for score in scores}

    def draw(theme: Theme) -> Figure:
        figure = Figure(figsize=(10.8, 0.9 + max(0.24, 0.11 * len(methods)) * len(order)), layout="constrained")
        figure.get_layout_engine().set(wspace=0.05)
        grid = figure.subplots(1, len(scores), sharey=True, squeeze=False)[0]
        for axes, (score, table) in zip(grid, tables.items(), strict=True):
            _draw_volumes(axes, table, colors, theme)
            axes.set_title(TITLES[score][0].upper() + TITLES[score][1:], fontweight="bold")
        grid[0].set_yticks(range(len(order)), [shorten(str(name)) for name in order])
        grid[0].set_ylim(len(order) - 0.4, -0.6)
        return figure

    caption = f"Each row is a test volume, the lowest Dice of {methods[0]} on top; each dot is a mean over the seeds. "
    if len(methods) > 1:
        caption += f"Open: {methods[0]}, filled: the other methods; a line joins them where a volume has both. "
    return Chart("Every volume on its own", caption.rstrip(), in_both_themes(draw), list(colors.items()), wide=True)


def _draw_volumes(axes: Axes, table: pd.DataFrame, colors: dict[str, str], theme: Theme) -> None:
    baseline, *others = table.columns
    # Several methods in a row lie a little above each other, so that none hides another.
    shifts = np.linspace(-0.18, 0.18, len(others)) if len(others) > 1 else [0.0]
    rows = np.arange(len(table))
    for method, shift in zip(others, shifts, strict=False):
        color = theme.color(colors[method])
        axes.hlines(rows + shift, table[baseline], table[method], color=color, linewidth=1.6, alpha=0.6)
        axes.plot(table[method], rows + shift, "o", markersize=6, color=color, markeredgecolor=color)
    color = theme.color(colors[baseline])
    axes.plot(table[baseline], rows, "o", markersize=6, color=theme.background, markeredgecolor=color, mew=1.6)
    axes.grid(True, axis="both")
    axes.set_xlim(-0.03, 1.03)
    axes.set_xticks(np.linspace(0, 1, 6))


def joining_chart(joined: pd.DataFrame, title: str = "Dice of each pseudo-label over the steps") -> Chart | None:
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
    return Chart(title, caption, in_both_themes(draw), legend)


def shorten(name: str) -> str:
    """A long name with its middle left out: what tells cases apart is mostly at the ends."""
    half = LONGEST_NAME // 2
    return name if len(name) <= LONGEST_NAME else f"{name[: half - 1]}…{name[-half:]}"
