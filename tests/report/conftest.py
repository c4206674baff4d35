"""Synthetic runs: plausible files of a training run, made without training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

CLASSES = ("right_lung", "left_lung", "heart", "right_clavicle", "left_clavicle")
# Centre and radii (row, column) of each organ in a unit square, as an ellipse.
ORGANS = ((0.5, 0.3, 0.32, 0.15), (0.5, 0.7, 0.32, 0.15), (0.62, 0.54, 0.14, 0.13), (0.2, 0.28, 0.03, 0.16),
          (0.2, 0.72, 0.03, 0.16))  # fmt: skip


def ellipses(rng: np.random.Generator, size: int, wobble: float) -> np.ndarray:
    """One mask per organ, (C, H, W); the larger `wobble`, the further from the plain anatomy."""
    rows, columns = np.mgrid[0:size, 0:size] / size
    masks = []
    for organ in ORGANS:
        row, column, height, width = np.asarray(organ) * (1 + wobble * rng.normal(size=4))
        masks.append(((rows - row) / height) ** 2 + ((columns - column) / width) ** 2 < 1)
    return np.stack(masks)


def write_case(path: Path, rng: np.random.Generator, error: float, pseudo: bool, size: int = 96) -> None:
    """Save image, truth, prediction and, for methods that have them, pseudo-label and weight."""
    shift = np.random.default_rng(int(rng.integers(1 << 30)))
    truth = ellipses(np.random.default_rng(sum(path.stem.encode())), size, 0.03)
    seed = int(shift.integers(1 << 30))
    prediction = ellipses(np.random.default_rng(seed), size, error)
    image = 0.55 - 0.3 * truth[:2].any(0) + 0.2 * truth[2] + 0.18 * truth[3:].any(0)
    image = np.clip(image + 0.03 * rng.normal(size=(size, size)), 0, 1).astype(np.float32)
    arrays = {"image": image, "truth": truth.astype(np.uint8), "prediction": prediction.astype(np.uint8)}
    if pseudo:
        wrong = ellipses(np.random.default_rng(seed + 1), size, 1.3 * error)
        arrays["pseudo_label"] = wrong.astype(np.uint8)
        disagreement = (wrong != truth).mean(0)
        arrays["weight"] = np.clip(0.9 - 2.5 * disagreement + 0.05 * rng.normal(size=(size, size)), 0, 1)
        arrays["weight"] = arrays["weight"].astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)


def make_run(
    folder: Path,
    method: str = "RPG",
    split: int = 0,
    quality: float = 0.7,
    iterations: int = 600,
    parts: tuple[str, ...] = ("train", "validation", "test", "cases"),
    classes: tuple[str, ...] = CLASSES,
) -> Path:
    """Write a run's folder whose mean IoU ends near `quality`; `parts` are the files that it got to write."""
    rng = np.random.default_rng([split, *method.encode()])
    folder.mkdir(parents=True, exist_ok=True)
    pseudo = method != "Supervised"
    settings = {"iterations": 600, "learning_rate": 5e-4, "labeled": 3, "size": 128, "seed": split}
    settings |= {"method": {"pool": 3, "sample_size": 64, "neighbors": 7000}} if pseudo else {}
    description = {
        "method": method,
        "classes": classes,
        "mode": "multilabel",
        "split": split,
        "seconds": 754.2,
    }
    description |= {"started": "2026-01-31T12:05:00", "epoch": iterations // 50, "epochs": 12}
    (folder / "run.json").write_text(json.dumps(description | {"dataset": "phantom", "settings": settings}))
    if "train" in parts:
        train_log(rng, iterations, classes, pseudo).to_csv(folder / "train.csv", index=False)
    if "validation" in parts:
        validation_log(rng, iterations, classes, quality).to_csv(folder / "validation.csv", index=False)
    if "test" in parts:
        test_scores(rng, classes, quality).to_csv(folder / "test.csv", index=False)
    if "cases" in parts:
        for role, case, factor in (("hardest", "JPCLN012", 1.0), ("median", "JPCLN044", 0.45)):
            write_case(folder / "cases" / "test" / f"{role}_{case}.npz", rng, factor * (1 - quality) * 0.4, pseudo)
    return folder


def train_log(rng: np.random.Generator, iterations: int, classes: tuple[str, ...], pseudo: bool) -> pd.DataFrame:
    """A training log every second iteration; the truth of pseudo-labels is known at some of them only."""
    step = np.arange(2, iterations + 1, 2)
    decay = np.exp(-step / 150)
    supervised = 0.08 + 0.6 * decay * rng.lognormal(0, 0.15, len(step))
    log = {"iteration": step, "epoch": 1 + step // 50, "seconds": 1.2 * step, "learning_rate": 5e-4}
    log |= {"loss": supervised, "loss_supervised": supervised}
    if pseudo:
        unsupervised = 0.05 + 0.3 * decay * rng.lognormal(0, 0.25, len(step))
        log |= {"loss": supervised + unsupervised, "loss_pseudo": unsupervised}
        log["learning_rate"] = 5e-4 * (1 - step / (iterations + 1)) ** 0.9
        log["pseudo_accuracy"] = np.where(
            step % 10 == 0, 0.93 - 0.2 * decay + 0.01 * rng.normal(size=len(step)), np.nan
        )
        log["pixel_share"] = 0.8 - 0.5 * decay + 0.03 * rng.normal(size=len(step))
        log["weight_mean"] = 0.75 - 0.4 * decay + 0.03 * rng.normal(size=len(step))
        for index, name in enumerate(classes):
            level = 0.85 - 0.12 * index
            log[f"pseudo_iou_{name}"] = np.where(step % 10 == 0, level - 0.3 * decay, np.nan)
            log[f"weight_{name}"] = level - 0.5 * level * decay + 0.03 * rng.normal(size=len(step))
    return pd.DataFrame(log)


def validation_log(rng: np.random.Generator, iterations: int, classes: tuple[str, ...], quality: float) -> pd.DataFrame:
    """Scores after every 50 iterations, rising to about `quality`."""
    step = np.arange(50, iterations + 1, 50)
    rise = 1 - np.exp(-step / 150)
    scores = {
        name: np.clip((quality + 0.18 - 0.09 * index) * rise + 0.015 * rng.normal(size=len(step)), 0, 1)
        for index, name in enumerate(classes)
    }
    log = {"epoch": step // 50, "iteration": step, "iou_mean": np.mean(list(scores.values()), axis=0)}
    log |= {f"iou_{name}": values for name, values in scores.items()}
    dice = {name: 2 * values / (1 + values) for name, values in scores.items()}
    log["dice_mean"] = np.mean(list(dice.values()), axis=0)
    return pd.DataFrame(log | {f"dice_{name}": values for name, values in dice.items()})


def test_scores(rng: np.random.Generator, classes: tuple[str, ...], quality: float, cases: int = 20) -> pd.DataFrame:
    """One row per case and class; some clavicles are absent."""
    rows = []
    for case in range(cases):
        for index, name in enumerate(classes):
            iou = float(np.clip(quality + 0.18 - 0.09 * index + 0.06 * rng.normal(), 0, 1))
            iou = float("nan") if case == 3 and index >= 3 else iou
            rows.append({"case": f"JPCLN{case:03d}", "label": name, "iou": iou, "dice": 2 * iou / (1 + iou)})
    return pd.DataFrame(rows)


test_scores.__test__ = False


@pytest.fixture
def write_run() -> Callable[..., Path]:
    """The function that writes a synthetic run."""
    return make_run


@pytest.fixture
def classes() -> tuple[str, ...]:
    """The classes of the synthetic runs."""
    return CLASSES


@pytest.fixture
def one_run(tmp_path: Path) -> Path:
    """A complete run of RPG."""
    return make_run(tmp_path / "RPG_split0")


@pytest.fixture
def comparison(tmp_path: Path) -> Path:
    """RPG better than Supervised in every one of three splits."""
    for split in range(3):
        make_run(tmp_path / f"RPG_split{split}", "RPG", split, 0.71 + 0.01 * split)
        make_run(tmp_path / f"Supervised_split{split}", "Supervised", split, 0.63 + 0.02 * split)
    return tmp_path
