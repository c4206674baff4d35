"""Reports: what a run, or several runs side by side, came to."""

from .page import render, render_runs
from .results import collect, format_table, summarize, write_results
from .runs import Run, find_runs, load_run

__all__ = [
    "Run",
    "collect",
    "find_runs",
    "format_table",
    "load_run",
    "render",
    "render_runs",
    "summarize",
    "write_results",
]
