"""Any folder of images with mask folders or label maps, unlabelled images and a CSV of patients."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from common.class_names import require_class_names
from common.data.datalist import written
from common.data.files import first_few, list_images
from common.data.labels import label_values
from common.data.patients import patients_of_images
from common.data.splits import make_datalist


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
    """Make a datalist of a folder of images or volumes (PNG, TIFF, JPEG, DICOM, NIfTI, MHD) and their masks, of equal
    file names. A folder of DICOM slices is a volume.

    Labelled and validation images come from different patients, one image from each; their patients' further
    images are left out. All images of the remaining annotated patients are the test part.

    Args:
        images: folder of the annotated images.
        masks: a mask folder for each class, "{'right_lung': DIR, 'left_lung': DIR}"; inside is every value
            above 0.
        labels: instead of masks, a folder of label maps: 0 is background, 1 the first class and so on.
        unlabeled: folder of the images without masks.
        patients: CSV with a column image (or file, filename) and a column patient (or patient_id, subject).
            Without it each image counts as a patient of its own.
        labeled: number of labelled images; every class occurs among them.
        split: index of the split.
        seed: seed of the draw.
        validation: number of validation images.
        test: number of patients to test on, the same ones for every number of labelled images; those left
            join the unlabelled images. Without it, test is all that is left.
        classes: with labels: the names of the values 1, 2 and so on; without it they are named class_1,
            class_2.
        mode: multilabel (classes may overlap; the default with masks) or multiclass (the default with
            labels).
        name: the data set's name.
        output: JSON file to write; a summary is printed. Without it the datalist is returned.

    Raises:
        FileNotFoundError: when a folder or the CSV is missing, or a folder is empty.
        ValueError: when a class has a name that it cannot have, an image lacks a mask, a mask lacks its image, the
            CSV does not name every annotated image, or the request cannot be met.
    """
    if (masks is None) == (labels is None):
        raise ValueError(
            "either masks (a folder for each class) or labels (a folder of label maps) must be given, got "
            f"{'neither' if masks is None else 'both'}."
        )
    found = _list_filled(images, "images")
    if masks is not None:
        label_of, classes, mode = _match_masks(found, masks, classes, mode)
    else:
        label_of, classes, mode = _match_label_maps(found, labels, classes, mode)
    free = {} if unlabeled is None else _list_filled(unlabeled, "unlabeled")
    patient_of = patients_of_images(patients, found, free)
    items = [{"image": str(path), "label": label_of[stem], "patient": patient_of[stem]} for stem, path in found.items()]
    without_label = [{"image": str(path), "patient": patient_of[stem]} for stem, path in free.items()]
    datalist = make_datalist(
        items,
        classes=classes,
        mode=mode,
        labeled=labeled,
        validation=validation,
        split=split,
        seed=seed,
        test=test,
        unlabeled=without_label,
        name=name,
    )
    return written(datalist, output)


def _list_filled(directory: str | Path, argument: str) -> dict[str, Path]:
    files = list_images(directory)
    if not files:
        raise FileNotFoundError(f"{argument} must be a folder with images, got {directory}, which holds none.")
    return files


def _mask_folders(masks: Any) -> dict[str, str]:
    """The mask folder of each class; also from text, as a command line passes paths without quotes inside."""
    if isinstance(masks, str):
        pairs = [re.split(r"[:=]", pair, maxsplit=1) for pair in masks.strip().strip("{}").split(",") if pair.strip()]
        masks = {pair[0].strip(" '\""): pair[1].strip(" '\"") for pair in pairs if len(pair) == 2}
        masks = masks if len(masks) == len(pairs) else None
    if not isinstance(masks, Mapping) or not masks:
        raise ValueError("masks must be written as \"{'right_lung': DIR, 'left_lung': DIR}\", a folder for each class.")
    require_class_names(list(masks), "the classes of masks")
    return {str(name): str(directory) for name, directory in masks.items()}


def _match_masks(
    found: dict[str, Path], masks: Any, classes: Sequence[str] | None, mode: str | None
) -> tuple[dict[str, list[str]], list[str], str]:
    folders = _mask_folders(masks)
    if mode not in (None, "multilabel"):
        raise ValueError(f"masks of one folder for each class may overlap: mode must be multilabel, got {mode!r}.")
    if classes is not None and (isinstance(classes, (int, float)) or list(classes) != list(folders)):
        raise ValueError(
            f"classes are named by masks ({list(folders)}) and must not be given otherwise, got {classes}."
        )
    label_of: dict[str, list[str]] = {stem: [] for stem in found}
    for name, directory in folders.items():
        files = _list_filled(directory, f"masks['{name}']")
        _check_pairs(found, files, f"{name} mask", directory)
        for stem in found:
            label_of[stem].append(str(files[stem]))
    return label_of, list(folders), "multilabel"


def _match_label_maps(
    found: dict[str, Path], labels: str | Path, classes: Sequence[str] | None, mode: str | None
) -> tuple[dict[str, str], list[str], str]:
    if isinstance(classes, str):
        classes = [name.strip(" '\"") for name in classes.strip(" []").split(",")]
    if classes is not None:
        require_class_names(classes)
    files = _list_filled(labels, "labels")
    _check_pairs(found, files, "label map", labels)
    if classes is None:
        classes = _classes_of_values(list(files.values()), labels)
    return {stem: str(files[stem]) for stem in found}, [str(name) for name in classes], mode or "multiclass"


def _classes_of_values(files: list[Path], directory: str | Path) -> list[str]:
    values: set[int] = set()
    for file in tqdm(files, desc="label values", leave=False, disable=None):
        values |= label_values(str(file))
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
