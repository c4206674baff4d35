"""Renders runs as one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from common.files import replacing

from .comparison_report import comparison_context
from .run_report import explains_pseudo_labels, run_context
from .runs import Run, check_comparable, find_runs
from .style import DARK, LIGHT, weight_gradient
from .text import count, duration, moment, number, plain, setting


def render(run_dir: Path | str, output: Path | str | None = None) -> Path:
    """Write report.html for one run, or for the comparison of all runs in the sub-folders of `run_dir`.

    Args:
        run_dir: a folder that holds run.json, or whose sub-folders (or those of its folder cells) do.
        output: the file to write, report.html in `run_dir` by default.

    Returns:
        The path of the report, a file that needs nothing else to be read.

    Raises:
        FileNotFoundError: if the folder is missing or holds no run.
        ValueError: if a file of a run is malformed, or the runs cannot be compared.
    """
    runs, several = find_runs(run_dir)
    output = Path(run_dir) / "report.html" if output is None else output
    return render_runs(runs, output) if several else _write("run.html", run_context(runs[0]), output)


def render_runs(
    runs: Sequence[Run], output: Path | str, title: str | None = None, baselines: Mapping[str, str] | None = None
) -> Path:
    """Write the comparison of loaded runs, in their order.

    Args:
        runs: runs of the same classes; those of the same name are the draws of one method.
        output: the file to write.
        title: the headline; by default the names of the methods.
        baselines: the name that each name is compared with; by default Supervised, or else the first name.
    """
    check_comparable(runs)
    return _write("comparison.html", comparison_context(runs, title, baselines), output)


def _write(template: str, context: dict[str, Any], output: Path | str) -> Path:
    page = _environment().get_template(template).render(context)
    with replacing(output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return Path(output)


def _environment() -> Environment:
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    filters = (plain, number, duration, moment, setting, count)
    environment.filters |= {function.__name__: function for function in filters} | {"css": css_color}
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
