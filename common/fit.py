"""From a folder of images to a model that is compared with the labels alone: ``python -m common fit``."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import methods
from common.bundle_run import BUNDLE, bundle_command
from common.compare import compare
from common.data import folder_datalist, load_datalist, read_image, save_datalist
from common.data.check import require_sound_datalist
from common.data.datalist import summarize_datalist
from common.files import replacing
from common.settings import keywords

DATALIST, PLAN = "datalist.json", "plan.json"
GRANULE = 16  # the down-scaling of the network
LONGEST = {"cpu": 128, "cuda": 512}  # pixels of an image's longer side
EPOCH = 50  # iterations
TRIED = 20  # iterations that are timed, the first half to warm up
FEWEST = 4  # epochs


@dataclass(frozen=True)
class Plan:
    """Settings of ``train.json`` for some data and a machine, and why they are so."""

    settings: dict[str, Any]
    reasons: list[str]


def fit(
    images: str | Path,
    output: str | Path,
    data: dict[str, Any],
    method: str = "UniMatch",
    minutes: float = 20.0,
    resume: bool = False,
) -> Path:
    """Trains a method, and the labels alone beside it, for the same number of iterations, and compares the two.

    Args:
        images: folder of the annotated images.
        output: folder of the result; gets ``datalist.json``, ``plan.json``, ``results.csv``, ``report.html`` and a
            folder for each run, which is a bundle.
        data: further keywords of :func:`~common.data.folder_datalist`.
        method: name of the method in ``common.methods``.
        minutes: about how long each training may take.
        resume: go on in a folder that was stopped, with its datalist and plan, which may have been edited.

    Returns:
        Path of the report.

    Raises:
        ValueError: when the data is not sound, a name is unknown, or the folder holds something already.
        RuntimeError: when a training fails; the message names its log.
    """
    if method not in methods.__all__ or method == "Step":
        raise ValueError(f"method must be one of {', '.join(methods.__all__)}, got {method}.")
    if minutes <= 0:
        raise ValueError(f"minutes must be above 0, got {minutes}.")
    folder = Path(output)
    if not resume and folder.exists() and any(folder.iterdir()):
        raise ValueError(f"output must be a new folder, got {folder}, which holds files: give another, or --resume.")
    file = folder / DATALIST
    if not file.exists():
        made = folder_datalist(images, **data)
        require_sound_datalist(made)
        save_datalist(made, file)
    datalist = load_datalist(file)
    print(summarize_datalist(datalist))
    names = ["Supervised"] if method == "Supervised" or not datalist["unlabeled"] else ["Supervised", method]
    if len(names) == 1 and method != "Supervised":
        print(f"There are no unlabelled images, from which {method} would learn: the labels alone are trained on.")
    if not (folder / PLAN).exists():
        made = plan(datalist, file, names[-1], minutes, folder / "trial")
        with replacing(folder / PLAN) as temporary:
            temporary.write_text(json.dumps(made.settings, indent=4) + "\n")
        print("\n".join(f"  {reason}" for reason in made.reasons))
    print(f"Settings: {folder / PLAN}")
    report = compare(folder, [file], names, f"train.json,{(folder / PLAN).resolve()}", workers=workers())
    run = folder / f"{names[-1].lower()}_{file.stem}"
    print(
        f"Model:   {run}, a bundle. It segments a folder of new images by\n"
        f"  python -m monai.bundle run inferring --config_file {run}/configs/inference.json --bundle_root {run} "
        f"--dataset_dir IMAGES --output_dir MASKS"
    )
    return report


def plan(datalist: dict[str, Any], file: Path, method: str, minutes: float, trial: Path) -> Plan:
    """Settings for a datalist on this machine, after a short trial of how fast the method trains."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shapes = [read_image(item["image"]).shape for item in datalist["labeled"]]
    width, height = (int(np.median([shape[axis] for shape in shapes])) for axis in (0, 1))
    size = image_size((width, height), LONGEST[device])
    settings: dict[str, Any] = {"image_size": size, "iterations": EPOCH}
    reasons = [f"image_size {size[0]} x {size[1]}: images are {width} x {height}, {LONGEST[device]} is for a {device}."]
    if device == "cpu":
        demo = json.loads((BUNDLE / "configs" / "demo.json").read_text())
        settings |= {key: value for key, value in demo.items() if key not in ("image_size", "iterations", "epochs")}
        reasons.append("network and learning rate: those of the demonstration, for a processor.")
    else:
        settings |= {"labeled_batch": 12, "unlabeled_batch": 12}
        reasons.append("batches of 12 labelled and 12 unlabelled images: a GPU has room for them.")
    settings |= neighbors(method)
    seconds = seconds_of_an_iteration(settings, file, method, trial)
    epochs = max(FEWEST, round(60 * minutes / seconds / EPOCH))
    settings |= {"epochs": epochs, "val_interval": max(1, epochs // 10)}
    reasons.append(
        f"epochs {epochs} of {EPOCH} iterations: {seconds:.2f} s each, so about "
        f"{epochs * EPOCH * seconds / 60:.1f} minutes for {method}."
    )
    return Plan(settings, reasons)


def image_size(size: tuple[int, int], longest: int) -> list[int]:
    """Width and height in the network: no larger than the images, in their shape, in multiples of 16."""
    scale = min(1.0, longest / max(size))
    return [max(GRANULE, round(side * scale / GRANULE) * GRANULE) for side in size]


def neighbors(method: str) -> dict[str, Any]:
    """The paper's 7000 neighbours as a share, for methods that have references of any number."""
    return {"method#neighbors": 0.57} if "reference_size" in keywords(getattr(methods, method)) else {}


def workers() -> int:
    """Trainings at the same time: two share a processor's cores well, and a GPU badly."""
    return 1 if torch.cuda.is_available() else min(2, os.cpu_count() or 1)


def seconds_of_an_iteration(settings: dict[str, Any], file: Path, method: str, trial: Path) -> float:
    """How long an iteration takes, by a short training in a folder of its own, which is removed."""
    shutil.rmtree(trial, ignore_errors=True)
    short = {**settings, "epochs": 1, "iterations": TRIED, "val_interval": 2}
    command = bundle_command("training", trial, method, file, [str(BUNDLE / "configs" / "train.json")], short)
    threads = max(1, (os.cpu_count() or 1) // workers())  # as the trainings will have
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"{method} does not train on this data: {last}")
    with (trial / "train.csv").open() as table:
        rows = list(csv.DictReader(table))
    shutil.rmtree(trial)
    first, last = rows[0], rows[-1]
    passed = int(last["iteration"]) - int(first["iteration"])
    return (float(last["seconds"]) - float(first["seconds"])) / passed
