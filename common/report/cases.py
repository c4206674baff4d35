"""The saved cases of one run, or of several side by side, drawn as overlays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from .reading import read_arrays
from .runs import Run
from .style import WEIGHT_COLORMAP, class_colors, encode
from .text import number

OTHER = "other"  # saved to stand beside another method's hardest and median case alone
ROLES = ("hardest", "median", OTHER)
KINDS = {"prediction": "Prediction", "pseudo_label": "Pseudo-label", "weight": "Weight"}
MAXIMUM_CASES = 6
FILL = 0.30
PANEL_PIXELS = 400


@dataclass(frozen=True)
class Case:
    """One saved case.

    Shapes: image and weight (H, W) in 0..1; masks (C, H, W) of booleans, C in the order of the run's classes. `place`
    is the slice's number in its stack, from 1.
    """

    part: str
    role: str
    name: str
    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    pseudo_label: np.ndarray | None
    weight: np.ndarray | None
    place: int | None = None


def load_cases(run: Run, others: bool = True) -> list[Case]:
    """The run's cases of the test part, or of the validation part where there are none; hardest first."""
    roles = ROLES if others else ROLES[:-1]
    for part in ("test", "validation"):
        files = [path for path in (run.folder / "cases" / part).glob("*_*.npz") if _role(path) in roles]
        if files:
            files.sort(key=lambda path: (roles.index(_role(path)), path.name))
            return [_load(path, part, len(run.classes)) for path in files]
    return []


def _role(path: Path) -> str:
    return path.stem.split("_", 1)[0]


def _load(path: Path, part: str, classes: int) -> Case:
    arrays = read_arrays(path, ("image", "truth", "prediction"))
    image = arrays["image"]
    if image.ndim != 2:
        raise ValueError(f"{path}: image must have the shape (H, W), got {image.shape}")
    masks = ("truth", "prediction", "pseudo_label")
    for key, shape in {**dict.fromkeys(masks, (classes, *image.shape)), "weight": image.shape}.items():
        if key in arrays and arrays[key].shape != shape:
            raise ValueError(f"{path}: {key} must have the shape {shape}, got {arrays[key].shape}")
    role, name = path.stem.split("_", 1)
    truth, prediction, pseudo_label = (arrays[key] > 0 if key in arrays else None for key in masks)
    place = int(arrays["slice"]) if "slice" in arrays else None
    return Case(part, role, name, image, truth, prediction, pseudo_label, arrays.get("weight"), place)


def case_scores(case: Case, run: Run) -> dict[str, float]:
    """IoU per class of one case: from test.csv where it lists the case, otherwise of the drawn masks."""
    if case.part == "test" and run.test is not None:
        rows = run.test[run.test["case"] == case.name].set_index("class")["iou"]
        if set(rows.index) == set(run.classes):
            return {name: float(rows[name]) for name in run.classes}
    return {name: mask_iou(case.truth[i], case.prediction[i]) for i, name in enumerate(run.classes)}


