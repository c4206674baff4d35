"""Any folder of images with mask folders or label maps, unlabelled images and a CSV of patients."""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.data.datalist import first_few, save_datalist, summarize_datalist
from common.data.readers import file_stem, list_images, read_label
from common.data.splits import make_datalist

_IMAGE_COLUMNS = ("image", "file", "filename", "file_name", "image_file", "image_id", "path")
_PATIENT_COLUMNS = ("patient", "patient_id", "patientid", "subject", "subject_id")


def folder_datalist(
    images: str | Path,
    masks: Mapping[str, str | Path] | None = None,
    labels: str | Path | None = None,
    unlabeled: str | Path | None = None,
    patients: str | Path | None = None,
    labeled: int = 3,
    split: int = 0,
    seed: int = 0,
    validation: int = 5,
    test: int | None = None,
    classes: Sequence[str] | None = None,
    mode: str | None = None,
    name: str = "folder",
    output: str | Path | None = None,
) -> dict | None:
    """Make a datalist of a folder of images (PNG, TIFF, JPEG, DICOM, NIfTI, MHD) and their masks, of equal file names.

    Labelled and validation images come from different patients, one image from each; their patients' further images
    are left out. All images of the remaining annotated patients are the test part.

    Args:
        images: folder of the annotated images.
        masks: a mask folder for each class, "{'right_lung': DIR, 'left_lung': DIR}"; inside is every value above 0.
        labels: instead of masks, a folder of label maps: 0 is background, 1 the first class and so on.
        unlabeled: folder of the images without masks.
        patients: CSV with a column image (or file, filename) and a column patient (or patient_id, subject). Without it
            each image counts as a patient of its own.
        labeled: number of labelled images; every class occurs among them.
        split: index of the split.
        seed: seed of the draw.
        validation: number of validation images.
        test: number of patients to test on, the same ones for every number of labelled images; those left join the
            unlabelled images. Without it, test is all that is left.
        classes: with labels: the names of the values 1, 2 and so on; without it they are named class_1, class_2.
        mode: multilabel (classes may overlap; the default with masks) or multiclass (the default with labels).
        name: the data set's name.
        output: JSON file to write; a summary is printed. Without it the datalist is returned.

    Raises:
        FileNotFoundError: when a folder or the CSV is missing, or a folder is empty.
        ValueError: when an image lacks a mask, a mask lacks its image, the CSV does not name every annotated image, or
            the request cannot be met.
    """
    if (masks is None) == (labels is None):
        raise ValueError(
            "either masks (a folder for each class) or labels (a folder of label maps) must be given, not both."
        )
    found = _list_filled(images, "images")
    if masks is not None:
        label_of, classes, mode = _match_masks(found, masks, classes, mode)
    else:
        label_of, classes, mode = _match_label_maps(found, labels, classes, mode)
    free = {} if unlabeled is None else _list_filled(unlabeled, "unlabeled")
    patient_of = _patients(patients, found, free)
    items = [
        {"image": str(path), "label": label_of[stem], "patient": patient_of[stem]}
        for stem, path in found.items()
    ]
    without_label = [{"image": str(path), "patient": patient_of[stem]} for stem, path in free.items()]
    datalist = make_datalist(
        items, classes=classes, mode=mode, labeled=labeled, validation=validation, split=split, seed=seed, test=test,
        unlabeled=without_label, name=name,
    )  # fmt: skip
    if output is None:
        return datalist
    save_datalist(datalist, output)
    print(f"{summarize_datalist(datalist)}\nwritten to {output}")
    return None


