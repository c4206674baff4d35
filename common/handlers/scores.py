"""Tables of validation and test scores."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
from ignite.engine import Engine, Events
from monai.utils import string_list_all_gather

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


class CaseScores:
    """Writes ``test.csv``: one row for each case and class with ``case``, ``label``, ``iou`` and ``dice``.

    Attach it to an evaluator as :class:`ValidationScores`. Empty cells stand for a class that is in neither truth nor
    reach of the score (empty truth).

    Args:
        path: the CSV file.
        labels: the label space.
    """

    def __init__(self, path: str | Path, labels: LabelSpace) -> None:
        self.path, self.labels = Path(path), labels
        self.cases: list[str] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, lambda _: self.cases.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.write)

    def collect(self, engine: Engine) -> None:
        self.cases += [case_name(item) for item in engine.state.batch]

    def write(self, engine: Engine) -> None:
        cases = string_list_all_gather(self.cases)
        iou, dice = (torch.as_tensor(engine.state.metric_details[name]).tolist() for name in (IOU, DICE))
        rows = [
            {"case": case, "label": label, "iou": iou[i][j], "dice": dice[i][j]}
            for i, case in enumerate(cases)
            for j, label in enumerate(self.labels.classes)
        ]
        if is_first_rank():
            write_table(self.path, rows)
            means = pd.DataFrame(rows).groupby("label", sort=False)[["iou", "dice"]].mean()
            engine.logger.info("Mean over %d cases:\n%s", len(cases), means.round(4).to_string())


def case_name(item: dict) -> str:
    """Name of a case: the image file's name without folder and ending."""
    name = Path(str(item["image"].meta["filename_or_obj"])).name
    return name[: -len(".nii.gz")] if name.endswith(".nii.gz") else Path(name).stem
