"""ACDC's short-axis cardiac MRI (Bernard et al. 2018) as the challenge distributes it, and its datalists."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from numbers import Integral
from pathlib import Path

import numpy as np

from common.data.datalist import written
from common.data.files import first_few
from common.data.layouts.by_patient import datalist_by_patient
from common.data.splits import check_numbers

CLASSES = ("right_ventricle", "myocardium", "left_ventricle")
_VOLUME = re.compile(r"(patient\d+)_frame\d+(_gt)?\.nii(\.gz)?$", re.IGNORECASE)
# The parts of the 100 training patients that the literature on few labels shares (Luo et al., SSL4MIS).
PUBLISHED_LABELED = {1: (99,), 3: (38, 50, 99), 7: (21, 38, 49, 50, 58, 99, 100)}
PUBLISHED_VALIDATION = (2, 19, 28, 30, 39, 45, 78, 82, 85, 87)
PUBLISHED_TEST = (1, 7, 8, 11, 13, 22, 24, 33, 52, 59, 64, 65, 66, 68, 75, 80, 81, 83, 84, 93)


def acdc_datalist(
    folder: str | Path,
    labeled: int = 3,
    validation: int = 10,
    test: str | Path | int | None = 20,
    split: int = 0,
    seed: int = 0,
    published: bool = False,
    name: str = "acdc",
    output: str | Path | None = None,
) -> dict | None:
    """Make a datalist of ACDC's volumes, patientNNN_frameFF.nii.gz with patientNNN_frameFF_gt.nii.gz beside it.

    Every part holds both frames of its patients.

    Args:
        folder: folder of the patients' folders (the challenge's training, say), at any depth.
        labeled: number of labelled patients; 1 is among 2 and those among 3 of the same split.
        validation: number of validation patients.
        test: number of test patients, the same ones for every number of labelled patients; or another folder of the
            layout (the challenge's testing).
        split: index of the split.
        seed: seed of the draw.
        published: take the patients that published work labels (1, 3 or 7), validates on (10) and tests on (20); where
            the folder lacks some of the test's, as many as `test` says are drawn from the unlabelled ones instead.
        name: the data set's name.
        output: JSON file to write; a summary is printed. Without it the datalist is returned.

    Raises:
        FileNotFoundError: when the folder is missing or holds no volumes.
        ValueError: when a mask is missing, or the request cannot be met.
    """
    space = {"name": name, "mode": "multiclass", "classes": list(CLASSES)}
    draw = {"labeled": labeled, "validation": validation, "split": split, "seed": seed}
    parts = partial(published_parts, labeled=labeled, test=test, split=split, seed=seed) if published else None
    return written(datalist_by_patient(find_acdc, folder, test, space, parts=parts, **draw), output)


def find_acdc(folder: str | Path) -> list[dict]:
    """All volumes below a folder: items with 'image', 'patient' and, where there is one, 'label', sorted by name.

    Raises:
        FileNotFoundError: when the folder is missing or holds no volumes.
        ValueError: when a volume is there twice, or a mask lacks its volume.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} must be the folder of ACDC's patients, got no such folder.")
    images, masks = {}, {}
    for path in sorted(folder.rglob("*.nii*")):
        match = _VOLUME.match(path.name)
        if not match or path.is_dir():  # some tools unpack a volume into a folder of its name
            continue
        known, stem = (masks, images)[match[2] is None], path.name.lower().split(".nii")[0].removesuffix("_gt")
        if stem in known:
            raise ValueError(f"{folder} must hold each volume once, got {known[stem]} and {path}: keep one of them.")
        known[stem] = path
    if not images:
        raise FileNotFoundError(
            f"{folder} must hold volumes named patient001_frame01.nii.gz, got none. Slices as PNG or h5 are made into "
            "such volumes by `python -m common convert acdc SLICES FOLDER`."
        )
    orphans = sorted(set(masks) - set(images))
    if orphans:
        raise ValueError(f"{folder}: each mask must have its volume beside it, got none for {first_few(orphans)}.")
    return [
        {"image": str(path), "patient": stem.split("_")[0]} | ({"label": str(masks[stem])} if stem in masks else {})
        for stem, path in sorted(images.items())
    ]


def published_parts(
    names: Sequence[str], labeled: int, test: str | Path | int | None, split: int, seed: int
) -> Mapping[str, list[str]]:
    """The patients of each part as published work has them.

    Raises:
        ValueError: when there is no published list of so many labelled patients, or patients are missing.
    """
    if labeled not in PUBLISHED_LABELED:
        known = ", ".join(map(str, PUBLISHED_LABELED))
        raise ValueError(f"labeled must be one of {known} for the published lists, got {labeled}.")
    numbers = {int(name.removeprefix("patient")): name for name in names}
    needed = (*PUBLISHED_LABELED[labeled], *PUBLISHED_VALIDATION)
    missing = [f"patient{number:03d}" for number in needed if number not in numbers]
    if missing:
        raise ValueError(f"the published lists need patients that are not there: {first_few(missing)}.")
    rest = [name for number, name in numbers.items() if number <= 100 and number not in (*needed, *PUBLISHED_TEST)]
    tested = [numbers[number] for number in PUBLISHED_TEST if number in numbers]
    if isinstance(test, Integral) and len(tested) < len(PUBLISHED_TEST):
        check_numbers(test=(test, 0), split=(split, 0), seed=(seed, 0))
        free = sorted(set(rest) - {f"patient{number:03d}" for number in PUBLISHED_LABELED[7]})
        if test > len(free):
            raise ValueError(f"test must be at most {len(free)}, the patients that are left for it, got {test}.")
        # the same ones for every number of labelled patients
        order = np.random.default_rng([seed, split]).permutation(len(free))
        tested = sorted(free[index] for index in order[:test])
    elif test is not None and not isinstance(test, Integral):
        tested = []  # they are elsewhere
    elif test is not None and test != len(tested):
        raise ValueError(f"test must be {len(tested)}, the published test patients, which are all there, got {test}.")
    return {
        "labeled": [numbers[number] for number in PUBLISHED_LABELED[labeled]],
        "unlabeled": [name for name in rest if name not in tested],
        "validation": [numbers[number] for number in PUBLISHED_VALIDATION],
        "test": tested,
    }
