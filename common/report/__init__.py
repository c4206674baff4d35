"""Reports: what a run, or several runs side by side, came to."""

from .lesion_results import format_lesion_table, lesion_results, write_lesion_results
from .page import render
from .results import format_table, summarize, write_results

__all__ = [
    "format_lesion_table",
    "format_table",
    "lesion_results",
    "render",
    "summarize",
    "write_lesion_results",
    "write_results",
]
