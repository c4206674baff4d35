"""The table of test scores, and the predicted masks, of an evaluation."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.utils import string_list_all_gather
from torch import Tensor

from common.handlers.scores import case_names
from common.handlers.training_log import write_table
from common.label_space import LabelSpace
from common.metrics import lesion_scores, mask_scores, presence_scores, slice_scores
from common.ranks import is_first_rank, rank

UNITS = ("pixels", "mm")
VOLUME_UNITS = {"ml": 1000.0, "mm3": 1.0}  # how many mm3 one has
OVERLAPS = ("iou", "dice", "precision", "sensitivity")
LOGGED = ("iou", "dice", "hausdorff95", "surface_dice", "lesion_f1", "slice_dice", "false_positive_area")


class CaseScores:
    """Writes ``test.csv``: a row for each case and class, and the predicted masks.

    Attach it to an evaluator whose decollated outputs hold ``pred`` and ``label``, masks of 0 and 1 ``C H W [D]``, and
    ``image``, whose metadata tell the file. Columns: ``case``, ``class``, the scores of
    :func:`~common.metrics.mask_scores`, ``truth_size`` and ``predicted_size`` in ``unit`` (ml, mm3 or mm2, or pixels or
    voxels; distances are in mm, or likewise in pixels), those of :func:`~common.metrics.lesion_scores` and
    :func:`~common.metrics.slice_scores` where asked for (areas in mm2 or pixels), and the files ``image``, ``truth``
    and ``prediction`` (from the table's folder). An undefined score is an empty cell; numbers have six significant
    digits. Means are logged, and :func:`~common.metrics.presence_scores` where some case lacks a class.

    A case is named after the image's file. Where several are named alike, the folders above it are put before, as
    ``patient1_flair``, and where that is not enough (one image, two raters), a number is put behind. Rows are sorted by
    file. In a distributed run the first process writes the rows of all; a case that was dealt out twice counts once.

    Args:
        path: the CSV file.
        labels: the label space.
        folder: where to write each predicted mask as ``<case>.nii.gz`` on the voxel grid of ``image``, or ``None`` for
            no masks: 0 and 1 of a single class, values 1, 2 and so on of classes that exclude each other, else a
            channel for each class on the last axis. In a distributed run it is one that all processes see.
        unit: ``mm`` where the images' affines are in mm, else ``pixels``.
        tolerance: of surface Dice, in mm.
        ignore_empty: whether a class that the truth lacks is left out of a case's overlaps, as in MONAI's metrics,
            instead of scored 1 where the prediction lacks it too, and 0 else.
        lesions: keywords of :func:`~common.metrics.lesion_scores`, ``{}`` for its defaults; ``None`` for none.
        volume_unit: what volumes are given in where ``unit`` is ``mm``: ``ml``, or ``mm3`` for small ones. Areas stay
            in mm2, and ``pixels`` counts voxels all the same.
        slices: whether volumes are scored slice by slice too, along their last axis.

    Raises:
        ValueError: for an unknown unit; when run, if a case's masks or affine are not of this form; it names the file.
    """

    def __init__(
        self,
        path: str | Path,
        labels: LabelSpace,
        folder: str | Path | None = None,
        unit: str = "pixels",
        tolerance: float = 1.0,
        ignore_empty: bool = True,
        lesions: Mapping[str, Any] | None = None,
        volume_unit: str = "ml",
        slices: bool = False,
    ) -> None:
        if unit not in UNITS:
            raise ValueError(f"unit must be one of {UNITS}, got {unit!r}.")
        if volume_unit not in VOLUME_UNITS:
            raise ValueError(f"volume_unit must be one of {tuple(VOLUME_UNITS)}, got {volume_unit!r}.")
        self.path, self.folder, self.labels = Path(path), None if folder is None else Path(folder), labels
        self.unit, self.tolerance, self.ignore_empty, self.lesions = unit, tolerance, ignore_empty, lesions
        self.volume_unit, self.slices = volume_unit, slices
        self.cases: list[dict] = []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.write)

    def start(self, engine: Engine) -> None:
        self.cases.clear()
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob(f".{rank()}_*.part.nii.gz"):  # by a run that was killed
                left.unlink()

    def collect(self, engine: Engine) -> None:
        for item in engine.state.output:
            file = str(item["image"].meta["filename_or_obj"])
            predicted, true = (self.masks(item[name], name, file) for name in ("pred", "label"))
            if predicted.shape != true.shape:
                raise ValueError(
                    f"The prediction and the label of {file} must have one shape, got {predicted.shape} and "
                    f"{true.shape}. Bring the label onto the image's grid."
                )
            truth = str(getattr(item["label"], "meta", {}).get("filename_or_obj", ""))
            case = {"image": file, "truth": truth, "prediction": ""}
            affine = self.affine(item["image"], file)
            if self.folder is not None:
                # all names must be known before a case's is short and its own
                part = self.folder / f".{rank()}_{len(self.cases)}.part.nii.gz"
                write_masks(part, predicted, affine, self.labels.multilabel)
                case["prediction"] = part.name
            case["classes"] = [self.scores(*pair, affine) for pair in zip(predicted, true, strict=True)]
            self.cases.append(case)

    def scores(self, predicted: np.ndarray, true: np.ndarray, affine: np.ndarray) -> dict[str, float | str]:
        """All scores of one class of one case."""
        dims = predicted.ndim
        spacing = np.linalg.norm(affine[:dims, :dims], axis=0) if self.unit == "mm" else None
        found: dict[str, float | str] = mask_scores(predicted, true, spacing, self.tolerance)
        if self.ignore_empty and not true.any():
            found |= dict.fromkeys(OVERLAPS, float("nan"))
        of_one = 1.0 if spacing is None else abs(float(np.linalg.det(affine[:dims, :dims])))
        of_one = of_one / VOLUME_UNITS[self.volume_unit] if spacing is not None and dims == 3 else of_one
        unit = {"pixels": ("pixels", "voxels"), "mm": ("mm2", self.volume_unit)}[self.unit][dims - 2]
        found |= {"truth_size": float(true.sum() * of_one), "predicted_size": float(predicted.sum() * of_one)}
        found["unit"] = unit
        if self.slices:
            found |= slice_scores(predicted, true)
            found["false_positive_area"] *= 1.0 if spacing is None else area(affine)
        return found if self.lesions is None else found | lesion_scores(predicted, true, **self.lesions)

    def masks(self, values: Tensor, name: str, file: str) -> np.ndarray:
        """Boolean masks ``(C, H, W[, D])``."""
        values = values.detach().as_subclass(Tensor).cpu()
        if values.ndim not in (3, 4) or len(values) != self.labels.num_classes:
            raise ValueError(
                f"{name} of {file} must be a mask for each class ({', '.join(self.labels.classes)}), C x H x W [x D], "
                f"got shape {tuple(values.shape)}."
            )
        if not ((values == 0) | (values == 1)).all():
            raise ValueError(
                f"{name} of {file} must be masks of 0 and 1, got values from {values.min():g} to {values.max():g}. "
                "Apply the threshold in the evaluator's postprocessing."
            )
        return (values > 0).numpy()  # of booleans, since NumPy has no bfloat16

    def affine(self, image: Tensor, file: str) -> np.ndarray:
        """The affine ``(4, 4)`` from voxels to millimetres (RAS) in float64; it must span a space to measure in."""
        affine = image.affine if isinstance(image, MetaTensor) else Tensor()
        affine = affine.cpu().double().numpy()
        sound = affine.shape == (4, 4) and np.isfinite(affine).all() and np.linalg.det(affine[:3, :3]) != 0
        if not sound and (self.unit == "mm" or self.folder is not None):
            raise ValueError(
                f"The image of {file} must have an affine of 4 x 4 numbers that spans a volume, got {affine.tolist()}. "
                "Load it with MONAI's LoadImaged, and look at the file's header."
            )
        return affine

    def write(self, engine: Engine) -> None:
        gathered = string_list_all_gather([json.dumps(case) for case in self.cases])
        if not is_first_rank():
            return
        cases = sorted((json.loads(case) for case in gathered if case), key=lambda case: (case["image"], case["truth"]))
        cases = self.without_repeats(cases)
        names = case_names([case["image"] for case in cases])
        rows = []
        for case, name in zip(cases, names, strict=True):
            files = {key: case[key] for key in ("image", "truth", "prediction")}
            if self.folder is not None:
                final = self.folder / f"{name}.nii.gz"
                (self.folder / case["prediction"]).replace(final)
                files["prediction"] = Path(os.path.relpath(final, self.path.parent)).as_posix()
            for label, scores in zip(self.labels.classes, case["classes"], strict=True):
                rows.append({"case": name, "class": label, **scores, **files})
        write_table(self.path, rows)
        if not rows:
            engine.logger.warning("No test cases: %s is empty.", self.path)
            return
        table = pd.DataFrame(rows)
        means = table.groupby("class", sort=False)[[name for name in LOGGED if name in table]].mean()
        engine.logger.info("Mean over %d cases:\n%s", len(cases), means.dropna(axis=1, how="all").round(4).to_string())
        if (table["truth_size"] == 0).any():
            told = "Presence of classes; one is detected in a case where any of it is predicted; sizes in %s:\n%s"
            found = presence_scores(table).to_string(float_format="%.4g", na_rep="-")
            engine.logger.info(told, table["unit"][0], found)

    def without_repeats(self, cases: list[dict]) -> list[dict]:
        """Cases of one image and truth follow each other: the first stays, the masks of the others go."""
        kept: list[dict] = []
        for case in cases:
            if kept and all(case[key] == kept[-1][key] for key in ("image", "truth")):
                if self.folder is not None:
                    (self.folder / case["prediction"]).unlink()
            else:
                kept.append(case)
        return kept


def area(affine: np.ndarray) -> float:
    """Of a pixel of a slice, in mm2."""
    return float(np.linalg.norm(np.cross(affine[:3, 0], affine[:3, 1])))


def write_masks(path: Path, masks: np.ndarray, affine: np.ndarray, overlapping: bool) -> None:
    """Writes masks ``(C, H, W[, D])`` as one NIfTI volume."""
    if len(masks) > 1 and overlapping:
        values = np.moveaxis(masks, 0, -1).astype(np.uint8)
    else:
        values = np.zeros(masks.shape[1:], np.uint8)
        for value, one in enumerate(masks, 1):
            values[one] = value
    image = nib.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
