"""Datalists whose parts are drawn by patient, with all images of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from pathlib import Path

import numpy as np

from common.data.datalist_rules import validate_datalist
from common.data.files import first_few
from common.data.splits import check_numbers
from common.data.volume_files import unlabeled_items


def draw_patients(
    patients: Sequence[str], labeled: int, validation: int, test: int | None, split: int, seed: int
) -> dict[str, list[str]]:
    """Patients of each part: labelled ones from the front of the shuffled patients, validation from their end, test
    from before those (None: all that are left), unlabelled what is between.

    So the labelled patients are nested in each other, and neither validation patients nor a number of test patients
    depend on how many are labelled.

    Raises:
        ValueError: when a number is none, or there are too few patients.
    """
    _check_draw(labeled, validation, test, split, seed)
    kept = validation + (1 if test is None else test)
    if labeled + kept > len(patients):
        purpose = f"{validation} for validation and {'at least 1' if test is None else test} for test"
        raise ValueError(
            f"labeled must be at most {max(len(patients) - kept, 0)}: of {len(patients)} annotated patients {purpose} "
            f"are set apart; got {labeled}. Ask for fewer in one of the parts, or give --test FOLDER, or 0 for none."
        )
    order = np.random.default_rng([seed, split]).permutation(len(patients))
    names = [patients[index] for index in order]
    end = len(names) - validation
    start = labeled if test is None else end - test
    return {
        "labeled": names[:labeled],
        "unlabeled": names[labeled:start],
        "validation": names[end:],
        "test": names[start:end],
    }


def datalist_by_patient(
    read: Callable[[str | Path], list[dict]],
    folder: str | Path,
    test: str | Path | int | None,
    space: Mapping[str, object],
    unlabeled: str | Path | None = None,
    patients: str | Path | None = None,
    parts: Callable[[Sequence[str]], Mapping[str, Sequence[str]]] | None = None,
    **draw: int,
) -> dict:
    """Reads the folders with ``read`` and draws the parts.

    Args:
        read: all images of a folder, each with 'image', 'patient' and, where there is one, 'label'.
        folder, test, unlabeled, patients: see :func:`~common.data.layouts.ms.isbi_datalist`.
        space: name, mode and classes.
        parts: the patients of each part, from the names of all; drawn by :func:`draw_patients` where not given.
        draw: labeled, validation, split and seed.

    Raises:
        ValueError: when the request cannot be met.
    """
    _check_draw(test=test, **draw)
    drawn_test = test is None or isinstance(test, Integral)
    elsewhere = [] if drawn_test else read(test)
    items = read(folder)
    annotated = [item for item in items if "label" in item]
    free = [item for item in items if "label" not in item]
    _check_annotated(annotated, elsewhere, folder, test)
    names = sorted({item["patient"] for item in annotated})
    drawn = parts(names) if parts else draw_patients(names, test=test if drawn_test else 0, **draw)
    if unlabeled is not None:
        known = {item["patient"] for item in annotated + elsewhere}
        there = {item["image"] for item in items + elsewhere}
        free += [item for item in unlabeled_items(unlabeled, known, patients) if item["image"] not in there]
    found = {part: [item for item in annotated if item["patient"] in drawn[part]] for part in drawn}
    found["test"] += elsewhere
    taken = {item["patient"] for part in ("labeled", "validation", "test") for item in found[part]}
    hidden = [{"image": i["image"], "truth": i["label"], "patient": i["patient"]} for i in found["unlabeled"]]
    found["unlabeled"] = hidden + [item for item in free if item["patient"] not in taken]
    datalist = {**space, "seed": draw["seed"], "split": draw["split"]}
    datalist["left_out"] = len(annotated) + len(elsewhere) + len(free) - sum(map(len, found.values()))
    datalist.update(found)
    validate_datalist(datalist)
    return datalist


def _check_draw(labeled: int, validation: int, test: str | Path | int | None, split: int, seed: int) -> None:
    check_numbers(labeled=(labeled, 1), validation=(validation, 0), split=(split, 0), seed=(seed, 0))
    check_numbers(test=(0 if test is None or isinstance(test, (str, Path)) else test, 0))


def _check_annotated(annotated: list[dict], elsewhere: list[dict], folder: str | Path, test: str | Path) -> None:
    """Refuses test images without masks, and of patients that are annotated in the other folder."""
    if not annotated:
        raise ValueError(f"{folder} must hold masks beside its images, got none: is this the folder for unlabeled?")
    bare = [item["image"] for item in elsewhere if "label" not in item]
    if bare:
        raise ValueError(f"{test}: all test images must have a mask, got {len(bare)} without: {first_few(bare)}.")
    shared = sorted({item["patient"] for item in annotated} & {item["patient"] for item in elsewhere})
    if shared:
        raise ValueError(
            f"{folder} and {test} must hold different patients, got {len(shared)} in both: {first_few(shared)}. Take "
            "them out of one; if they are others of the same name, give --patients FILE.csv."
        )
