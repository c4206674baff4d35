"""A progress bar that shows the losses."""

from __future__ import annotations

from ignite.engine import Engine
from ignite.handlers import ProgressBar

from common.ranks import is_first_rank


class LossProgressBar(ProgressBar):
    """ignite's progress bar over an epoch's iterations, with the loss and its terms beside it; in the first rank only.

    Args: as for ``ignite.handlers.ProgressBar``.
    """

    def attach(self, engine: Engine) -> None:  # type: ignore[override]
        if is_first_rank():
            super().attach(engine, output_transform=lambda output: {"loss": output["loss"], **output["terms"]})
