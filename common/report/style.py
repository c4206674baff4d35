"""Colours, themes and the way from a matplotlib figure to a picture inside an HTML file."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

# Okabe and Ito's colour-blind-safe palette, ordered so that classes lying over each other in a chest
# radiograph (a lung and its clavicle) contrast, and so that the colours weak on white paper come last.
CLASS_COLORS = ("#56B4E9", "#E69F00", "#CC79A7", "#D55E00", "#009E73", "#0072B2", "#F0E442", "#999999")
WEIGHT_COLORMAP = "viridis"


@dataclass(frozen=True)
class Theme:
    """Colours of the charts in one colour scheme; `series` are for loss terms and methods, never classes."""

    name: str
    ink: str
    muted: str
    line: str
    background: str
    series: tuple[str, ...]

    def color(self, name: str) -> str:
        """Turn "ink", "muted", "series-2" or a literal colour into a colour matplotlib knows."""
        if name.startswith("series-"):
            return self.series[int(name.removeprefix("series-")) % len(self.series)]
        return {"ink": self.ink, "muted": self.muted, "line": self.line, "background": self.background}.get(name, name)

    def parameters(self) -> dict[str, object]:
        """Matplotlib's settings for this theme."""
        return {
            "font.family": "sans-serif",
            "font.sans-serif": ["Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans"],
            "font.size": 8.5,
            "text.color": self.ink,
            "axes.titlecolor": self.ink,
            "axes.titlesize": 9,
            "axes.titlelocation": "left",
            "axes.linewidth": 0.8,
            "axes.grid": True,
            "axes.grid.axis": "y",
            "axes.axisbelow": True,
            "grid.linewidth": 0.7,
            **dict.fromkeys(("axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), self.muted),
            **dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), self.line),
            **dict.fromkeys(("axes.facecolor", "figure.facecolor", "savefig.facecolor"), "none"),
            **dict.fromkeys(("axes.spines.top", "axes.spines.right", "axes.spines.left"), False),
            "ytick.major.size": 0,
            **dict.fromkeys(("lines.solid_capstyle", "lines.solid_joinstyle"), "round"),
        }


LIGHT_SERIES = ("#8a929c", "#1f5fa8", "#b0413e", "#7a5ba6", "#2f7d6b")
DARK_SERIES = ("#8b949f", "#6aa8f0", "#f0857f", "#b99be6", "#62bda6")
LIGHT = Theme("light", "#1c2128", "#5c6570", "#e2e5e9", "#ffffff", LIGHT_SERIES)
DARK = Theme("dark", "#e8eaed", "#a2abb5", "#343b43", "#14171b", DARK_SERIES)


def class_colors(classes: tuple[str, ...]) -> dict[str, str]:
    """Give every class its colour, the same in every figure; beyond the palette, evenly spaced hues."""
    if len(classes) <= len(CLASS_COLORS):
        return dict(zip(classes, CLASS_COLORS, strict=False))
    hues = matplotlib.colormaps["turbo"].resampled(len(classes) + 2)
    return {name: to_hex(hues(index + 1)) for index, name in enumerate(classes)}


def weight_gradient(steps: int = 9) -> str:
    """The weight map's colours as a CSS gradient, low to high."""
    colormap = matplotlib.colormaps[WEIGHT_COLORMAP]
    stops = ", ".join(to_hex(colormap(step / (steps - 1))) for step in range(steps))
    return f"linear-gradient(90deg, {stops})"


def encode(figure: Figure, dpi: float = 170) -> str:
    """A figure as a `data:` address that holds the PNG itself."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(buffer, format="png", dpi=dpi, facecolor="none")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def in_both_themes(draw: Callable[[Theme], Figure]) -> dict[str, str]:
    """Draw the same chart for light and for dark pages."""
    pictures = {}
    for theme in (LIGHT, DARK):
        with matplotlib.rc_context(theme.parameters()):
            pictures[theme.name] = encode(draw(theme))
    return pictures
