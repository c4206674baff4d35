"""Splits by patient: labelled, validation and test images drawn from what is annotated."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import numpy as np

from common.data.datalist_rules import validate_datalist
from common.data.files import first_few
from common.data.labels import classes_present


def make_datalist(
    items: Sequence[dict],
    *,
    classes: Sequence[str],
    mode: str = "multilabel",
    labeled: int = 3,
    validation: int = 5,
    split: int = 0,
    seed: int = 0,
    test: Sequence[dict] | int | None = None,
    unlabeled: Sequence[dict] = (),
    name: str = "folder",
    evaluation_classes: Sequence[str] | None = None,
) -> dict:
    """Draw the parts of a datalist by patient, the same ones for the same ``(seed, split)``.

    The patients of ``items`` are shuffled and put in an order in which every class occurs as early as it can.
    Labelled images come from the front, one image from each patient, so that 3 labelled images are among 6
    and those among 12. Validation images come from the end, one image from each patient, so that they do not
    depend on ``labeled``; test images, where a number of them is asked for, come from before those. What is
    left between goes to test, or, where the test part is given otherwise, to the unlabelled images with its
    label as 'truth'. A labelled or validation patient's further images go nowhere: they would leak. They are
    counted as 'left_out'.

    Args:
        items: annotated images, each with 'image', 'label' and 'patient'.
        classes: names of the foreground classes.
        mode: ``"multilabel"`` or ``"multiclass"``.
        labeled: number of labelled images; every class occurs among them.
        validation: number of validation images.
        split: index of the split; each draws its own patients.
        seed: seed of the shuffle.
        test: annotated images of other patients; or how many patients of ``items`` to test on, with all their
            images; or None: all patients of ``items`` that are left. Only the first two let one compare
            several ``labeled``.
        unlabeled: further images without a label. Those of a patient of another part are left out.
        name: the data set's name.
        evaluation_classes: where the images are evaluated by other classes than ``classes``: their names. Every
            item, also of ``test``, then has its label of these as 'evaluation', which it gets in all parts but
            the labelled one; 'label' is needed for the patients that may be drawn as labelled alone.

    Raises:
        ValueError: when there are too few patients, or a class does not occur among the labelled images.
    """
    check_numbers(labeled=(labeled, 1), validation=(validation, 1), split=(split, 0), seed=(seed, 0))
    check_numbers(test=(0 if test is None or isinstance(test, (list, tuple)) else test, 0))
    items = [dict(item) for item in items]
    rng = np.random.default_rng([seed, split])
    patients = _by_patient(items, rng)
    drawn_test = test if isinstance(test, Integral) else 0
    _check_request(len(patients), len(items), labeled, validation, test)
    front = _order(patients, classes, labeled)
    cut = len(front) - validation - drawn_test
    middle = [_evaluated(item) for images in front[labeled:cut] for item in images]
    tail = [[_evaluated(item) for item in images] for images in front[cut:]]
    parts = {
        "labeled": [_without(images[0], "evaluation") for images in front[:labeled]],
        "unlabeled": [],
        "validation": [images[0] for images in tail[drawn_test:]],
        "test": [item for images in tail[:drawn_test] for item in images],
    }
    if test is None:
        parts["test"] = middle
    else:
        parts["unlabeled"] = [_hide(item) for item in middle]
        parts["test"] = parts["test"] if isinstance(test, Integral) else [_evaluated(item) for item in test]
    taken = {item["patient"] for part in parts.values() for item in part}
    further = [dict(item) for item in unlabeled if item["patient"] not in taken]
    parts["unlabeled"] = sorted(parts["unlabeled"], key=lambda item: item["image"]) + further
    parts["test"] = sorted(parts["test"], key=lambda item: item["image"])
    given = len(items) + len(unlabeled) + (0 if test is None or isinstance(test, Integral) else len(test))
    datalist = {"name": name, "mode": mode, "classes": list(classes), "seed": seed, "split": split}
    if evaluation_classes is not None:
        datalist["evaluation_classes"] = list(evaluation_classes)
    datalist["left_out"] = given - sum(map(len, parts.values()))
    datalist.update(parts)
    validate_datalist(datalist)
    return datalist


def _without(item: dict, key: str) -> dict:
    return {name: value for name, value in item.items() if name != key}


def _hide(item: dict) -> dict:
    return {**_without(item, "label"), "truth": item["label"]}


def _evaluated(item: dict) -> dict:
    """The item with the label that it is evaluated by, where that is another than the one to train on."""
    return {**_without(item, "evaluation"), "label": item["evaluation"]} if "evaluation" in item else dict(item)


def _order(patients: list[list[dict]], classes: Sequence[str], labeled: int) -> list[list[dict]]:
    """The patients in the order in which they are drawn: first those that can be labelled and show every class."""
    annotated = [images for images in patients if all("label" in item for item in images)]
    if labeled > len(annotated):
        raise ValueError(
            f"labeled must be at most {len(annotated)}, the number of patients that have masks of "
            f"{first_few(classes)}, got {labeled}. Ask for fewer, or annotate more patients."
        )
    front = _cover_classes(annotated, classes)
    _check_classes(front, classes, labeled)
    return front + [images for images in patients if not all("label" in item for item in images)]


def _by_patient(items: list[dict], rng: np.random.Generator) -> list[list[dict]]:
    groups: dict[str, list[dict]] = {}
    for item in sorted(items, key=lambda item: item["image"]):
        groups.setdefault(item["patient"], []).append(item)
    order = rng.permutation(len(groups))
    names = sorted(groups)
    shuffled = []
    for index in order:
        images = groups[names[index]]
        shuffled.append([images[other] for other in rng.permutation(len(images))])
    return shuffled


def _cover_classes(patients: list[list[dict]], classes: Sequence[str]) -> list[list[dict]]:
    """Move forward, one by one, the patient's image that adds the most of the classes still missing."""
    waiting, ordered = list(patients), []
    missing = set(range(len(classes)))
    present: dict[str, frozenset[int]] = {}
    while missing and waiting:
        best_gain, best = 0, (0, 0)
        for index, images in enumerate(waiting):
            for position, item in enumerate(images):
                if item["image"] not in present:
                    present[item["image"]] = classes_present(item["label"], len(classes))
                gain = len(missing & present[item["image"]])
                if gain > best_gain:
                    best_gain, best = gain, (index, position)
            if best_gain == len(missing):  # nothing later can add more: most masks are never read
                break
        if best_gain == 0:
            names = first_few([classes[index] for index in sorted(missing)])
            raise ValueError(
                f"every class must occur among the labelled images, got none with {names} in {len(present)} images of "
                f"{len(patients)} patients. Leave the class out, or annotate an image of it."
            )
        images = waiting.pop(best[0])
        missing -= present[images[best[1]]["image"]]
        ordered.append([images[best[1]], *images[: best[1]], *images[best[1] + 1 :]])
    return ordered + waiting


