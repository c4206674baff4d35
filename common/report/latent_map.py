"""The images of a run as points in two dimensions of the latent space."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .charts import Chart
from .pseudo_labels import LABELED, NEVER, Latents
from .style import Theme, in_both_themes

# Its ends are left out: the darkest is lost on a dark page, the lightest on white paper.
STEP_COLORMAP, STEP_RANGE = "viridis", (0.22, 0.9)


def principal_components(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two directions of the largest variance (principal component analysis).

    Args:
        vectors: (N, d), N at least 1.

    Returns:
        Coordinates (N, 2) and the shares of the total variance (2,). A direction that is not there is 0; signs are
        such that the entry of each direction with the largest magnitude is positive.
    """
    centred = vectors - vectors.mean(axis=0)
    left, values, right = np.linalg.svd(centred, full_matrices=False)
    number = min(2, len(values))
    largest = right[np.arange(number), np.abs(right[:number]).argmax(axis=1)]
    coordinates, shares = np.zeros((len(vectors), 2)), np.zeros(2)
    coordinates[:, :number] = left[:, :number] * values[:number] * np.where(largest < 0, -1, 1)
    total = float((values**2).sum())
    shares[:number] = values[:number] ** 2 / total if total > 0 else 0
    return coordinates, shares


def latent_chart(latents: Latents) -> Chart | None:
    """The map of the latent space; `None` with fewer than three images, of which no map can be made."""
    if len(latents.vectors) < 3:
        return None
    coordinates, shares = principal_components(latents.vectors)
    steps, last = latents.steps, int(max(latents.steps.max(), 0))

    def draw(theme: Theme) -> Figure:
        figure = Figure(figsize=(5.2, 4.1), layout="constrained")
        axes = figure.add_subplot()
        look = {"edgecolors": theme.background, "linewidths": 0.6}
        never, joined, labeled = steps == NEVER, steps > LABELED, steps == LABELED
        if never.any():
            axes.scatter(*coordinates[never].T, s=26, color=theme.color("series-0"), label="never joined", **look)
        if joined.any():
            colors = ListedColormap(matplotlib.colormaps[STEP_COLORMAP](np.linspace(*STEP_RANGE, last)))
            norm = BoundaryNorm(np.arange(last + 1) + 0.5, last) if last > 1 else matplotlib.colors.Normalize(0.5, 1.5)
            points = axes.scatter(*coordinates[joined].T, s=34, c=steps[joined], cmap=colors, norm=norm, **look)
            bar = figure.colorbar(points, ax=axes, label="joined at step", shrink=0.7, aspect=18, pad=0.02)
            bar.outline.set_visible(False)
            bar.ax.tick_params(which="both", length=0)
            bar.ax.yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
            bar.set_ticks(MaxNLocator(nbins=8, integer=True))
        if labeled.any():
            axes.scatter(*coordinates[labeled].T, s=150, marker="*", color=theme.ink, label="labelled", **look)
        axes.grid(True, axis="both")
        axes.margins(0.08)
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xlabel(f"component 1 ({shares[0]:.0%} of the variance)")
        axes.set_ylabel(f"component 2 ({shares[1]:.0%} of the variance)")
        if never.any() or labeled.any():
            axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
        return figure

    caption = (
        "Each point is an image; the closer two points, the more alike are the network's features of the images. "
        "Stars are the labelled images, circles the others: the darker, the earlier they joined the training set. "
        "The two directions of the largest variance (PCA) are drawn, so that distances are shown too short where "
        "images differ in other directions."
    )
    return Chart("Latent space", caption, in_both_themes(draw))
