"""From a folder of images to a model that is compared with the labels alone: ``python -m common fit``."""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import methods
from common.batches.checks import GRANULE
from common.bundle_run import BUNDLE, bundle_command
from common.compare import compare
from common.data import folder_datalist, load_datalist, read_image, save_datalist
from common.data.check import require_sound_datalist
from common.data.datalist import summarize_datalist
from common.files import replacing
from common.settings import differences, keywords

DATALIST, PLAN, REQUEST, TRIAL_LOG = "datalist.json", "plan.json", "fit.json", "trial.log"
LONGEST = {"cpu": 128, "cuda": 512}  # pixels of an image's longer side
EPOCH = 50  # iterations
TRIED = 20  # iterations that are timed, the first half to warm up
FEWEST = 4  # epochs
# methods that need settings of their own, which a plan does not know
OTHERS = ("Method", "Step", "Popcorn", "UncertaintyGuided")


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
    plan_only: bool = False,
) -> Path | None:
    """Trains a method, and the labels alone beside it, for the same number of iterations, and compares the two.

    Args:
        images: folder of the annotated images.
        output: folder of the result; gets ``datalist.json``, ``plan.json``, ``results.csv``, ``report.html`` and a
            folder for each run, which is a bundle.
        data: further keywords of :func:`~common.data.folder_datalist`.
        method: name of the method in ``common.methods``.
        minutes: about how long each training may take.
        resume: go on in a folder that was stopped, or whose plan has been made and perhaps edited.
        plan_only: stop when the plan is made.

    Returns:
        Path of the report, where there is one.

    Raises:
        ValueError: when the data is not sound, a name is unknown, or the folder is of something else.
        ChildProcessError: when a training fails; the message names its log.
    """
    request = {"images": str(images), **data, "method": method, "minutes": minutes}
    folder = Path(output)
    check_request(request, folder, resume)
    if not (folder / PLAN).exists():
        make_plan(request, data, folder)
    print(f"Datalist and settings: {folder / DATALIST}, {folder / PLAN}")
    if plan_only:
        print("Edit the settings if you like, and go on with --resume.")
        return None
    if not list(folder.glob("*/run.json")):  # nothing was trained by other settings yet
        (folder / "comparison.json").unlink(missing_ok=True)
    names = trained(load_datalist(folder / DATALIST), method)
    settings = json.loads((folder / PLAN).read_text())
    report = compare(folder, [folder / DATALIST], names, "train.json", settings, workers())
    print("Each run is a bundle of its own, which segments a folder of new images:")
    for name in names:
        run = shlex.quote(str(folder / f"{name.lower()}_{Path(DATALIST).stem}"))
        print(
            f"  {name}: python -m monai.bundle run inferring --config_file {run}/configs/inference.json "
            f"--bundle_root {run} --dataset_dir IMAGES --output_dir MASKS"
        )
    return report


def check_request(request: dict[str, Any], folder: Path, resume: bool) -> None:
    """Refuses what cannot be done, before anything is read or written."""
    method, minutes = request["method"], request["minutes"]
    known = [name for name in methods.__all__ if name not in OTHERS]
    if method not in known:
        raise ValueError(
            f"method must be one of {', '.join(known)}, got {method}. Others need settings of their own: train them "
            f"with monai.bundle run training."
        )
    if isinstance(minutes, str) or not minutes > 0:
        raise ValueError(f"minutes must be a number above 0, got {minutes!r}.")
    if (folder / REQUEST).exists() and resume:
        other = differences(json.loads(json.dumps(request)), json.loads((folder / REQUEST).read_text()))
        if other:
            raise ValueError(f"{folder} was started with {'; '.join(other)}: resume it alike, or give another output.")
    elif folder.exists() and [file for file in folder.iterdir() if file.name != TRIAL_LOG]:
        raise ValueError(
            f"output must be a new folder, got {folder}, which holds files: give another"
            f"{', or --resume' if (folder / REQUEST).exists() else ''}."
        )


def make_plan(request: dict[str, Any], data: dict[str, Any], folder: Path) -> None:
    """Makes and checks the datalist, and plans; the folder gets both or, where one fails, neither."""
    datalist = folder_datalist(request["images"], **data)
    require_sound_datalist(datalist)
    if not datalist["test"]:
        raise ValueError("test must be 1 patient or more, on whom the two are compared, got none: annotate more.")
    print(summarize_datalist(datalist))
    method = trained(datalist, request["method"])[-1]
    if method != request["method"]:
        print(f"No unlabelled images, from which {request['method']} would learn: the labels alone are trained on.")
    trial = folder / "trial"
    try:
        file = save_datalist(datalist, trial / DATALIST)
        made = plan(load_datalist(file), file, method, request["minutes"], trial)
    except BaseException:
        shutil.rmtree(folder / "cache", ignore_errors=True)  # of the images that the trial has decoded
        raise
    finally:
        shutil.rmtree(trial, ignore_errors=True)
    write(folder / REQUEST, request)
    save_datalist(datalist, folder / DATALIST)
    write(folder / PLAN, made.settings)  # the last: with it all is there
    print("\n".join(f"  {reason}" for reason in made.reasons))


def write(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=4) + "\n")


def trained(datalist: dict[str, Any], method: str) -> list[str]:
    """The baseline, and the method that was asked for where it has something to learn from."""
    return ["Supervised"] if method == "Supervised" or not datalist["unlabeled"] else ["Supervised", method]


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
        reasons.append("small network, learning rate, no weight decay, no mixed precision: those of the demonstration.")
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
    """Width and height in the network: those of the images, not enlarged, in multiples of 16."""
    scale = min(1.0, longest / max(size))
    return [max(GRANULE, round(side * scale / GRANULE) * GRANULE) for side in size]


def neighbors(method: str) -> dict[str, Any]:
    """The paper's 7000 neighbours as a share, for methods that have references of any number."""
    return {"method#neighbors": 0.57} if "reference_size" in keywords(getattr(methods, method)) else {}


def workers() -> int:
    """Trainings at the same time: two share a processor's cores well, and a GPU badly."""
    return 1 if torch.cuda.is_available() else min(2, os.cpu_count() or 1)


def seconds_of_an_iteration(settings: dict[str, Any], file: Path, method: str, trial: Path) -> float:
    """How long an iteration takes, by a short training in a folder that is then removed."""
    short = {**settings, "epochs": 1, "iterations": TRIED, "val_interval": 2}
    command = bundle_command("training", trial, method, file, [str(BUNDLE / "configs" / "train.json")], short)
    threads = max(1, (os.cpu_count() or 1) // workers())  # as the trainings will have
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        log = trial.parent / TRIAL_LOG
        log.write_text(done.stdout + done.stderr)
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ChildProcessError(f"the trial of {method} failed, see {log}: {last.removeprefix('Error: ')}")
    with (trial / "train.csv").open() as table:
        first, *_, last = csv.DictReader(table)
    return (float(last["seconds"]) - float(first["seconds"])) / (int(last["iteration"]) - int(first["iteration"]))