def check_numbers(**numbers: tuple[int, int]) -> None:
    """Refuses numbers that are not whole or below the least that each may be."""
    for name, (value, least) in numbers.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}.")


def _check_request(
    patients: int, images: int, labeled: int, validation: int, test: Sequence[dict] | int | None
) -> None:
    kept = validation + (test if isinstance(test, Integral) else 1 if test is None else 0)
    most = patients - kept
    if labeled > most:
        purpose = f"{validation} for validation"
        if test is None or isinstance(test, Integral):
            purpose += f" and {'at least 1' if test is None else test} for test"
        raise ValueError(
            f"labeled must be at most {max(most, 0)}: of {patients} patients ({images} annotated images) {purpose} are "
            f"set apart, and each labelled image comes from a patient of its own; got {labeled}. Ask for fewer, or "
            "annotate more patients."
        )


def _check_classes(front: list[list[dict]], classes: Sequence[str], labeled: int) -> None:
    missing, needed, absent = set(range(len(classes))), 0, []
    while missing:
        missing -= classes_present(front[needed][0]["label"], len(classes))
        needed += 1
        if needed == labeled:
            absent = [classes[index] for index in sorted(missing)]
    if needed > labeled:
        raise ValueError(
            f"labeled must be at least {needed} for every class to occur among the labelled images, got {labeled}, "
            f"which leaves out {first_few(absent)}. Ask for more labelled images."
        )
