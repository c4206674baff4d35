"""Reports: what a run, or several runs side by side, came to."""

from .page import render, render_runs
from .results import collect
from .runs import Run, find_runs, load_run

__all__ = [
    "Run",
    "collect",
    "find_runs",
    "load_run",
    "render",
    "render_runs",
]
