"""Renders the report of a run when it is over."""

from __future__ import annotations

import logging
from pathlib import Path

from ignite.engine import Engine, Events

from common.ranks import is_first_rank

logger = logging.getLogger(__name__)


class Report:
    """Writes ``report.html`` from what the other handlers left in the run's folder, when the engine is done.

    Args:
        output_dir: folder of the run.
    """

    def __init__(self, output_dir: str | Path) -> None:
        self.output_dir = Path(output_dir)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if is_first_rank():
            from common.report import render  # matplotlib is slow to import, and only needed here

            logger.info(f"Report: {render(self.output_dir)}")
