"""Settings of a training for some data and a machine, and why they are so."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from nibabel.affines import voxel_sizes

from common import methods
from common.batches.checks import GRANULE
from common.bundle_run import BUNDLES, bundle_command, environment
from common.data import read_image
from common.data.datalist_rules import PARTS
from common.data.files import NIFTI_SUFFIXES, file_suffix, first_few, times
from common.data.volumes import is_volume, read_volume
from common.settings import keywords

# what trains images, volumes, and volumes slice by slice, of any kind
BUNDLE = {
    "2D": BUNDLES / "jsrt_rpg",
    "3D": BUNDLES / "ms_popcorn",
    "slices": BUNDLES / "acdc_unimatch",
}
THICK = 3.0  # times as large as its other sides a voxel is along the axis of slices that are looked at one by one
TRIAL_LOG = "trial.log"
LONGEST = {"cpu": 128, "cuda": 512}  # pixels of an image's longer side
PATCH = {"cpu": 32, "cuda": 64}  # voxels of a patch's side
VOXELS = {"cpu": 128**3, "cuda": 320**3}  # of a volume
RAMP_UP = 500  # iterations, with Dice on pseudo-labels; a quarter of a shorter training
LOSS = {
    "_target_": "common.losses.Sum",
    "losses": [{"_target_": "common.losses.CrossEntropy"}, {"_target_": "common.losses.Dice"}],
    "weights": [1.0, 1.0],
}
EPOCH = 50  # iterations
SHORT = 1000  # iterations; with more, UniMatch's own threshold and the bundle's loss have been measured
TRIED = 20  # iterations that are timed, the first half to warm up
FEWEST = 4  # epochs


@dataclass(frozen=True)
class Plan:
    """Settings of a bundle's ``train.json``, and the reasons."""

    bundle: Path
    settings: dict[str, Any]
    reasons: list[str]


