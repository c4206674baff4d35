"""From a folder of images to a model that is compared with the labels alone: ``python -m common fit``."""

from __future__ import annotations

import json
import math
import shlex
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from common import methods
from common.data import folder_datalist, load_datalist, save_datalist
from common.data.check import require_sound_datalist
from common.data.datalist import summarize_datalist
from common.files import read_json, replacing
from common.grid.make import checked, run_and_report
from common.plan import TRIAL_LOG, Plan, dimensions, plan, workers
from common.settings import differences

DATALIST, PLAN, REQUEST, BUNDLE = "datalist.json", "plan.yaml", "fit.json", "bundle"
BASELINE = "Supervised"
# methods that need settings of their own, which a plan does not know
OTHERS = ("Method", "Step", "Popcorn", "UncertaintyGuided")


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

    The plan is a grid file, and what follows it is a grid of two runs.

    Args:
        images: folder of the annotated images or volumes.
        output: folder of the result; gets ``datalist.json``, ``plan.yaml``, the grid's tables, ``report.html`` and
            ``bundle``, the method's.
        data: further keywords of :func:`~common.data.folder_datalist`.
        method: name of the method in ``common.methods``.
        minutes: about how long each training may take.
        resume: go on in a folder that was stopped, or whose plan has been made and perhaps edited.
        plan_only: stop when the plan is made.

    Returns:
        The folder of the method's bundle, where there is one.

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
    lost = run_and_report(folder / PLAN, folder, workers(), trusted=True)  # the plan is the user's own
    if lost:
        raise ChildProcessError(f"every training must end, got {len(lost)} that failed: {'; '.join(lost)}.")
    bundle = keep_bundle(folder)
    print(
        "The model segments a folder of new images:\n"
        f"  python -m monai.bundle run inferring --config_file {shlex.quote(str(bundle / 'configs/inference.json'))} "
        f"--bundle_root {shlex.quote(str(bundle))} --dataset_dir IMAGES --output_dir MASKS"
    )
    return bundle


def check_request(request: dict[str, Any], folder: Path, resume: bool) -> None:
    """Refuses what cannot be done, before anything is read or written."""
    method, minutes = request["method"], request["minutes"]
    known = [name for name in methods.__all__ if name not in OTHERS]
    if method not in known:
        raise ValueError(
            f"method must be one of {', '.join(known)}, got {method}. Others need settings of their own: train them "
            f"with monai.bundle run training."
        )
    if isinstance(minutes, str) or not 0 < minutes < math.inf:
        raise ValueError(f"minutes must be a number above 0, got {minutes!r}.")
    if (folder / REQUEST).exists() and resume:
        other = differences(
            json.loads(json.dumps(request)), read_json(folder / REQUEST, "remove the folder and start again")
        )
        if other:
            raise ValueError(f"{folder} was started with {'; '.join(other)}: resume it alike, or give another output.")
    elif folder.exists() and [file for file in folder.iterdir() if not of_a_trial(file)]:
        raise ValueError(
            f"output must be a new folder, got {folder}, which holds files: give another"
            f"{', or --resume' if (folder / REQUEST).exists() else ''}."
        )


def of_a_trial(file: Path) -> bool:
    """Whether a file is what a trial leaves that failed or was killed."""
    return file.name == TRIAL_LOG or (file.name == "cells" and {f.name for f in file.iterdir()} <= {"trial", "cache"})


def make_plan(request: dict[str, Any], data: dict[str, Any], folder: Path) -> None:
    """Makes and checks the datalist, and plans; the folder gets both or, where one fails, neither."""
    datalist = folder_datalist(request["images"], **data)
    dimensions(datalist)
    require_sound_datalist(datalist)
    if not datalist["test"]:
        raise ValueError("test must be 1 patient or more, on whom the two are compared, got none: annotate more.")
    print(summarize_datalist(datalist))
    if data.get("unlabeled") and not datalist["unlabeled"]:
        raise ValueError(
            f"unlabeled must hold images of patients who are not annotated, got none in {data['unlabeled']}: rename "
            "those that are called as annotated ones, or leave it out."
        )
    names = trained(datalist, request["method"])
    if request["method"] not in names:
        print(f"No unlabelled images, from which {request['method']} would learn: the labels alone are trained on.")
    trial = folder / "cells" / "trial"  # beside the trainings, which find its decoded images
    shutil.rmtree(trial, ignore_errors=True)  # of one that was killed
    try:
        file = save_datalist(datalist, trial / DATALIST)
        made = plan(load_datalist(file), file, names[-1], request["minutes"], trial)
    except BaseException:
        shutil.rmtree(folder / "cells", ignore_errors=True)
        with suppress(OSError):  # where a trial has left its log
            folder.rmdir()
        raise
    finally:
        shutil.rmtree(trial, ignore_errors=True)
    with replacing(folder / REQUEST) as temporary:
        temporary.write_text(json.dumps(request, indent=4) + "\n")
    save_datalist(datalist, folder / DATALIST)
    with replacing(folder / PLAN) as temporary:  # the last: with it all is there
        temporary.write_text(plan_text(made, datalist, names), encoding="utf-8")
    print("\n".join(f"  {reason}" for reason in made.reasons))


def plan_text(made: Plan, datalist: dict[str, Any], names: list[str]) -> str:
    """The plan as a grid file, its reasons as comments."""
    labeled = len(datalist["labeled"])
    content = {
        "bundle": made.bundle.name,
        "data": {"datalists": {labeled: [DATALIST]}},
        "splits": [datalist["split"]],
        "labeled": labeled,
        "settings": made.settings,
        "tables": {
            "comparison": {
                "title": f"{labeled} labelled and {len(datalist['unlabeled'])} unlabelled images",
                "baseline": BASELINE,
                "columns": "classes",
                "rows": [{"name": name, "method": name} for name in names],
            }
        },
    }
    reasons = "".join(f"# - {reason}\n" for reason in made.reasons)
    return f"# Made by python -m common fit; edit it before you go on with --resume.\n{reasons}" + yaml.safe_dump(
        content, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110
    )


def trained(datalist: dict[str, Any], method: str) -> list[str]:
    """The baseline, and the method that was asked for where it has something to learn from."""
    return [BASELINE] if method == BASELINE or not datalist["unlabeled"] else [BASELINE, method]


def keep_bundle(folder: Path) -> Path:
    """Copies what a bundle consists of from the last row's (first) run to ``bundle``."""
    grid, _ = checked(folder / PLAN, trusted=True)
    cell = next(iter(grid.tables[0].rows[-1].cells.values()))
    run, bundle, fresh = grid.cells[cell].folder(folder), folder / BUNDLE, folder / f".{BUNDLE}"
    shutil.rmtree(fresh, ignore_errors=True)
    for name in ("configs", "models", "docs"):
        shutil.copytree(run / name, fresh / name)
    shutil.copytree(grid.file.bundle / "scripts", fresh / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(run / "LICENSE", fresh / "LICENSE")
    shutil.rmtree(bundle, ignore_errors=True)
    fresh.rename(bundle)
    return bundle
