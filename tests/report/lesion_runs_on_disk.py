"""Synthetic runs of lesion segmentation: plausible files, made without training."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd

SHAPE = (40, 48, 32)
SPACING = (4.0, 4.0, 5.0)


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
    from scipy.ndimage import binary_dilation, gaussian_filter

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


def make_lesion_run(
    folder: Path,
    method: str = "Popcorn",
    seed: int = 0,
    test: list[tuple[Path, Path]] = (),
    unlabeled: list[tuple[Path, Path]] = (),
    error: float = 0.3,
    name: str | None = None,
) -> Path:
    """Write a run's folder; without `test` it was not evaluated, without `unlabeled` it made no pseudo-labels."""
    rng = np.random.default_rng([seed, *method.encode()])
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"seed": seed, "spatial dims": 3, "learning rate": 1e-4, "patch size": [64, 64, 64]}
    settings |= {"name": name} if name else {}
    description = {"method": method, "classes": ["lesion"], "mode": "multilabel", "split": 0, "settings": settings}
    description |= {"started": "2026-01-31T12:05:00", "seconds": 123.4, "epoch": 5, "epochs": 5}
    (folder / "run.json").write_text(json.dumps(description))
    step = np.arange(1, 101)
    losses = {"loss_dice": 0.2 + 0.7 * np.exp(-step / 30) * rng.lognormal(0, 0.1, 100)}
    if method != "Supervised":
        losses["loss_consistency"] = 0.1 * np.exp(-step / 50) * rng.lognormal(0, 0.2, 100)
    log = {"iteration": step, "epoch": 1 + step // 21, "seconds": 1.2 * step, "learning_rate": 1e-4}
    pd.DataFrame(log | {"loss": sum(losses.values())} | losses).to_csv(folder / "train.csv", index=False)
    if test:
        pd.DataFrame([volume_row(rng, folder, *pair, error) for pair in test]).to_csv(
            folder / "volumes.csv", index=False
        )
    if unlabeled:
        write_pseudo_labels(rng, folder / "pseudo_labels", unlabeled, error)
    return folder


def volume_row(rng: np.random.Generator, folder: Path, image: Path, label: Path, error: float) -> dict:
    truth = np.asanyarray(nibabel.load(label).dataobj) > 0
    prediction = guess(rng, truth, error)
    case = image.name.removesuffix("_flair.nii.gz")
    save(folder / "predictions" / f"{case}.nii.gz", prediction.astype(np.uint8), nibabel.load(label).affine)
    hits, ml = (truth & prediction).sum(), np.prod(SPACING) / 1000
    return {
        "case": case,
        "image": image,
        "label": label,
        "prediction": f"predictions/{case}.nii.gz",
        "dice": dice(truth, prediction),
        "precision": hits / prediction.sum() if prediction.any() else None,
        "sensitivity": hits / truth.sum() if truth.any() else None,
        "lesion_f1": float(np.clip(0.9 - error * rng.uniform(0.5, 1), 0, 1)),
        "lesion_precision": 0.8,
        "lesion_sensitivity": 0.7,
        "load_error_ml": (prediction.sum() - truth.sum()) * ml,
        "truth_ml": truth.sum() * ml,
        "predicted_ml": prediction.sum() * ml,
        "truth_lesions": 6,
        "predicted_lesions": 7,
    }


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