def plan(datalist: dict[str, Any], file: Path, method: str, minutes: float, trial: Path) -> Plan:
    """Settings for a datalist on this machine, after a short trial of how fast the method trains.

    Raises:
        ValueError: when the images are not of one kind, or too small.
        ChildProcessError: when the trial fails.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = "2D" if dimensions(datalist) == 2 else "slices" if has_thick_slices(datalist) else "3D"
    settings, reasons = {"2D": of_images, "3D": of_volumes, "slices": of_slices}[kind](datalist, device)
    settings |= {"iterations": EPOCH} | ({} if kind == "slices" else {"method#loss": LOSS})  # that bundle has it
    reasons.append("loss cross-entropy + Dice: alone, one forgets small classes, the other lets large ones spread.")
    if device == "cpu":
        demo = json.loads((BUNDLE[kind] / "configs" / "demo.json").read_text())
        settings |= {key: demo[key] for key in ("network_def#features", "learning_rate", "amp") if key in demo}
        settings |= {key: value for key, value in demo.items() if key.startswith(("optimizer", "lr_scheduler"))}
        reasons.append("small network, learning rate, no mixed precision: those of the demonstration.")
    settings |= neighbors(method)
    seconds = seconds_of_an_iteration(BUNDLE[kind], settings, file, method, trial)
    epochs = max(FEWEST, round(60 * minutes / seconds / EPOCH))
    if "method#ramp_up" in settings:
        settings["method#ramp_up"] = min(RAMP_UP, epochs * EPOCH // 4)
    if method == "UniMatch" and kind != "3D" and epochs * EPOCH < SHORT:
        settings |= {"method#threshold": 0.7, "method#unsupervised_loss": None}
        reasons.append(
            f"threshold 0.7 and cross-entropy on pseudo-labels: in fewer than {SHORT} iterations hardly anything but "
            "background is surer, and Dice unlearns what is not."
        )
    settings |= {"epochs": epochs, "val_interval": max(1, epochs // 10), "keep_last": False}
    reasons.append(
        f"epochs {epochs} of {EPOCH} iterations: {seconds:.2f} s each, so about "
        f"{epochs * EPOCH * seconds / 60:.1f} minutes for {method}."
    )
    return Plan(BUNDLE[kind], settings, reasons)


def dimensions(datalist: dict[str, Any]) -> int:
    """2 or 3.

    Raises:
        ValueError: when there are images and volumes.
    """
    kinds: dict[bool, list[str]] = {True: [], False: []}
    for part in PARTS:
        for item in datalist.get(part, []):
            volume = is_volume(item["image"])
            if volume is not None:  # what cannot be read is said when it is read
                kinds[volume].append(item["image"])
    if all(kinds.values()):
        raise ValueError(
            f"images must all be 2D or all be 3D, got {len(kinds[False])} in 2D ({first_few(kinds[False], 2)}) and "
            f"{len(kinds[True])} in 3D ({first_few(kinds[True], 2)}): take one kind out."
        )
    return 3 if kinds[True] else 2


def of_images(datalist: dict[str, Any], device: str) -> tuple[dict[str, Any], list[str]]:
    """Size and batch for 2D images."""
    shapes = [read_image(item["image"]).shape for item in datalist["labeled"]]
    width, height = (int(np.median([shape[axis] for shape in shapes])) for axis in (0, 1))
    size = image_size((width, height), LONGEST[device])
    found = f"images are {width} x {height}"
    if len(set(shapes)) > 1:
        smallest, largest = min(shapes), max(shapes)
        found = f"labelled images are {times(smallest)} to {times(largest)}, all are resized"
    reasons = [f"image_size {times(size)}: {found}, {LONGEST[device]} is for a {device}."]
    settings: dict[str, Any] = {"image_size": size}
    if device == "cuda":
        settings |= {"labeled_batch": 12, "unlabeled_batch": 12}
        reasons.append("batches of 12 labelled and 12 unlabelled images: a GPU has room for them.")
    return settings, reasons


def has_thick_slices(datalist: dict[str, Any]) -> bool:
    """Whether the labelled volumes are stacks of thick slices, or of few, along the last axis of their files."""
    headers = [header(item["image"]) for item in datalist["labeled"]]
    voxels = np.array([voxel_sizes(image.affine) for image in headers])
    few = np.array([image.shape[2] < GRANULE for image in headers])
    return bool((few | (voxels[:, 2] >= THICK * voxels[:, :2].max(axis=1))).all())


def of_slices(datalist: dict[str, Any], device: str) -> tuple[dict[str, Any], list[str]]:
    """Size and batch for slices of volumes, which are made square."""
    headers = [header(item["image"]) for item in datalist["labeled"]]
    longest = int(np.median([max(image.shape[:2]) for image in headers]))
    side = image_size((longest, longest), LONGEST[device])[0]
    thick = np.median([voxel_sizes(image.affine)[2] for image in headers])
    reasons = [
        f"bundle {BUNDLE['slices'].name}: slices are {thick:g} mm thick, {THICK:g} times a pixel or more, or fewer "
        f"than {GRANULE}, and are looked at one by one.",
        f"image_size {side} x {side}: the longer side of a slice is {longest}, {LONGEST[device]} is for a {device}.",
    ]
    batch = 12 if device == "cuda" else 6
    reasons.append(f"batches of {batch} labelled and {batch} unlabelled slices.")
    reasons.append(
        f"ramp_up {RAMP_UP}, or a quarter of the iterations: pseudo-labels come in slowly, once they show all classes."
    )
    batches = {"labeled_batch": batch, "unlabeled_batch": batch}
    return {"image_size": [side, side], **batches, "method#ramp_up": RAMP_UP}, reasons


def of_volumes(datalist: dict[str, Any], device: str) -> tuple[dict[str, Any], list[str]]:
    """Spacing, patch and batch for volumes.

    Raises:
        ValueError: when a volume is too flat for a patch.
    """
    headers = {item["image"]: shape_and_voxel(item["image"]) for part in PARTS for item in datalist.get(part, [])}
    voxels = np.array([headers[item["image"]][1] for item in datalist["labeled"]])
    spacing = np.median(voxels, axis=0)
    sides = np.array([shape * voxel for shape, voxel in headers.values()])  # in mm
    whole = float(np.median(np.prod(sides / spacing, axis=1)))
    coarser = max(1.0, (whole / VOXELS[device]) ** (1 / 3))
    spacing = [float(f"{side:.4g}") for side in spacing * coarser]  # of microscopes they are of any size
    reasons = [f"spacing {times(spacing)} mm: the median of the labelled volumes' voxels"]
    reasons[0] += f", {coarser:.2f} times as large so that a {device} copes with them." if coarser > 1 else "."
    shapes = np.floor(sides / spacing + 0.01)
    smallest = shapes.min(axis=0)
    patch = [min(PATCH[device], int(side) // GRANULE * GRANULE) for side in smallest]
    if min(patch) < GRANULE:
        flat = list(headers)[int(shapes.min(axis=1).argmin())]
        raise ValueError(
            f"volumes must have {GRANULE} voxels along each axis, got {times(shapes.min(axis=0))} at a spacing of "
            f"{times(spacing)} mm (see {flat}): give their slices as 2D images, or leave it out."
        )
    reasons.append(f"patch_size {times(patch)}: the smallest volume has {times(smallest)} voxels.")
    batch = {"labeled_batch": 4, "unlabeled_batch": 4 if device == "cuda" else 2}
    settings: dict[str, Any] = {"spacing": spacing, "patch_size": patch, **batch, "lesions": None}
    settings["train#inferer#overlap"] = 0.25
    if device == "cuda":
        settings |= {"learning_rate": 0.001, "lr_scheduler#power": 0.9}
    return settings, reasons


def shape_and_voxel(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Shape of a volume and its voxels' sides in mm, along the axes that are nearest to left-right and so on."""
    image = header(path)
    axes = nibabel.io_orientation(image.affine)[:, 0].astype(int)
    shape, voxel = np.zeros(3), np.zeros(3)
    shape[axes], voxel[axes] = image.shape[:3], voxel_sizes(image.affine)
    return shape, voxel


