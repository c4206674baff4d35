"""Renders a run's folder as one self-contained HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from common.files import replacing

from .comparison_report import comparison_context
from .lesion_comparison import lesion_comparison_context
from .lesion_report import lesion_run_context
from .lesion_runs import find_lesion_runs, holds_lesions
from .results import with_spread
from .run_report import explains_pseudo_labels, run_context
from .runs import find_runs
from .style import DARK, LIGHT, weight_gradient
from .text import count, duration, moment, plain, score_text, setting


def render(run_dir: Path | str, output: Path | str | None = None) -> Path:
    """Write report.html for one run, or for the comparison of all runs in the sub-folders of `run_dir`.

    Runs of 3D lesion segmentation, told by their files and settings, get pages of their own.

    Args:
        run_dir: a folder that holds run.json, or whose sub-folders do.
        output: the file to write, report.html in `run_dir` by default.

    Returns:
        The path of the report, a file that needs nothing else to be read.

    Raises:
        FileNotFoundError: if the folder is missing or holds no run.
        ValueError: if a file of a run is malformed, or the runs cannot be compared.
    """
    template, context = _page(run_dir)
    page = _environment().get_template(template).render(context)
    output = Path(run_dir) / "report.html" if output is None else Path(output)
    with replacing(output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return output


def _page(run_dir: Path | str) -> tuple[str, dict[str, Any]]:
    """The template and what it needs."""
    if holds_lesions(run_dir):
        runs, several = find_lesion_runs(run_dir)
        if several:
            return "lesion_comparison.html", lesion_comparison_context(runs)
        return "lesion_run.html", lesion_run_context(runs[0])
    runs, several = find_runs(run_dir)
    return ("comparison.html", comparison_context(runs)) if several else ("run.html", run_context(runs[0]))


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "plain": plain,
        "score": score_text,
        "duration": duration,
        "moment": moment,
        "setting": setting,
        "count": count,
        "with_spread": with_spread,
        "css": css_color,
    }
    environment.globals |= {
        "light": LIGHT,
        "dark": DARK,
        "weight_gradient": weight_gradient(),
        "explains_pseudo_labels": explains_pseudo_labels,
    }
    return environment


def css_color(name: str) -> str:
    """A colour of `Theme.color` as the page's style sheet names it."""
    return name if name.startswith("#") else f"var(--{name})"
