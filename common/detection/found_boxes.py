"""The boxes that a detector has found in images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from common.data.files import times
from common.detection.boxes import filled

Found = dict[str, np.ndarray]  # boxes, labels and scores in an image


class FoundBoxes:
    """Boxes of images with their classes and scores; those of a low score do not count.

    Args:
        found: for each image ``boxes``, ``n 4`` or ``n 6`` in its pixels, ``labels``, indices among the foreground
            classes, and ``scores``, ``n`` each.
        shapes: the images' sizes.
        names: the images' names, for errors.
        number: number of foreground classes.
        score: boxes with this score or a higher one count.

    Raises:
        ValueError: when a box lies outside of its image.
    """

    def __init__(
        self,
        found: Sequence[Found],
        shapes: Sequence[Sequence[int]],
        names: Sequence[str],
        number: int,
        score: float,
    ) -> None:
        self.number, self.shapes = number, [tuple(shape) for shape in shapes]
        self.kept: list[tuple[np.ndarray, np.ndarray]] = []
        for each, shape, name in zip(found, self.shapes, names, strict=True):
            require_inside(each["boxes"], shape, name)
            counts = each["scores"] >= score
            self.kept.append((each["boxes"][counts], each["labels"][counts]))
        self.boxed = np.bincount(self.labels(), minlength=number) > 0

    def __len__(self) -> int:
        """Number of boxes that count."""
        return len(self.labels())

    def labels(self) -> np.ndarray:
        """Class of each box that counts."""
        return np.concatenate([np.zeros(0, int), *(labels for _, labels in self.kept)])

    def covered(self, index: int, first: np.ndarray, size: Sequence[int]) -> np.ndarray:
        """What the boxes of an image cover of a window, ``C H W [D]``, uint8; zeros around a smaller image."""
        boxes, labels = self.kept[index]
        # a smaller image lies in the middle of its window
        around = np.maximum(np.subtract(size, self.shapes[index]), 0) // 2
        return filled(boxes, labels, self.number, np.asarray(first) - around, size)


def require_inside(boxes: np.ndarray, shape: tuple[int, ...], name: str) -> None:
    """Refuses boxes that are another image's."""
    corners = boxes.reshape(-1, 2, len(shape))
    outside = ((corners < 0) | (corners > np.array(shape))).any((1, 2))
    if outside.any():
        raise ValueError(
            f"the boxes of {name} must lie within its {times(shape)} pixels, got {boxes[outside][0].tolist()}: they "
            "are another image's; delete the detector's folder, so that boxes are found again."
        )


def table_of(found: Sequence[Found], names: Sequence[str], classes: Sequence[str], dimensions: int) -> pd.DataFrame:
    """A row for each box: ``image``, ``class``, ``score``, and its corners, ``from_x`` ... ``to_z``."""
    corners = [f"{end}_{axis}" for end in ("from", "to") for axis in "xyz"[:dimensions]]
    rows = [
        [name, classes[label], float(score), *box.tolist()]
        for name, each in zip(names, found, strict=True)
        for box, label, score in zip(each["boxes"], each["labels"], each["scores"], strict=True)
    ]
    return pd.DataFrame(rows, columns=["image", "class", "score", *corners])


def packed(found: Sequence[Found], dimensions: int) -> dict[str, Tensor]:
    """The boxes of several images as a few tensors, for files: with ``counts``, how many of them are each image's."""
    empty = {"boxes": np.zeros((0, 2 * dimensions), np.float32), "labels": np.zeros(0, int)}
    empty["scores"] = np.zeros(0, np.float32)
    tensors = {key: torch.from_numpy(np.concatenate([none, *(f[key] for f in found)])) for key, none in empty.items()}
    return {**tensors, "counts": torch.tensor([len(each["labels"]) for each in found], dtype=torch.long)}


def unpacked(tensors: dict[str, Tensor]) -> list[Found]:
    """The boxes of each image of what :func:`packed` gave."""
    counts = tensors["counts"].tolist()
    parts = {key: tensors[key].split(counts) for key in ("boxes", "labels", "scores")}
    return [{key: part[index].numpy() for key, part in parts.items()} for index in range(len(counts))]
