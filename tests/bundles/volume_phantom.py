"""A few tiny volumes with bright spots, for runs of the 3D bundle in which what it learns does not matter."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

from common.data import save_datalist

SHAPE, AFFINE = (40, 36, 34), np.diag([2.0, 2.0, 2.0, 1.0])


def make_volume(folder: Path, name: str, seed: int, lesions: int = 4) -> dict[str, str]:
    """A ball of tissue with bright spots, and the spots' mask."""
    rng = np.random.default_rng([seed, 3])
    place = np.stack(np.meshgrid(*[np.arange(n) - n / 2 for n in SHAPE], indexing="ij"))
    brain = (place**2).sum(0) < 15**2
    mask = np.zeros(SHAPE, bool)
    for _ in range(lesions):
        centre = rng.uniform(-8, 8, 3)[:, None, None, None]
        mask |= ((place - centre) ** 2).sum(0) < rng.uniform(1.5, 3) ** 2
    image = 100 + 10 * ndimage.gaussian_filter(rng.normal(size=SHAPE), 2) + 60 * mask + 5 * rng.normal(size=SHAPE)
    files = {"image": folder / f"{name}_flair.nii.gz", "label": folder / f"{name}_mask.nii.gz"}
    folder.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image((image * brain).astype(np.float32), AFFINE), files["image"])
    nibabel.save(nibabel.Nifti1Image(mask.astype(np.uint8), AFFINE), files["label"])
    return {key: str(path) for key, path in files.items()}


def make_ms_data(folder: Path) -> Path:
    """A data set with a datalist: 2 labelled, 4 unlabelled (with their truth), 1 validation and 2 test volumes."""
    parts: dict[str, list[dict]] = {"labeled": [], "unlabeled": [], "validation": [], "test": []}
    for part, number in (("labeled", 2), ("unlabeled", 4), ("validation", 1), ("test", 2)):
        for index in range(number):
            patient = f"{part}{index}"
            files = make_volume(folder, patient, len(patient) * 10 + index, lesions=0 if patient == "test1" else 4)
            key = "truth" if part == "unlabeled" else "label"
            parts[part].append({"image": files["image"], key: [files["label"]], "patient": patient})
    content = {"name": "balls", "mode": "multilabel", "classes": ["lesion"], "split": 0, "seed": 0, **parts}
    save_datalist(content, folder / "datalist.json")
    return folder
