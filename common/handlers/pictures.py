"""TensorBoard pictures of images, pseudo-labels and weights."""

from __future__ import annotations

import torch
from ignite.engine import Engine, Events
from torch.utils.tensorboard import SummaryWriter

from common.handlers.picture import picture
from common.label_space import LabelSpace
from common.ranks import is_first_rank


class TensorBoardPictures:
    """Writes scalars of the training log, and what the first unlabelled image of the batch was taught, to TensorBoard.

    Attach it after :class:`~common.handlers.training_log.TrainingLog`, whose newest row it writes.

    Args:
        log_dir: folder of TensorBoard's files.
        labels: the label space.
        interval: number of epochs between two pictures.
    """

    def __init__(self, log_dir: str, labels: LabelSpace, interval: int = 1) -> None:
        self.log_dir, self.labels, self.interval = log_dir, labels, interval
        self.writer: SummaryWriter | None = None

    def attach(self, engine: Engine) -> None:
        if is_first_rank():
            engine.add_event_handler(Events.STARTED, self.open)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.scalars)
            engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self.pictures)
            engine.add_event_handler(Events.COMPLETED, self.close)

    def open(self, engine: Engine) -> None:
        # what a resumed run writes again replaces what came after its checkpoint
        self.writer = SummaryWriter(self.log_dir, purge_step=engine.state.iteration + 1)

    def close(self, engine: Engine) -> None:
        self.writer.close()

    def scalars(self, engine: Engine) -> None:
        for name, value in getattr(engine.state, "log", {}).items():
            if name not in ("iteration", "epoch", "seconds"):
                self.writer.add_scalar(name, value, engine.state.iteration)

    def pictures(self, engine: Engine) -> None:
        notes = engine.state.output["notes"]
        if not notes:
            return
        pseudo, weight = next(iter(notes.values()))[:2]
        image = engine.state.batch["unlabeled"]["image"]
        image = torch.from_numpy(picture(image if pseudo.grid is None else pseudo.grid.of(image)))
        masks = torch.from_numpy(picture(self.labels.masks(pseudo.label)))
        weight = torch.from_numpy(picture(weight.mean(1, keepdim=True)))
        tiles = [image[:1], *[mask[None] for mask in masks], weight]
        step = engine.state.iteration
        names = ", ".join(["image", *self.labels.classes, "weight"])
        self.writer.add_image(f"unlabelled: {names}", torch.cat(tiles, dim=2).clamp(0, 1), step)