def read_patients(path: str | Path) -> dict[str, str]:
    """The patient of each image from a CSV, by the image's file stem as it is written and without a suffix.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when a column is missing, a cell is empty, or an image has two patients.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such CSV of patients.")
    with open(path, newline="", encoding="utf-8-sig") as file:
        sample = file.readline()
        file.seek(0)
        delimiter = max(",;\t", key=sample.count)
        reader = csv.DictReader(file, delimiter=delimiter)
        columns = {_plain(column): column for column in reader.fieldnames or []}
        image_column = next((columns[key] for key in _IMAGE_COLUMNS if key in columns), None)
        patient_column = next((columns[key] for key in _PATIENT_COLUMNS if key in columns), None)
        if image_column is None or patient_column is None:
            raise ValueError(
                f"{path}: the CSV must have a column image (or file, filename) and a column patient (or patient_id, "
                f"subject), got {list(columns.values())}. Rename its columns."
            )
        patient_of: dict[str, str] = {}
        for line, row in enumerate(reader, start=2):
            image, patient = (row[image_column] or "").strip(), (row[patient_column] or "").strip()
            if not image or not patient:
                raise ValueError(
                    f"{path}, line {line}: image and patient must be filled, got '{image}' and '{patient}'."
                )
            stem = file_stem(image.replace("\\", "/"))
            if patient_of.setdefault(stem, patient) != patient:
                raise ValueError(
                    f"{path}, line {line}: '{stem}' must have one patient, got {patient_of[stem]}, {patient}."
                )
    return patient_of


def _plain(column: str | None) -> str:
    return re.sub(r"[\s-]+", "_", (column or "").strip().lower())


def _list_filled(directory: str | Path, argument: str) -> dict[str, Path]:
    files = list_images(directory)
    if not files:
        raise FileNotFoundError(
            f"{argument} must be a folder with images, got {directory}, which holds none."
        )
    return files


def _match_masks(found: dict[str, Path], masks, classes, mode):
    if not isinstance(masks, Mapping) or not masks:
        raise ValueError(f"masks must be written as \"{{'right_lung': DIR, 'heart': DIR}}\", got {masks!r}.")
    if mode not in (None, "multilabel"):
        raise ValueError(
            f"masks of one folder for each class may overlap: mode must be multilabel, got {mode!r}."
        )
    if classes is not None and list(classes) != list(masks):
        raise ValueError(
            f"classes are named by masks ({list(masks)}) and must not be given otherwise, got {classes}."
        )
    label_of: dict[str, list[str]] = {stem: [] for stem in found}
    for name, directory in masks.items():
        files = _list_filled(directory, f"masks['{name}']")
        _check_pairs(found, files, f"{name} mask", directory)
        for stem in found:
            label_of[stem].append(str(files[stem]))
    return label_of, [str(name) for name in masks], "multilabel"


def _match_label_maps(found: dict[str, Path], labels, classes, mode):
    files = _list_filled(labels, "labels")
    _check_pairs(found, files, "label map", labels)
    if isinstance(classes, str):
        classes = [name.strip() for name in classes.split(",")]
    if classes is None:
        classes = _classes_of_values(list(files.values()), labels)
    return {stem: str(files[stem]) for stem in found}, list(classes), mode or "multiclass"


def _classes_of_values(files: list[Path], directory: str | Path) -> list[str]:
    values: set[int] = set()
    for file in tqdm(files, desc="label values", leave=False, disable=None):
        values.update(np.unique(read_label(file)).tolist())
    highest = len(values - {0})
    if not highest or values - set(range(highest + 1)):
        raise ValueError(
            f"{directory}: label maps must hold 0 for the background and 1, 2 and so on for the classes, got values "
            f"{sorted(values)[:10]}. Renumber them, name all classes by classes=, or give 0/255 masks by masks=."
        )
    return [f"class_{value}" for value in range(1, highest + 1)]


def _check_pairs(found: dict[str, Path], files: dict[str, Path], kind: str, directory: str | Path) -> None:
    bare, orphans = sorted(set(found) - set(files)), sorted(set(files) - set(found))
    if bare:
        raise ValueError(
            f"{directory}: {len(bare)} of {len(found)} images have no {kind}: {first_few(bare)}. Add it (an empty one "
            "where the class is absent), or move the images to the unlabeled folder."
        )
    if orphans:
        raise ValueError(
            f"{directory}: {len(orphans)} of {len(files)} files have no image: {first_few(orphans)}. "
            f"Each {kind} must have the file name of its image; add the images, or take the files out."
        )


def _patients(path: str | Path | None, found: dict[str, Path], free: dict[str, Path]) -> dict[str, str]:
    own = {stem: stem for stem in (*free, *found)}
    if path is None:
        warnings.warn(
            "without a CSV of patients each image counts as a patient of its own: images of one patient may fall into "
            "different parts. Give patients=FILE.csv if a patient has several images.",
            stacklevel=3,
        )
        return own
    patient_of = read_patients(path)
    unnamed = sorted(set(found) - set(patient_of))
    if unnamed:
        raise ValueError(
            f"{path}: {len(unnamed)} of {len(found)} images are not named there: {first_few(unnamed)}. Add their lines."
        )
    return {**own, **patient_of}
