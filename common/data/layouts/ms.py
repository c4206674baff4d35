"""Datalists of multiple sclerosis lesions in FLAIR volumes: parts by patient, with all time points of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from pathlib import Path

import numpy as np

from common.data.datalist import save_datalist, summarize_datalist
from common.data.datalist_rules import validate_datalist
from common.data.files import first_few
from common.data.layouts.ms_files import isbi_items, patient_folder_items
from common.data.splits import check_numbers
from common.data.volume_files import unlabeled_items

CLASSES = ("lesion",)


def isbi_datalist(
    folder: str | Path,
    unlabeled: str | Path | None = None,
    test: str | Path | int | None = None,
    labeled: int = 1,
    validation: int = 0,
    split: int = 0,
    seed: int = 0,
    patients: str | Path | None = None,
    consensus: str = "intersection",
    name: str = "isbi",
    output: str | Path | None = None,
) -> dict | None:
    """Make a datalist of the ISBI 2015 longitudinal layout (training01_01_flair_pp.nii, training01_01_mask1.nii).

    Images without masks are unlabelled. Every part holds all time points of its patients.

    Args:
        folder: folder of the images and masks, at any depth.
        unlabeled: folder of further volumes: NIfTI files and folders of DICOM series.
        test: another folder of the layout, or a number of patients to test on, the same ones for every number of
            labelled patients; by default all annotated patients that are left.
        labeled: number of labelled patients; 1 is among 2 and those among 3 of the same split.
        validation: number of validation patients.
        split: index of the split.
        seed: seed of the draw.
        patients: CSV with a column image and a column patient, where the names up to the time point do not tell.
        consensus: rater1, rater2, intersection or union; what two raters make is written to masks_<consensus> beside
            the output, or in the folder.
        name: the data set's name.
        output: JSON file to write; a summary is printed. Without it the datalist is returned.

    Raises:
        FileNotFoundError, ValueError: as `common.data.layouts.ms_files.isbi_items`, and when the request cannot be met.
    """
    masks = None if output is None else Path(output).absolute().parent / f"masks_{consensus}"

    draw = {"labeled": labeled, "validation": validation, "split": split, "seed": seed}

    def read(place: str | Path) -> list[dict]:
        return isbi_items(place, consensus, masks, patients)

    datalist = _make(read, folder, unlabeled, test, patients, name, **draw)
    return _written(datalist, output)


def patients_datalist(
    folder: str | Path,
    unlabeled: str | Path | None = None,
    test: str | Path | int | None = None,
    labeled: int = 1,
    validation: int = 0,
    split: int = 0,
    seed: int = 0,
    patients: str | Path | None = None,
    flair: str | None = None,
    mask: str | None = None,
    name: str = "ms",
    output: str | Path | None = None,
) -> dict | None:
    """Make a datalist of one folder for each patient, with a FLAIR volume and a lesion mask, as MSSEG and open_ms.

    Args:
        folder: folder of the patients' folders.
        unlabeled: folder of further volumes: NIfTI files and folders of DICOM series.
        test: another folder of the layout, or a number of patients to test on, the same ones for every number of
            labelled patients; by default all annotated patients that are left.
        labeled: number of labelled patients; 1 is among 2 and those among 3 of the same split.
        validation: number of validation patients.
        split: index of the split.
        seed: seed of the draw.
        patients: CSV with a column image (the patient's folder, or an unlabelled file) and a column patient.
        flair: pattern of the FLAIR volume in a patient's folder ("Preprocessed_Data/FLAIR*"), where there are several.
        mask: pattern of the lesion mask, likewise.
        name: the data set's name.
        output: JSON file to write; a summary is printed. Without it the datalist is returned.

    Raises:
        FileNotFoundError, ValueError: as `common.data.layouts.ms_files.patient_folder_items`, and when the request
            cannot be met.
    """

    draw = {"labeled": labeled, "validation": validation, "split": split, "seed": seed}

    def read(place: str | Path) -> list[dict]:
        return patient_folder_items(place, flair, mask, patients)

    datalist = _make(read, folder, unlabeled, test, patients, name, **draw)
    return _written(datalist, output)


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
    check_numbers(labeled=(labeled, 1), validation=(validation, 0), split=(split, 0), seed=(seed, 0))
    check_numbers(test=(0 if test is None else test, 0))
    kept = validation + (1 if test is None else test)
    if labeled + kept > len(patients):
        purpose = f"{validation} for validation and {'at least 1' if test is None else test} for test"
        raise ValueError(
            f"labeled must be at most {max(len(patients) - kept, 0)}: of {len(patients)} annotated patients {purpose} "
            f"are set apart; got {labeled}. Ask for fewer, or give the test part otherwise: test=FOLDER, or 0 for none."
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


def _make(
    read: Callable[[str | Path], list[dict]],
    folder: str | Path,
    unlabeled: str | Path | None,
    test: str | Path | int | None,
    patients: str | Path | None,
    name: str,
    **draw: int,
) -> dict:
    """Reads the folders with ``read`` and draws the parts."""
    drawn_test = test is None or isinstance(test, Integral)
    elsewhere = [] if drawn_test else read(test)
    items = read(folder)
    annotated = [item for item in items if "label" in item]
    free = [item for item in items if "label" not in item]
    _check_annotated(annotated, elsewhere, folder, test)
    names = sorted({item["patient"] for item in annotated})
    drawn = draw_patients(names, test=test if drawn_test else 0, **draw)
    if unlabeled is not None:
        known = {item["patient"] for item in annotated + elsewhere}
        there = {item["image"] for item in items + elsewhere}
        free += [item for item in unlabeled_items(unlabeled, known, patients) if item["image"] not in there]
    parts = {part: [item for item in annotated if item["patient"] in drawn[part]] for part in drawn}
    parts["test"] += elsewhere
    taken = {item["patient"] for part in ("labeled", "validation", "test") for item in parts[part]}
    hidden = [{"image": i["image"], "truth": i["label"], "patient": i["patient"]} for i in parts["unlabeled"]]
    parts["unlabeled"] = hidden + [item for item in free if item["patient"] not in taken]
    datalist = {"name": name, "mode": "multilabel", "classes": list(CLASSES), "seed": draw["seed"]}
    datalist["split"] = draw["split"]
    datalist["left_out"] = len(annotated) + len(elsewhere) + len(free) - sum(map(len, parts.values()))
    datalist.update(parts)
    validate_datalist(datalist)
    return datalist


def _check_annotated(annotated: list[dict], elsewhere: list[dict], folder: str | Path, test: str | Path) -> None:
    """Refuses test volumes without masks, and of patients that are annotated in the other folder."""
    if not annotated:
        raise ValueError(f"{folder} must hold lesion masks, got none: is this the folder for unlabeled?")
    bare = [item["image"] for item in elsewhere if "label" not in item]
    if bare:
        raise ValueError(
            f"{test}: all test volumes must have a lesion mask, got {len(bare)} without: {first_few(bare)}."
        )
    shared = sorted({item["patient"] for item in annotated} & {item["patient"] for item in elsewhere})
    if shared:
        raise ValueError(
            f"{folder} and {test} must hold different patients, got {len(shared)} in both: {first_few(shared)}. Take "
            "them out of one; if they are others of the same name, give patients=FILE.csv."
        )


def _written(datalist: dict, output: str | Path | None) -> dict | None:
    if output is None:
        return datalist
    save_datalist(datalist, output)
    print(f"{summarize_datalist(datalist)}\nwritten to {output}")
    return None
