"""A progress bar that shows the losses."""

from __future__ import annotations

from ignite.engine import Engine

try:
    from ignite.handlers import ProgressBar
except ImportError:  # before ignite 0.5
    from ignite.contrib.handlers import ProgressBar

from common.ranks import is_first_rank


class LossProgressBar(ProgressBar):
    """ignite's progress bar over an epoch's iterations, with the newest row of the log; in the first rank only.

    Attach it after :class:`~common.handlers.training_log.TrainingLog`: a loss of each iteration would keep the device
    waiting.

    Args: as for ``ignite.handlers.ProgressBar``.
    """

    def attach(self, engine: Engine) -> None:  # type: ignore[override]
        if is_first_rank():
            super().attach(engine, output_transform=lambda _: losses(engine))


def losses(engine: Engine) -> dict[str, float]:
    """The losses in the newest row of the log."""
    log = getattr(engine.state, "log", {})
    return {name.removeprefix("loss_"): value for name, value in log.items() if name.startswith("loss")}
