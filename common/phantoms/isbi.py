"""Writes invented FLAIR images of multiple sclerosis from several scanners, in ISBI 2015's layout."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from scipy import ndimage
from tqdm import tqdm

from common.data.datalist import save_datalist
from common.data.layouts.ms import CLASSES
from common.data.volumes import save_volume
from common.phantoms import Phantom
from common.phantoms.brain import Brain, make_brain
from common.phantoms.folder import made_beside, require_at_least, require_empty
from common.phantoms.scanner import SCANNERS, scan

SMALLEST = 48  # lesions would vanish


def make_ms_phantom(
    directory: str | Path,
    labeled: int = 6,
    unlabeled: int = 12,
    test: int = 8,
    size: int = 90,
    seed: int = 0,
    scanners: int = 4,
) -> Path:
    """Write brain-extracted FLAIR volumes with lesions of 0.3 to 50 ml, and their masks.

    ========================================  ==================================================================
    ``labeled/training01/preprocessed/``      patients of the first scanner, ``training01_01_flair_pp.nii.gz``
    ``labeled/training01/masks/``             masks of two raters, ``training01_01_mask1.nii.gz`` and ``mask2``
    ``unlabeled/scan001_flair_pp.nii.gz``     patients of the other scanners
    ``truth/scan001_mask.nii.gz``             their masks, to judge pseudo-labels by
    ``test/training07/...``                   patients of all scanners, numbered on after those that are labelled
    ``phantom.csv``                           image, patient, part, scanner, lesion load in ml, number of lesions
    ========================================  ==================================================================

    The first rater's mask is the truth; the second one draws borders a little differently, misses some small lesions,
    and all images of a patient are the same for one seed.

    Args:
        directory: folder to make; it must not hold anything yet.
        labeled, unlabeled, test: numbers of patients, one volume each.
        size: voxels along y, for 180 mm; 90 for voxels of 2 mm.
        seed: the same seed gives the same patients.
        scanners: number of scanners, 1 to 4, each farther from the first than the one before.

    Raises:
        FileExistsError: when the folder holds something.
        ValueError: when a number is out of its range.
    """
    folder = require_empty(directory)
    require_at_least(seed, size=(size, SMALLEST))
    if not 1 <= scanners <= len(SCANNERS):
        raise ValueError(f"scanners must be 1 to {len(SCANNERS)}, got {scanners}.")
    if min(labeled, unlabeled, test) < 0 or labeled + unlabeled + test < 1:
        raise ValueError(f"numbers of patients must not be negative, got {labeled}, {unlabeled} and {test}.")
    others = list(range(1, scanners)) or [0]
    jobs = [("labeled", i, 0) for i in range(labeled)]
    jobs += [("unlabeled", i, others[i % len(others)]) for i in range(unlabeled)]
    jobs += [("test", labeled + i, i % scanners) for i in range(test)]  # numbered on, since they are others
    with made_beside(folder) as made:
        rows = [
            _write_patient(made, part, index, scanner, patient, size, seed)
            for patient, (part, index, scanner) in enumerate(tqdm(jobs, desc="phantoms", unit="patient", disable=None))
        ]
        with (made / "phantom.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return folder


def phantom_datalist(
    directory: str | Path, labeled: int = 2, split: int = 0, seed: int = 0, output: str | Path | None = None
) -> dict:
    """A datalist of a phantom: ``labeled`` patients of the first scanner drawn for the split, all others as they are.

    Raises:
        FileNotFoundError: when the folder is no phantom.
        ValueError: when there are fewer labelled patients than asked for.
    """
    folder = Path(directory)
    table = folder / "phantom.csv"
    if not table.is_file():
        raise FileNotFoundError(
            f"{folder} must be a phantom with phantom.csv: make one by python -m common phantom ms."
        )
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    parts = {part: [row for row in rows if row["part"] == part] for part in ("labeled", "unlabeled", "test")}
    if not 1 <= labeled <= len(parts["labeled"]):
        raise ValueError(f"labeled must be 1 to {len(parts['labeled'])}, got {labeled}: make a larger phantom.")
    order = np.random.default_rng([seed, split]).permutation(len(parts["labeled"]))
    parts["labeled"] = [parts["labeled"][i] for i in sorted(order[:labeled])]
    datalist = {"name": f"MS phantom {folder.name}", "mode": "multilabel", "classes": list(CLASSES)}
    datalist |= {"split": split, "seed": seed, "validation": []}
    for part, found in parts.items():
        key = "truth" if part == "unlabeled" else "label"
        datalist[part] = [
            {"image": str(folder / row["image"]), key: [str(folder / row["mask"])], "patient": row["patient"]}
            for row in found
        ]
    if output is not None:
        save_datalist(datalist, output)
    return datalist


def _write_patient(folder: Path, part: str, index: int, scanner: int, patient: int, size: int, seed: int) -> dict:
    brain = make_brain(seed, patient, size)
    image, affine = scan(brain, scanner, seed, patient), _affine(brain)
    if part == "unlabeled":
        name = f"scan{index + 1:03d}"
        files = {"image": f"unlabeled/{name}_flair_pp.nii.gz", "mask": f"truth/{name}_mask.nii.gz"}
    else:
        name = f"training{index + 1:02d}"
        start, name = f"{part}/{name}", f"{name}_01"
        files = {"image": f"{start}/preprocessed/{name}_flair_pp.nii.gz", "mask": f"{start}/masks/{name}_mask1.nii.gz"}
        save_volume(folder / f"{start}/masks/{name}_mask2.nii.gz", _second_rater(brain, seed, patient), affine)
    save_volume(folder / files["image"], np.round(image, 2), affine)
    save_volume(folder / files["mask"], brain.truth.astype(np.uint8), affine)
    return {
        **files,
        "patient": f"{part}{index + 1:03d}",
        "part": part,
        "scanner": scanner,
        "lesion_ml": round(brain.lesion_ml, 3),
        "lesions": ndimage.label(brain.truth, np.ones((3, 3, 3)))[1],
    }


def _second_rater(brain: Brain, seed: int, patient: int) -> np.ndarray:
    """A mask with other borders, without some of the small lesions."""
    rng = np.random.default_rng([seed, patient, 33])
    mask = brain.lesion > rng.uniform(0.3, 0.7)
    components, number = ndimage.label(mask, np.ones((3, 3, 3)))
    sizes = ndimage.sum_labels(mask, components, np.arange(1, number + 1)) * brain.voxel**3
    missed = [i + 1 for i, volume in enumerate(sizes) if volume < 60 and rng.random() < 0.3]
    return (mask & ~np.isin(components, missed)).astype(np.uint8)


def _affine(brain: Brain) -> np.ndarray:
    """RAS, in millimetres, the brain's middle at the origin."""
    affine = np.diag([brain.voxel] * 3 + [1.0])
    affine[:3, 3] = -(np.array(brain.inside.shape) - 1) / 2 * brain.voxel
    return affine


PHANTOM = Phantom(make_ms_phantom, phantom_datalist, CLASSES, "multilabel")
