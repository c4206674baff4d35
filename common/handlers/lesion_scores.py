"""Table of lesion scores and the predicted masks of an evaluation."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.utils import string_list_all_gather
from torch import Tensor

from common.handlers.scores import case_name
from common.handlers.training_log import write_table
from common.metrics.lesions import lesion_scores
from common.ranks import is_first_rank, rank

MEANS = ["dice", "precision", "sensitivity", "lesion_f1", "load_error_ml"]  # of those that are logged


class LesionScores:
    """Writes ``volumes.csv``: one row for each volume with the scores of its lesions, and the predicted masks.

    Attach it to an evaluator whose decollated outputs hold ``pred`` and ``label``, masks of 0 and 1 ``1 H W D``, and
    ``image``, whose metadata tell the file and the affine. Columns: ``case``, ``image``, ``label`` (files),
    ``prediction`` (the mask's file, from the table's folder), and those of
    :func:`~common.metrics.lesions.lesion_scores`; an undefined score is an empty cell.

    A case is named after the image's file. Where several are named alike, the folders above it are put before, as
    ``patient1_flair``, and where that is not enough (one image, two raters), a number is put behind. Rows are sorted by
    file. In a distributed run the first process writes the rows of all; a volume that was dealt out twice counts once.

    Args:
        path: the CSV file.
        folder: where to write each predicted mask as ``<case>.nii.gz``, 0 and 1, on the voxel grid of ``image``, or
            ``None`` for no masks. In a distributed run it is one that all processes see.
        min_overlap: number of voxels that a lesion shares with the other mask to count as found.
        connectivity: number of a voxel's neighbours, 6, 18 or 26.

    Raises:
        ValueError: when run, if a volume's masks or affine are not of this form; it names the image's file.
    """

    def __init__(
        self, path: str | Path, folder: str | Path | None = None, min_overlap: int = 1, connectivity: int = 26
    ) -> None:
        self.path, self.folder = Path(path), None if folder is None else Path(folder)
        self.min_overlap, self.connectivity = min_overlap, connectivity
        self.rows: list[dict] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.write)

    def start(self, engine: Engine) -> None:
        self.rows.clear()
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob(f".{rank()}_*.part.nii.gz"):  # by a run that was killed
                left.unlink()

    def collect(self, engine: Engine) -> None:
        for item in engine.state.output:
            file = str(item["image"].meta["filename_or_obj"])
            affine = volume_affine(item["image"], file)
            predicted, true = (mask(item[name], name, file) for name in ("pred", "label"))
            if predicted.shape != true.shape:
                raise ValueError(
                    f"The prediction and the label of {file} must have one shape, got {predicted.shape} and "
                    f"{true.shape}. Bring the label onto the image's voxel grid."
                )
            label = getattr(item["label"], "meta", {}).get("filename_or_obj", "")
            row = {"case": case_name(item), "image": file, "label": str(label), "prediction": ""}
            if self.folder is not None:
                # all names must be known before a case's is short and its own
                part = self.folder / f".{rank()}_{len(self.rows)}.part.nii.gz"
                write_mask(part, predicted, affine)
                row["prediction"] = part.name
            voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
            row |= lesion_scores(predicted, true, voxel_ml, self.min_overlap, self.connectivity)
            self.rows.append(row)

    def write(self, engine: Engine) -> None:
        gathered = string_list_all_gather([json.dumps(row) for row in self.rows])
        if not is_first_rank():
            return
        rows = sorted((json.loads(row) for row in gathered if row), key=lambda row: (row["image"], row["label"]))
        rows = self.without_repeats(rows)
        files = [Path(row["image"]).with_name(row["case"]) for row in rows]
        for row, name in zip(rows, short_names(files), strict=True):
            row["case"] = name
            if self.folder is not None:
                final = self.folder / f"{name}.nii.gz"
                (self.folder / row["prediction"]).replace(final)
                row["prediction"] = Path(os.path.relpath(final, self.path.parent)).as_posix()
        write_table(self.path, rows)
        means = pd.DataFrame(rows, columns=MEANS).mean()
        engine.logger.info("Mean over %d volumes:\n%s", len(rows), means.round(4).to_string())

    def without_repeats(self, rows: list[dict]) -> list[dict]:
        """Rows of one image and label follow each other: the first stays, the masks of the others go."""
        kept: list[dict] = []
        for row in rows:
            if kept and all(row[key] == kept[-1][key] for key in ("image", "label")):
                if self.folder is not None:
                    (self.folder / row["prediction"]).unlink()
            else:
                kept.append(row)
        return kept


def mask(values: Tensor, name: str, file: str) -> np.ndarray:
    """A boolean volume ``(H, W, D)`` of a mask ``1 H W D``."""
    values = values.detach().as_subclass(Tensor).cpu()
    if values.ndim != 4 or values.shape[0] != 1:
        raise ValueError(
            f"{name} of {file} must be one mask, 1 x H x W x D, got shape {tuple(values.shape)}. "
            "Give the lesions' channel alone."
        )
    if not ((values == 0) | (values == 1)).all():
        raise ValueError(
            f"{name} of {file} must be a mask of 0 and 1, got values from {values.min():g} to {values.max():g}. "
            "Apply the threshold in the evaluator's postprocessing."
        )
    return values[0].numpy() > 0


def volume_affine(image: Tensor, file: str) -> np.ndarray:
    """The affine ``(4, 4)`` from voxels to millimetres (RAS) in float64."""
    affine = image.affine if isinstance(image, MetaTensor) else torch.zeros(0)
    affine = affine.cpu().double().numpy()
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or np.linalg.det(affine[:3, :3]) == 0:
        raise ValueError(
            f"The image of {file} must have an affine of 4 x 4 numbers that spans a volume, got {affine.tolist()}. "
            "Load it with MONAI's LoadImaged, and look at the file's header."
        )
    return affine


def write_mask(path: Path, volume: np.ndarray, affine: np.ndarray) -> None:
    image = nib.Nifti1Image(volume.astype(np.uint8), affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


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
