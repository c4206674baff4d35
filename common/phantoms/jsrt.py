"""Invented chest radiographs in JSRT's own layout, for demonstrations and tests without patient data."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from common.data.layouts.jsrt import CLASSES, jsrt_datalist
from common.phantoms import Phantom
from common.phantoms.anatomy import Anatomy, draw_pose
from common.phantoms.canvas import Canvas
from common.phantoms.chest import Chest
from common.phantoms.exposure import Exposure
from common.phantoms.findings import Findings
from common.phantoms.fine import FINE_CLASSES, fine_masks
from common.phantoms.folder import made_beside

SMALLEST, LARGEST = 64, 4096
_NODULE_SHARE = 154 / 247  # of JSRT's patients
_WHITE = 4095  # 12 bits


@dataclass(frozen=True)
class PhantomPatient:
    """Patient `index` of a seed: JSRT name, whether there is a nodule, and the site that took the picture."""

    index: int
    name: str
    nodule: bool
    number: int
    site: str


def describe_patient(seed: int, patient: int, site_shift: float = 1.0) -> PhantomPatient:
    """Name and site of patient `patient` (0, 1, ...), whatever the number of patients.

    Patients come in pairs of one kind (with a nodule JPCLN, without JPCNN), one number odd and one even, so
    that the halves that papers split by odd and even numbers stay equal. Kinds mix as in JSRT, 154 to 93.
    """
    pair = patient // 2
    with_nodule = [int(np.ceil(j * _NODULE_SHARE)) for j in (pair, pair + 1)]
    nodule = with_nodule[1] > with_nodule[0]
    before = with_nodule[0] if nodule else pair - with_nodule[0]
    number = 2 * before + 1 + patient % 2
    name = f"{'JPCLN' if nodule else 'JPCNN'}{number:03d}"
    return PhantomPatient(patient, name, nodule, number, _exposure(seed, patient, site_shift).site)


def _exposure(seed: int, patient: int, site_shift: float) -> Exposure:
    return Exposure.draw(np.random.default_rng([seed, patient, 0]), site_shift)


def render_patient(
    seed: int,
    patient: int,
    size: int = 128,
    *,
    site_shift: float = 1.0,
    anatomy_variation: float = 1.0,
    fine: bool = False,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """One patient's radiograph and masks, the same at every call and (but for the pixels) at every size.

    Attenuations of the body's parts are summed along the ray, exposed, scattered, blurred, made noisy and
    turned into grey values by the patient's site: "digital" (sharp, wide latitude) or "film" (soft, grainy,
    steep, another field of view, collimated).

    Args:
        seed: of the whole set, 0 or more.
        patient: index in the set, 0 or more.
        size: pixels per side, 64 to 4096.
        site_shift: how far the two sites differ; 0 = alike, 1 = as they are meant to.
        anatomy_variation: spread of sizes, pose and disease between patients; 0 = one body for all.
        fine: give the masks of the fine classes too (see `common.phantoms.fine`); the image is the same.

    Returns:
        image (H, W) float32 in 0..1, dense tissue bright; masks {organ: (H, W) bool} in `CLASSES` order, the fine
        ones behind them. The patient's right is on the image's left. Lung and clavicle masks overlap.

    Raises:
        ValueError: for a size, seed or index out of range.
    """
    _check_number("size", size, SMALLEST, LARGEST)
    _check_number("seed", seed, 0, 2**63)
    _check_number("patient", patient, 0, 2**31)
    _check_strengths(site_shift, anatomy_variation)
    # one stream of random numbers per part: a change to one leaves the others as they were
    shape_rng, finding_rng, detail_rng, picture_rng, noise_rng = (
        np.random.default_rng([seed, patient, part]) for part in range(1, 6)
    )
    exposure = _exposure(seed, patient, site_shift)
    anatomy = Anatomy.draw(shape_rng, anatomy_variation)
    pose = draw_pose(shape_rng, anatomy_variation, exposure.setting["zoom"], exposure.setting["wander"])
    findings = Findings.draw(finding_rng, anatomy, describe_patient(seed, patient).nodule, anatomy_variation)
    chest = Chest(anatomy, findings, Canvas(size, pose), detail_rng)
    annotated = np.any(list(chest.masks.values()), axis=0)
    image = exposure.picture(chest.attenuation, annotated, picture_rng, noise_rng)
    masks = {organ: chest.masks[organ] for organ in CLASSES}
    return image, masks | fine_masks(chest, exposure.window) if fine else masks


def make_jsrt_phantom(
    directory: str | os.PathLike,
    patients: int = 40,
    size: int = 128,
    seed: int = 0,
    site_shift: float = 1.0,
    anatomy_variation: float = 1.0,
    fine: bool = False,
) -> Path:
    """Write invented radiographs as JSRT and SCR are distributed, and return the folder.

    `All247images/<name>.IMG`: size x size, unsigned 16 bit, big-endian, no header, 0..4095, high = dark.
    `scratch/fold1|fold2/masks/<organ>/<name>.gif`: 0/255; odd numbers in fold1, even numbers in fold2.
    `fine/<class>/<name>.png`, where `fine` is asked for: 0/255, one folder for each of the fine classes, the
    clavicles among them.
    `phantom.csv`: name, index, site and nodule of each patient, which the readers do not need.

    The folder must be new or empty. Everything is written beside it and renamed at the end, so that a stopped
    call leaves nothing half-written.

    Args: as `render_patient`; patients: 2 to 1000; fine: write the masks of the fine classes too.

    Raises:
        ValueError: for a number out of range.
        FileExistsError: where the folder holds something already.
    """
    _check_number("patients", patients, 2, 1000)
    _check_number("size", size, SMALLEST, LARGEST)
    _check_number("seed", seed, 0, 2**63)
    _check_strengths(site_shift, anatomy_variation)
    target = Path(directory).expanduser().absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} must be a new or an empty folder, and it is not; choose another or remove it")
    with made_beside(target) as made:
        rows = []
        for index in tqdm(range(patients), desc=f"phantoms, {size} x {size}", unit="patient"):
            patient = describe_patient(seed, index, site_shift)
            image, masks = render_patient(
                seed, index, size, site_shift=site_shift, anatomy_variation=anatomy_variation, fine=fine
            )
            _write_patient(made, patient, image, masks)
            rows.append([patient.name, index, patient.site, int(patient.nodule)])
        with (made / "phantom.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["patient", "index", "site", "nodule"], *rows])
    return target


def _write_patient(folder: Path, patient: PhantomPatient, image: np.ndarray, masks: dict[str, np.ndarray]) -> None:
    raw = np.round((1.0 - image) * _WHITE).astype(">u2")
    path = folder / "All247images" / f"{patient.name}.IMG"
    path.parent.mkdir(parents=True, exist_ok=True)
    raw.tofile(path)
    fold = "fold1" if patient.number % 2 else "fold2"
    scratch = folder / "scratch" / fold / "masks"
    paths = [(organ, scratch / organ.replace("_", " ") / f"{patient.name}.gif") for organ in CLASSES]
    if len(masks) > len(CLASSES):
        paths += [(name, folder / "fine" / name / f"{patient.name}.png") for name in FINE_CLASSES]
    for name, path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(masks[name].astype(np.uint8) * 255).save(path)


def _check_number(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, got {value!r}")


def _check_strengths(site_shift: float, anatomy_variation: float) -> None:
    for name, value in (("site_shift", site_shift), ("anatomy_variation", anatomy_variation)):
        if not isinstance(value, (int, float, np.number)) or not 0.0 <= value <= 2.0:
            raise ValueError(f"{name} must be between 0 and 2, got {value!r}; 1 is the default strength")


PHANTOM = Phantom(make_jsrt_phantom, jsrt_datalist, CLASSES, "multilabel")
