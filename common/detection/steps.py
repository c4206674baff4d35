"""Starts a detector's stage with a training, as an entry of a bundle's handlers."""

from __future__ import annotations

from ignite.engine import Engine

from common.detection.stage import DetectorStage


class DetectorSteps:
    """Lets a detector's stage run when a trainer starts. Attach it after the checkpoint, which loads its state.

    MONAI reads ``_target_`` of each of a bundle's handlers, so that a reference to the stage cannot stand among them.

    Args:
        stage: the stage, which is part of the checkpoint.
    """

    def __init__(self, stage: DetectorStage) -> None:
        self.stage = stage

    def attach(self, engine: Engine) -> None:
        self.stage.attach(engine)
