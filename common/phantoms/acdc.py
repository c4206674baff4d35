"""Writes invented short-axis MRI of hearts in the layout of ACDC."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.data.layouts.acdc import CLASSES, acdc_datalist
from common.data.volumes import save_volume
from common.phantoms import Phantom
from common.phantoms.folder import made_beside, require_at_least, require_empty, sizes_of_parts
from common.phantoms.heart import FIELD, SLICE, make_frame, make_heart

SMALLEST = 48
FRAMES = {"ED": 1, "ES": 10}


def make_acdc_phantom(
    directory: str | Path, patients: int = 24, size: int = 96, slices: int = 8, seed: int = 0
) -> Path:
    """Write two frames of each patient, the ends of diastole and systole, with their label maps.

    ==================================================  ======================================================
    ``patient001/patient001_frame01.nii.gz``            the image, slices of 10 mm from base to apex
    ``patient001/patient001_frame01_gt.nii.gz``         1 right ventricle, 2 myocardium, 3 left ventricle
    ``patient001/patient001_frame10.nii.gz``, ``_gt``   the same at the end of systole
    ``patient001/Info.cfg``                             which frame is which
    ==================================================  ======================================================

    Args:
        directory: folder to make; it must not hold anything yet.
        patients: number of patients.
        size: voxels along a row and a column, for 288 mm.
        slices: number of slices.
        seed: the same seed gives the same patients.

    Raises:
        FileExistsError: when the folder holds something.
        ValueError: when a number is out of its range.
    """
    folder = require_empty(directory)
    require_at_least(seed, size=(size, SMALLEST), patients=(patients, 1), slices=(slices, 2))
    affine = np.diag([FIELD / size, FIELD / size, SLICE, 1.0])
    with made_beside(folder) as made:
        for number in tqdm(range(1, patients + 1), desc="phantoms", unit="patient", disable=None):
            patient, heart = f"patient{number:03d}", make_heart(np.random.default_rng([seed, number, 40]))
            for phase, frame in FRAMES.items():
                image, label = make_frame(heart, phase == "ES", size, slices, seed, number)
                for ending, values in (("", np.round(image)), ("_gt", label)):
                    save_volume(made / patient / f"{patient}_frame{frame:02d}{ending}.nii.gz", values, affine)
            (made / patient / "Info.cfg").write_text("".join(f"{key}: {value}\n" for key, value in FRAMES.items()))
    return folder


def phantom_datalist(
    directory: str | Path, labeled: int = 3, split: int = 0, seed: int = 0, output: str | Path | None = None
) -> dict | None:
    """A datalist of a phantom: an eighth of the patients for validation, a quarter for test.

    Raises:
        FileNotFoundError: when the folder is no phantom.
        ValueError: when there are fewer patients than asked for.
    """
    number = len([path for path in Path(directory).glob("patient*") if path.is_dir()])
    name = f"ACDC phantom {Path(directory).name}"
    return acdc_datalist(directory, labeled, split=split, seed=seed, name=name, output=output, **sizes_of_parts(number))


PHANTOM = Phantom(make_acdc_phantom, phantom_datalist, CLASSES, "multiclass")
