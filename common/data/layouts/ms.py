"""Datalists of multiple sclerosis lesions in FLAIR volumes: parts by patient, with all time points of each."""

from __future__ import annotations

from pathlib import Path

from common.data.datalist import written
from common.data.layouts.by_patient import datalist_by_patient
from common.data.layouts.ms_files import isbi_items, patient_folder_items

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

    space = {"name": name, "mode": "multilabel", "classes": list(CLASSES)}
    return written(datalist_by_patient(read, folder, test, space, unlabeled, patients, **draw), output)


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

    space = {"name": name, "mode": "multilabel", "classes": list(CLASSES)}
    return written(datalist_by_patient(read, folder, test, space, unlabeled, patients, **draw), output)
