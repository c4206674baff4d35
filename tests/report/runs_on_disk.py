"""Synthetic runs: plausible files of a training run, of images or of volumes, made without training."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import binary_dilation, gaussian_filter

CLASSES = ("right_lung", "left_lung", "heart", "right_clavicle", "left_clavicle")
SHAPE = (40, 48, 32)
SPACING = (4.0, 4.0, 5.0)
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
    **description: object,
) -> Path:
    """Write a run's folder whose mean IoU ends near `quality`; `parts` are the files that it got to write."""
    rng = np.random.default_rng([split, *method.encode()])
    folder.mkdir(parents=True, exist_ok=True)
    pseudo = method != "Supervised"
    settings = {"iterations": 600, "learning_rate": 5e-4, "labeled": 3, "size": 128}
    settings |= {"method": {"pool": 3, "sample_size": 64, "neighbors": 7000}} if pseudo else {}
    description = {"method": method, "classes": classes, "mode": "multilabel", "split": split} | description
    description |= {"seconds": 754.2, "started": "2026-01-31T12:05:00", "epoch": iterations // 50, "epochs": 12}
    (folder / "run.json").write_text(json.dumps(description | {"dataset": "phantom", "settings": settings}))
    if "train" in parts:
        train_log(rng, iterations, classes, pseudo).to_csv(folder / "train.csv", index=False)
    if "validation" in parts:
        validation_log(rng, iterations, classes, quality).to_csv(folder / "validation.csv", index=False)
    if "test" in parts:
        image_scores(rng, classes, quality).to_csv(folder / "test.csv", index=False)
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


def image_scores(rng: np.random.Generator, classes: tuple[str, ...], quality: float, cases: int = 20) -> pd.DataFrame:
    """One row per case and class; some clavicles are absent."""
    rows = []
    for case in range(cases):
        for index, name in enumerate(classes):
            iou = float(np.clip(quality + 0.18 - 0.09 * index + 0.06 * rng.normal(), 0, 1))
            iou = float("nan") if case == 3 and index >= 3 else iou
            rows.append({"case": f"JPCLN{case:03d}", "class": name, "iou": iou, "dice": 2 * iou / (1 + iou)})
    return pd.DataFrame(rows)


def affine(spacing: tuple[float, ...] = SPACING) -> np.ndarray:
    """RAS with the origin in the middle."""
    matrix = np.diag([*spacing, 1.0])
    matrix[:3, 3] = -0.5 * np.asarray(SHAPE) * SPACING
    return matrix


def head(rng: np.random.Generator, lesions: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """An ellipsoid brain with dark ventricles and bright lesions around them: image and truth."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, size) for size in SHAPE), indexing="ij", sparse=True)
    brain = (x / 0.85) ** 2 + (y / 0.92) ** 2 + (z / 0.88) ** 2 < 1
    ventricles = ((np.abs(x) - 0.16) / 0.1) ** 2 + (y / 0.35) ** 2 + ((z - 0.1) / 0.25) ** 2 < 1
    truth = np.zeros(SHAPE, bool)
    for _ in range(lesions):
        centre = np.array([rng.choice([-1, 1]) * rng.uniform(0.3, 0.5), rng.uniform(-0.5, 0.5), rng.uniform(-0.2, 0.4)])
        radius = rng.uniform(0.09, 0.17)
        truth |= ((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2) < radius**2
    truth &= brain & ~ventricles
    image = 100.0 * brain - 70 * ventricles + 70 * truth + 6 * rng.normal(size=SHAPE) * brain
    return np.clip(image, 0, None).astype(np.float32), truth


def guess(rng: np.random.Generator, truth: np.ndarray, error: float) -> np.ndarray:
    """A prediction that misses and adds lesion voxels, more of both with a larger `error`."""
    noise = gaussian_filter(rng.normal(size=truth.shape), 1.2)
    noise /= noise.std()
    return (truth & (noise > -2 + 2 * error)) | (binary_dilation(truth, iterations=2) & (noise > 2.6 - 2 * error))


def save(path: Path, values: np.ndarray, matrix: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine() if matrix is None else matrix), path)
    return path


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def make_images(folder: Path, number: int, seed: int = 0) -> list[tuple[Path, Path]]:
    """Images with their truths."""
    pairs = []
    for index in range(number):
        image, truth = head(np.random.default_rng([seed, index]))
        pairs.append(
            (
                save(folder / f"subject{index:02d}_flair.nii.gz", image),
                save(folder / f"subject{index:02d}_mask.nii.gz", truth.astype(np.uint8)),
            )
        )
    return pairs


def make_volume_run(
    folder: Path,
    method: str = "Popcorn",
    seed: int = 0,
    test: list[tuple[Path, Path]] = (),
    unlabeled: list[tuple[Path, Path]] = (),
    error: float = 0.3,
    **description: object,
) -> Path:
    """Write a run on volumes; without `test` it was not evaluated, without `unlabeled` it made no pseudo-labels."""
    make_run(folder, method, parts=("train",), **({"classes": ("lesion",), "seed": seed} | description))
    rng = np.random.default_rng([seed, *method.encode()])
    if test:
        pd.DataFrame([volume_row(rng, folder, *pair, error) for pair in test]).to_csv(folder / "test.csv", index=False)
    if unlabeled:
        write_pseudo_labels(rng, folder / "pseudo_labels", unlabeled, error)
    return folder


def volume_row(rng: np.random.Generator, folder: Path, image: Path, label: Path, error: float) -> dict:
    truth = np.asanyarray(nibabel.load(label).dataobj) > 0
    prediction = guess(rng, truth, error)
    case = image.name.removesuffix("_flair.nii.gz")
    save(folder / "predictions" / f"{case}.nii.gz", prediction.astype(np.uint8), nibabel.load(label).affine)
    hits, ml = (truth & prediction).sum(), np.prod(SPACING) / 1000
    scores = {
        "dice": dice(truth, prediction),
        "iou": hits / (truth | prediction).sum(),
        "precision": hits / prediction.sum(),
    }
    scores |= {
        "sensitivity": hits / truth.sum(),
        "hausdorff95": 12 * error,
        "surface_dice": 0.7,
        "lesion_f1": 0.9 - error,
    }
    sizes = {"truth_size": truth.sum() * ml, "predicted_size": prediction.sum() * ml, "unit": "ml"}
    counts = {"truth_lesions": 6, "predicted_lesions": 7}
    files = {"image": image, "truth": label, "prediction": f"predictions/{case}.nii.gz"}
    return {"case": case, "class": "lesion"} | scores | sizes | counts | files


def write_pseudo_labels(
    rng: np.random.Generator, folder: Path, unlabeled: list[tuple[Path, Path]], error: float
) -> None:
    """All but the last two images join, two at each step; the last is set aside, the one before never joins."""
    images, last = [], len(unlabeled) - 2
    spread = np.linspace(0.5, 4, len(unlabeled))[:, None] * rng.normal(size=(len(unlabeled), 16)) / 4
    for index, (image, label) in enumerate(unlabeled[:last]):
        truth = np.asanyarray(nibabel.load(label).dataobj) > 0
        mask = guess(rng, truth, error + 0.03 * index)
        step, name = 1 + index // 2, image.name.removesuffix(".nii.gz")
        save(folder / f"{name}_step{step:02d}.nii.gz", mask.astype(np.uint8), nibabel.load(label).affine)
        known = index % 4 != 3
        images.append(
            {
                "image": str(image),
                "step": step,
                "score": 3.0 + index,
                "neighbors": [{"image": str(unlabeled[0][0]), "distance": 1.0 + index}],
                "checkpoint": f"step{step:02d}.pt",
                "label": f"{name}_step{step:02d}.nii.gz",
                "lesion_ml": float(mask.sum() * np.prod(SPACING) / 1000),
                "dice": dice(mask, truth) if known else None,
                "truth": str(label) if known else None,
            }
        )
    aside = [{"image": str(unlabeled[-1][0]), "reason": "the pseudo-label is empty"}]
    (folder / "manifest.json").write_text(json.dumps({"images": images, "set_aside": aside}))
    labeled = rng.normal(size=(3, 16)) * 0.2
    steps = [0, 0, 0, *(entry["step"] for entry in images), -1, -1]
    names = ["a.nii.gz", "b.nii.gz", "c.nii.gz", *(str(image) for image, _ in unlabeled)]
    latents = np.concatenate([labeled, spread]).astype(np.float32)
    np.savez(folder / "latents.npz", latents=latents, images=np.array(names), steps=np.array(steps))


def pixels(address: str) -> np.ndarray:
    """A picture of a page as values (H, W, 3) in 0..1."""
    data = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=float) / 255
