"""A task of the Medical Segmentation Decathlon (Antonelli et al. 2022) as it is distributed, and its datalists."""

from __future__ import annotations

import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

from common.class_names import require_class_names
from common.data.datalist import written
from common.data.files import file_stem, first_few
from common.data.splits import make_datalist
from common.data.volume_files import existing_folder
from common.files import read_json

DESCRIPTION = "dataset.json"
_AGAIN = "unpack the task's archive again"


def decathlon_datalist(
    folder: str | Path,
    labeled: int = 3,
    validation: int = 5,
    test: int | None = None,
    split: int = 0,
    seed: int = 0,
    name: str | None = None,
    output: str | Path | None = None,
) -> dict | None:
    """Make a datalist of a task of the Medical Segmentation Decathlon: dataset.json, imagesTr, labelsTr and imagesTs.

    The classes and the volumes are those that dataset.json names. It does not tell whom they show: each counts as a
    patient of its own. Those without a label ("test" there) are unlabelled.

    Args:
        folder: the task's folder, as Task04_Hippocampus.
        labeled: number of labelled volumes; every class occurs among them.
        validation: number of validation volumes.
        test: number of volumes to test on, the same ones for every number of labelled volumes; those left join the
            unlabelled ones, their labels hidden. Without it, test is all that is left.
        split: index of the split.
        seed: seed of the draw.
        name: the data set's name; the one that dataset.json gives by default.
        output: JSON file to write; a summary is printed. Without it the datalist is returned.

    Raises:
        FileNotFoundError: when the folder, dataset.json or a volume that it names is missing.
        ValueError: when dataset.json is damaged, a volume has several contrasts, or the request cannot be met.
    """
    task = read_task(folder)
    datalist = make_datalist(
        task["labeled"],
        classes=task["classes"],
        mode="multiclass",
        labeled=labeled,
        validation=validation,
        split=split,
        seed=seed,
        test=test,
        unlabeled=task["unlabeled"],
        name=name or task["name"],
    )
    return written(datalist, output)


def read_task(folder: str | Path) -> dict[str, Any]:
    """What a task's dataset.json names: 'name', 'classes', and the items 'labeled' and 'unlabeled', as a datalist's.

    Raises:
        FileNotFoundError, ValueError: see :func:`decathlon_datalist`.
    """
    folder = existing_folder(folder)
    file = folder / DESCRIPTION
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} must hold {DESCRIPTION}, got none: give the folder of one task, as Task04_Hippocampus."
        )
    task = read_json(file, _AGAIN)
    if not isinstance(task, dict):
        raise ValueError(f"{file} must be an object with labels and training, got {type(task).__name__}: {_AGAIN}.")
    labeled = [_paths(file, "training", entry, ("image", "label")) for entry in _entries(file, task, "training")]
    unlabeled = [
        _paths(file, "test", {"image": entry} if isinstance(entry, str) else entry, ("image",))
        for entry in _entries(file, task, "test", [])
    ]
    _require_names(file, [*labeled, *unlabeled])
    _require_files(file, labeled, unlabeled)
    _require_one_contrast([*labeled, *unlabeled], task.get("modality"))
    found = {"name": str(task.get("name") or folder.name), "classes": classes_of(file, task.get("labels"))}
    return found | {"labeled": labeled, "unlabeled": unlabeled}


def classes_of(file: Path, labels: Any) -> list[str]:
    """Names of the values from 1 on, of the names of all values from 0, the background, on.

    Raises:
        ValueError: when they are none, or a value has no name.
    """
    values = [str(value) for value in range(len(labels))] if isinstance(labels, dict) else []
    if len(values) < 2 or set(values) != set(labels):
        raise ValueError(
            f'{file}: labels must name all values from 0, the background, on, as {{"0": "background", "1": "liver"}}, '
            f"got {str(labels)[:80]}: correct it."
        )
    names = [labels[value] for value in values[1:]]
    try:
        require_class_names(names)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: labels must name classes, got {str(names)[:80]}: {error}") from error
    return names


def _entries(file: Path, task: dict, key: str, default: list | None = None) -> list:
    entries = task.get(key, default)
    if not isinstance(entries, list) or (default is None and not entries):
        raise ValueError(f"{file}: {key} must be a list of volumes, got {str(entries)[:80]}: {_AGAIN}.")
    return entries


def _paths(file: Path, key: str, entry: Any, keys: tuple[str, ...]) -> dict[str, str]:
    """An item of whole paths; the patient is called as the image."""
    if not isinstance(entry, dict) or not all(isinstance(entry.get(name), str) for name in keys):
        raise ValueError(
            f"{file}: each of {key} must give the file of {' and '.join(keys)}, got {repr(entry)[:80]}: {_AGAIN}."
        )
    item = {name: os.path.normpath(file.parent / entry[name]) for name in keys}
    return item | {"patient": file_stem(item["image"])}


def _require_names(file: Path, items: list[dict]) -> None:
    """Refuses volumes of one name, which would be one patient's."""
    counts = Counter(item["patient"] for item in items)
    twice = [item["image"] for item in items if counts[item["patient"]] > 1]
    if twice:
        raise ValueError(
            f"{file}: each volume must have a name of its own, got {len(twice)} that share theirs: {first_few(twice)}. "
            "Rename them, or take entries out that are there twice."
        )


def _require_files(file: Path, labeled: list[dict], unlabeled: list[dict]) -> None:
    """Refuses a label without its image, an image without its label, and other images that are not there."""
    wanted = (
        ("label must have its image", "image", labeled),
        ("image must have its label", "label", labeled),
        ("image of test must be there", "image", unlabeled),
    )
    for what, key, items in wanted:
        lost = [os.path.relpath(item[key], file.parent) for item in items if not Path(item[key]).is_file()]
        if lost:
            raise FileNotFoundError(
                f"{file}: each {what}, got {len(lost)} of {len(items)} without: {first_few(lost)}. Copy these files, "
                "or take their entries out."
            )


def _require_one_contrast(items: list[dict], modality: Any) -> None:
    """Refuses volumes of several channels, as a look at the headers tells."""
    import nibabel  # it takes a while

    for item in items:
        try:
            shape = nibabel.load(item["image"]).shape
        except Exception as error:  # nibabel and gzip raise a dozen types for files that are cut off or foreign
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ValueError(f"{item['image']} must be a NIfTI file, got {reason}: copy it again.") from error
        if len(shape) > 3 and max(shape[3:]) > 1:
            names = f" ({first_few(modality.values())})" if isinstance(modality, dict) else ""
            raise ValueError(
                f"{item['image']} must be a volume of one contrast, got {math.prod(shape[3:])}{names}: write the one "
                "to learn from of each volume as a file of its own."
            )