def header(path: str) -> nibabel.Nifti1Image:
    """A volume, of which a NIfTI file's header alone is read."""
    return nibabel.load(path) if file_suffix(path) in NIFTI_SUFFIXES else read_volume(path)


def image_size(size: tuple[int, int], longest: int) -> list[int]:
    """Width and height in the network: those of the images, not enlarged, in multiples of 16."""
    scale = min(1.0, longest / max(size))
    return [max(GRANULE, round(side * scale / GRANULE) * GRANULE) for side in size]


def neighbors(method: str) -> dict[str, Any]:
    """The paper's 7000 neighbours as a share, for methods that have them of any number of references."""
    known = keywords(getattr(methods, method))
    return {"method#neighbors": 0.57} if "reference_size" in known and known["neighbors"].default == 7000 else {}


def workers() -> int:
    """Trainings at the same time: two share a processor's cores well, and a GPU badly."""
    return 1 if torch.cuda.is_available() else min(2, os.cpu_count() or 1)


def seconds_of_an_iteration(bundle: Path, settings: dict[str, Any], file: Path, method: str, trial: Path) -> float:
    """How long an iteration takes, by a short training in a folder that is then removed."""
    short = {**settings, "epochs": 1, "iterations": TRIED, "val_interval": 2}
    command = bundle_command("training", trial, bundle, method, file, [str(bundle / "configs" / "train.json")], short)
    threads = max(1, (os.cpu_count() or 1) // workers())  # as the trainings will have
    done = subprocess.run(command, capture_output=True, text=True, env=environment(threads), check=False)
    if done.returncode != 0:
        log = trial.parents[1] / TRIAL_LOG
        log.write_text(done.stdout + done.stderr)
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ChildProcessError(f"the trial of {method} failed, see {log}: {last.removeprefix('Error: ')}")
    with (trial / "train.csv").open() as table:
        first, *_, last = csv.DictReader(table)
    return (float(last["seconds"]) - float(first["seconds"])) / (int(last["iteration"]) - int(first["iteration"]))