def mask_iou(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Intersection over union of two masks, NaN if both are empty."""
    union = np.logical_or(truth, prediction).sum()
    return float(np.logical_and(truth, prediction).sum() / union) if union else float("nan")


def draw_masks(image: np.ndarray, masks: Sequence[np.ndarray] = (), colors: Sequence[str] = ()) -> str:
    """Masks over the grey image: translucent areas with solid outlines, so that overlapping classes all show."""
    canvas = np.repeat(np.clip(np.nan_to_num(image.astype(float)), 0, 1)[..., None], 3, axis=-1)
    # Large classes first: a small one lying inside them is then painted last and keeps its colour.
    order = sorted(range(len(masks)), key=lambda index: -int(masks[index].sum()))
    for index in order:
        area = masks[index][..., None]
        canvas = np.where(area, (1 - FILL) * canvas + FILL * np.asarray(to_rgb(colors[index])), canvas)
    return _panel(canvas, [(masks[index], colors[index]) for index in order])


def weight_ceiling(cases: Iterable[Case]) -> float:
    """The end of the weights' colour scale, one for the whole report so that maps compare: a round number."""
    highest = [float(np.quantile(case.weight, 0.995)) for case in cases if case.weight is not None]
    return next(end for end in (0.05, 0.1, 0.2, 0.5, 1.0) if end >= min(max(highest, default=1.0), 1.0))


def draw_weight(weight: np.ndarray, ceiling: float = 1.0) -> str:
    """The weight of every pixel on the scale 0..ceiling."""
    return _panel(matplotlib.colormaps[WEIGHT_COLORMAP](np.clip(weight / ceiling, 0, 1))[..., :3])


def _panel(picture: np.ndarray, outlines: Sequence[tuple[np.ndarray, str]] = ()) -> str:
    height, width = picture.shape[:2]
    scale = PANEL_PIXELS / max(height, width) / 100
    figure = Figure(figsize=(width * scale, height * scale), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(picture, interpolation="bilinear", aspect="auto")
    for mask, color in outlines:
        if mask.any() and not mask.all():
            # A border of zeros closes the outline of a mask that touches the edge of the image.
            padded = np.pad(mask.astype(float), 1)
            rows, columns = np.arange(-1, height + 1), np.arange(-1, width + 1)
            axes.contour(columns, rows, padded, levels=[0.5], colors=[color], linewidths=2)
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    axes.set_axis_off()
    return encode(figure, dpi=100)


def case_rows(runs: Sequence[Run]) -> dict[str, Any]:
    """The same cases for all names, at most `MAXIMUM_CASES`, preferring those that most names saved.

    `cases` has a row of panels and scores for each, `ceiling` ends the scale of the weights, if any is shown.
    """
    names = list(dict.fromkeys(run.name for run in runs))
    saved: dict[tuple, dict[str, tuple[Case, Run]]] = {}
    for run in runs:
        for case in load_cases(run, others=len(names) > 1):
            saved.setdefault((run.draw, case.part, case.name), {})[run.name] = (case, run)
    chosen = [key for key, found in saved.items() if any(case.role != OTHER for case, _ in found.values())]
    keys = sorted(chosen, key=lambda key: (key[1] != "test", -len(saved[key])))
    keys = sorted(keys[:MAXIMUM_CASES], key=lambda key: key[0])
    shown = [case for key in keys for case, _ in saved[key].values()]
    ceiling = weight_ceiling(shown)
    columns = [(name, "prediction") for name in names]
    columns += [
        (name, kind)
        for name in names
        for kind in ("pseudo_label", "weight")
        if any(name in saved[key] and getattr(saved[key][name][0], kind) is not None for key in keys)
    ]
    return {
        "cases": [_row(key, saved[key], columns, ceiling) for key in keys],
        "ceiling": ceiling if any(case.weight is not None for case in shown) else None,
    }


def _row(key: tuple, found: dict[str, tuple[Case, Run]], columns: list[tuple[str, str]], ceiling: float) -> dict:
    (split, seed), part, name = key
    several = len(dict(columns)) > 1
    first, run = next(iter(found.values()))
    shades = list(class_colors(run.classes).values())
    panels = [("Image", "", draw_masks(first.image)), ("Truth", "", draw_masks(first.image, first.truth, shades))]
    for method, kind in columns:
        title = KINDS[kind] if not several else method if kind == "prediction" else f"{KINDS[kind]} of {method}"
        case = found[method][0] if method in found else None
        panels.append((title, "", _draw(case, kind, shades, ceiling)))
    roles = [f"{case.role} of {method}" if several else case.role for method, (case, _) in found.items()]
    facts = [f"{part} case of split {split}" + (f", seed {seed}" if seed else "")]
    facts += [role for role in roles if not role.startswith(OTHER)]
    facts += [f"slice {first.place}, which holds most of the truth"] if first.place is not None else []
    scores = []
    for method in (name for name in dict(columns) if name in found):
        values = pd.Series(case_scores(*found[method]))
        texts = ["absent" if value != value else number(value) for value in values]
        scores.append((method, [number(values.mean()), *texts]))
    return {"name": name, "facts": "; ".join(facts), "panels": panels, "scores": scores}


def _draw(case: Case | None, kind: str, shades: list[str], ceiling: float) -> str | None:
    values = None if case is None else getattr(case, kind)
    if values is None:
        return None
    return draw_weight(values, ceiling) if kind == "weight" else draw_masks(case.image, values, shades)
