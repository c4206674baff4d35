"""The table of validation scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from ignite.engine import Engine, Events

from common.data.files import file_stem
from common.handlers.training_log import rows_up_to, write_table
from common.label_space import LabelSpace
from common.ranks import is_first_rank

IOU, DICE = "val_mean_iou", "val_mean_dice"


class ValidationScores:
    """Adds a row to ``validation.csv`` after each validation: mean and per-class IoU and Dice.

    Attach it to an evaluator with MONAI's ``MeanIoUHandler`` as ``val_mean_iou`` and ``MeanDice`` as ``val_mean_dice``,
    both with details. A class that is empty in an image's truth does not count there.

    Args:
        path: the CSV file.
        labels: the label space.
        iterations: number of training iterations in an epoch, for the row's ``iteration``.
    """

    def __init__(self, path: str | Path, labels: LabelSpace, iterations: int) -> None:
        self.path, self.labels, self.iterations = Path(path), labels, iterations

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        epoch = engine.state.epoch  # the trainer's: MONAI's ValidationHandler hands it on
        row: dict[str, float] = {"epoch": epoch, "iteration": epoch * self.iterations}
        for name, metric in (("iou", IOU), ("dice", DICE)):
            per_class = torch.as_tensor(engine.state.metric_details[metric]).nanmean(dim=0)
            row[f"{name}_mean"] = per_class.nanmean().item()
            row |= {
                f"{name}_{label}": value.item() for label, value in zip(self.labels.classes, per_class, strict=True)
            }
        if is_first_rank():
            write_table(self.path, [*rows_up_to(self.path, "epoch", epoch - 1), row])


def case_names(files: Sequence[str]) -> list[str]:
    """What the cases of these images are called: the files' names without folder and ending, each once."""
    return short_names([Path(file).with_name(file_stem(file)) for file in files])


def short_names(files: list[Path]) -> list[str]:
    """A name for each file that no other has: its own, with as many folders before as it takes, or with a number."""
    parts = [[part for part in file.parts if part != file.anchor] for file in files]
    names = [own[-1] for own in parts]
    for depth in range(2, max(map(len, parts), default=0) + 1):
        alike = Counter(names)
        names = ["_".join(own[-depth:]) if alike[name] > 1 else name for own, name in zip(parts, names, strict=True)]
    taken, unique = set(names), set()
    for index, name in enumerate(names):
        number = 1
        while names[index] in unique or (number > 1 and names[index] in taken):
            number += 1
            names[index] = f"{name}_{number}"
        unique.add(names[index])
    return names
