"""Pictures of unlabelled images that a gate accepted and refused, for the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ignite.engine import Engine
from torch import Tensor

from common.files import replacing
from common.handlers.picture import picture
from common.label_space import LabelSpace
from common.metrics import image_dice

FILE = "gate.npz"
EACH = 3  # of the accepted and of the refused
HALF = 0.5  # an image of which more counts, of its classes or pixels, is accepted


class GateExamples:
    """Keeps the first three images of an epoch that a gate accepted, and the first three that it refused.

    Looked at are the iterations of the training log's rows. ``gate.npz`` beside the log holds for each of them, ``N``,
    ``image`` (N, H, W) in [0, 1], ``pseudo_label`` and ``truth`` (N, C, H, W), 0 where the truth is not known,
    ``accepted`` (the share of its classes or pixels), ``score``, ``dice`` (NaN where unknown) and ``name``, of volumes
    their middle slice; axes are those of a picture, row and column.

    Args:
        folder: where to write.
        labels: the label space.
    """

    def __init__(self, folder: str | Path, labels: LabelSpace) -> None:
        self.path, self.labels = Path(folder) / FILE, labels
        self.kept: dict[bool, list[dict]] = {True: [], False: []}

    def add(self, engine: Engine) -> None:
        """Keeps images of this iteration, as long as there is room for them."""
        judged, notes = engine.state.output["judged"], engine.state.output["notes"]
        if judged is None or all(len(found) == EACH for found in self.kept.values()):
            return
        pseudo, unlabeled = next(iter(notes.values())).pseudo, engine.state.batch["unlabeled"]
        image, truth = (
            maps if maps is None or pseudo.grid is None else pseudo.grid.of(maps)
            for maps in (unlabeled["image"], unlabeled["truth"]())
        )
        dice = None if truth is None else image_dice(self.labels, pseudo.label, truth).mean(1).tolist()
        accepted, scores = (part.mean(1).tolist() for part in (judged.accepted, judged.scores))
        for row, share in enumerate(accepted):
            found = self.kept[share > HALF]
            if len(found) < EACH:
                masks = self.masks(pseudo.label, row)
                example = {"image": scaled(picture(image[row : row + 1])[0]), "pseudo_label": masks}
                example["truth"] = np.zeros_like(masks) if truth is None else self.masks(truth, row)
                known = {"dice": np.nan if dice is None else dice[row], "name": str(unlabeled["name"][row])}
                found.append({**example, **known, "accepted": share, "score": scores[row]})

    def masks(self, label: Tensor, row: int) -> np.ndarray:
        """The classes' masks of an image of the batch, ``C H W``."""
        return (picture(self.labels.masks(label[row : row + 1])) > 0.5).astype(np.uint8)

    def write(self) -> None:
        """Replaces the file by what was kept in the epoch, if anything was, and forgets it."""
        examples = [*self.kept[True], *self.kept[False]]
        self.kept = {True: [], False: []}
        if examples:
            with replacing(self.path) as temporary:
                arrays = {key: np.stack([one[key] for one in examples]) for key in examples[0]}
                np.savez_compressed(temporary, **arrays)


def scaled(image: np.ndarray) -> np.ndarray:
    """An image with values in [0, 1]: itself, or where it has others, its own range."""
    low, high = image.min(), image.max()
    if low >= 0 and high <= 1:
        return image.astype(np.float32)
    return ((image - low) / max(high - low, 1e-6)).astype(np.float32)
