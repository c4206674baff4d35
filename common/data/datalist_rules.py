"""The form that a datalist must have, and that no two of its parts share a patient."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from typing import Any

from common.class_names import require_class_names
from common.data.files import first_few
from common.data.patients import plain_patient
from common.label_modes import MODES

PARTS = ("labeled", "unlabeled", "validation", "test")


def label_classes(datalist: dict, part: str) -> list[str]:
    """Names of the classes that the labels (or hidden truths) of a part are of.

    They are the datalist's 'classes', but for a datalist with 'evaluation_classes': it is trained on the labelled
    images' classes and evaluated on others, which are the ones of all other parts.
    """
    return datalist["classes"] if part == "labeled" else datalist.get("evaluation_classes", datalist["classes"])


def validate_datalist(datalist: Any) -> None:
    """Check a datalist's form; what the files hold is left to `common.data.check`.

    A labelled item may be one slice of a volume, the one that its 'slice' says (from 0, along the last axis); its
    volume may be among the unlabelled ones then.

    Raises:
        ValueError: when a key is missing or of the wrong form, an item lacks its image, patient or label, a
            label does not fit the classes or is an image, an image occurs twice, or two parts share a patient.

    Warns where patients of two parts have names that differ only in what people write differently: case, spaces and
    other marks, leading zeros, BIDS's ``sub-``.
    """
    if not isinstance(datalist, dict) or "classes" not in datalist or "labeled" not in datalist:
        raise ValueError("a datalist must be an object with at least 'classes', 'mode' and 'labeled'. Make it again.")
    classes, mode = datalist["classes"], datalist.get("mode")
    if mode not in MODES:
        raise ValueError(f"a datalist's 'mode' must be one of {MODES}, got {mode!r}.")
    for key in ("classes", "evaluation_classes"):
        require_class_names(datalist.get(key, classes), f"a datalist's '{key}'")
    _validate_origin(datalist)
    if "evaluation_classes" in datalist and mode != "multilabel":
        raise ValueError(f"a datalist with 'evaluation_classes' must be multilabel, got {mode}: give masks, not maps.")
    for part in PARTS:
        items = datalist.get(part, [])
        if not isinstance(items, list):
            raise ValueError(f"a datalist's '{part}' must be a list, got {type(items).__name__}.")
        for index, item in enumerate(items):
            _validate_item(item, f"'{part}' item {index}", datalist, part)
    _refuse_shared(datalist, "patient")
    _refuse_shared(datalist, "image")
    _refuse_images_as_labels(datalist)
    _warn_of_near_patients(datalist)
    for part in PARTS:
        items = datalist.get(part, [])
        whole = {item["image"] for item in items if "slice" not in item}
        # a slice of a volume that is there as a whole is there twice, too
        names = [(item["image"], None if item["image"] in whole else item["slice"]) for item in items]
        repeated = [
            image if place is None else f"{image} slice {place}"
            for (image, place), n in Counter(names).items()
            if n > 1
        ]
        if repeated:
            raise ValueError(f"{len(repeated)} images occur twice: {first_few(repeated)}. Keep one of each.")


def _validate_origin(datalist: dict) -> None:
    """Looks at what a run and its report tell of the datalist."""
    for key in ("split", "seed"):
        value = datalist.get(key, 0)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"a datalist's '{key}' must be a whole number from 0, got {value!r}.")
    name = datalist.get("name", "datalist")
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"a datalist's 'name' must be a text, got {name!r}: name the data, or leave it out.")


def _validate_item(item: Any, where: str, datalist: dict, part: str) -> None:
    classes, mode, needs_label = label_classes(datalist, part), datalist["mode"], part != "unlabeled"
    maps = "evaluation_classes" not in datalist  # else a map would not tell which classes it is of
    if not isinstance(item, dict) or not _is_text(item.get("image")) or not _is_patient(item.get("patient")):
        raise ValueError(f"{where} must be an object with an 'image' and a 'patient', got {item!r}.")
    if "slice" in item:
        _validate_slice(item, where, part)
    key = "label" if needs_label else "truth"
    if key not in item:
        if needs_label:
            raise ValueError(f"{where} ({item['image']}) must have a 'label', got keys {sorted(item)}.")
        return
    label = item[key]
    files = [label] if isinstance(label, str) and maps else label
    sound = isinstance(files, list) and all(map(_is_text, files))
    if not sound or (files is label and (mode != "multilabel" or len(files) != len(classes))):
        masks = f"a list of {len(classes)} masks"
        expected = "one label map" if mode != "multilabel" else f"{masks} or one label map" if maps else masks
        raise ValueError(f"{where} ({item['image']}): '{key}' must be {expected}, got {label!r}.")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_patient(value: Any) -> bool:
    return _is_text(value) or (isinstance(value, int) and not isinstance(value, bool))


def _validate_slice(item: dict, where: str, part: str) -> None:
    place = item["slice"]
    if part != "labeled":
        raise ValueError(
            f"{where} ({item['image']}) must be a whole volume, got 'slice': only labelled items may have it."
        )
    if not isinstance(place, int) or isinstance(place, bool) or place < 0:
        raise ValueError(f"{where} ({item['image']}): 'slice' must be a whole number from 0, got {place!r}.")


def _refuse_shared(datalist: dict, key: str) -> None:
    parts = {part: {str(item[key]).strip() for item in datalist.get(part, [])} for part in PARTS}
    whole = {str(item[key]).strip() for item in datalist.get("labeled", []) if "slice" not in item}
    for index, part in enumerate(PARTS):
        for other in PARTS[index + 1 :]:
            mine = whole if (part, other) == ("labeled", "unlabeled") else parts[part]
            shared = sorted(mine & parts[other])
            if shared:
                raise ValueError(
                    f"'{part}' and '{other}' must not share {'an' if key == 'image' else 'a'} {key}, got {len(shared)} "
                    f"in both: {first_few(shared)}. Keep all images of a patient in one part."
                )


def _refuse_images_as_labels(datalist: dict) -> None:
    images = {os.path.normpath(item["image"]) for part in PARTS for item in datalist.get(part, [])}
    for part in PARTS:
        for item in datalist.get(part, []):
            files = item.get("label", item.get("truth", []))
            for file in [files] if isinstance(files, str) else files:
                if os.path.normpath(file) in images:
                    raise ValueError(
                        f"'{part}' {item['image']} must have a label of its own, got {file}, which is an image: name "
                        "the file of the mask."
                    )


def _warn_of_near_patients(datalist: dict) -> None:
    places: dict[str, dict[str, str]] = {}
    for part in PARTS:
        for item in datalist.get(part, []):
            name = str(item["patient"]).strip()
            places.setdefault(plain_patient(name), {}).setdefault(name, part)
    near = [names for names in places.values() if len(set(names.values())) > 1]
    if near:
        told = [" and ".join(f"{name!r} ({part})" for name, part in names.items()) for names in near]
        warnings.warn(
            f"{len(near)} patients of different parts may be one, whose names are nearly the same: "
            f"{first_few(told, 3)}. Name them alike, or quite differently.",
            stacklevel=3,
        )
