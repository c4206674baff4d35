"""Reports: what a run, or several runs side by side, came to."""

from .page import render
from .results import format_table, summarize, write_results

__all__ = ["format_table", "render", "summarize", "write_results"]
