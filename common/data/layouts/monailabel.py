"""MONAI Label's folder of studies: images, what has been annotated of them, and whom they show."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.data.datalist import load_datalist, not_among, written
from common.data.datalist_rules import PARTS
from common.data.files import DICOM_SUFFIXES, file_stem, file_suffix, first_few
from common.data.layouts.by_patient import datalist_by_patient
from common.data.patients import read_patients, same_patients
from common.data.volume_files import existing_folder
from common.files import read_json
from common.label_modes import MODES

STORE, PATIENTS, FINAL = "datastore_v2.json", "patients.csv", "final"
logger = logging.getLogger(__name__)


def monailabel_datalist(
    studies: str | Path,
    bundle: str | Path | None = None,
    classes: Sequence[str] | None = None,
    mode: str = "multiclass",
    labeled: int | None = None,
    validation: int = 0,
    test: int = 0,
    split: int = 0,
    seed: int = 0,
    patients: str | Path | None = None,
    name: str = "monailabel",
    output: str | Path | None = None,
) -> dict | None:
    """Make a datalist of a folder of studies that MONAI Label has served: what was saved as final is labelled.

    The images are those that its datastore_v2.json lists. Every part holds all images of its patients.

    Args:
        studies: the folder that the server was started with, with datastore_v2.json and labels/final.
        bundle: the bundle that was annotated with: values of the annotations are numbers of its classes.
        classes: instead of bundle, the names of the values 1, 2 and so on.
        mode: with classes: multilabel or multiclass.
        labeled: number of labelled patients; without it all annotated ones that are left.
        validation: number of validation patients.
        test: number of patients to test on.
        split: index of the split.
        seed: seed of the draw.
        patients: CSV with a column image and a column patient; without it patients.csv in the folder. An image that is
            not named there is of the patient that its DICOM file names, or of one of its own.
        name: the data set's name.
        output: JSON file to write; a summary is printed. Without it the datalist is returned.

    Raises:
        FileNotFoundError: when the folder or the CSV is missing, or MONAI Label has not served the folder.
        ValueError: when neither bundle nor classes are given, nothing is annotated, or the request cannot be met.
    """
    if (bundle is None) == (classes is None):
        raise ValueError("either bundle or classes must be given: annotations do not tell what their values are.")
    if isinstance(classes, str):  # a single one on the command line
        classes = [classes]
    space = bundle_classes(bundle) if classes is None else {"classes": list(classes), "mode": mode}
    items = study_items(studies, patients)
    annotated = {item["patient"] for item in items if "label" in item}
    labeled = max(1, len(annotated) - validation - test) if labeled is None else labeled
    draw = {"labeled": labeled, "validation": validation, "split": split, "seed": seed}
    return written(datalist_by_patient(lambda _: items, studies, test, {"name": name, **space}, **draw), output)


def study_items(studies: str | Path, patients: str | Path | None = None) -> list[dict]:
    """The images of a folder of studies, by name: items with 'image', 'patient' and, where one was saved as final,
    'label', a label map. See :func:`monailabel_datalist`."""
    folder = existing_folder(studies)
    store = folder / STORE
    if not store.is_file():
        raise FileNotFoundError(
            f"{folder} must hold {STORE}, got none: give the folder of studies that MONAI Label was started with."
        )
    content = read_json(store, "it is MONAI Label's: start the server once more")
    images, labels = folder / content.get("images_dir", "."), folder / content.get("labels_dir", "labels") / FINAL
    table = patients if patients is not None else folder / PATIENTS
    named = read_patients(table) if patients is not None or Path(table).is_file() else {}
    items = []
    for name, entry in sorted(content["objects"].items()):
        image = os.path.realpath(images / f"{name}{entry['image']['ext']}")  # as MONAI Label hands it in
        item = {"image": image, "patient": named.get(file_stem(name)) or patient_of_file(image) or name}
        if FINAL in entry["labels"]:
            item["label"] = os.path.realpath(labels / f"{name}{entry['labels'][FINAL]['ext']}")
        items.append(item)
    called = same_patients(item["patient"] for item in items)
    return [{**item, "patient": called[item["patient"]]} for item in items if Path(item["image"]).is_file()]


def patient_of_file(image: str) -> str | None:
    """Whom a DICOM file shows; None where it does not tell, and of other files."""
    if file_suffix(image) not in DICOM_SUFFIXES or not Path(image).is_file():
        return None
    import pydicom

    header = pydicom.dcmread(image, stop_before_pixels=True, specific_tags=["PatientID"])
    return str(header.get("PatientID", "")).strip() or None


def bundle_classes(bundle: str | Path) -> dict[str, Any]:
    """Classes and mode that a bundle infers with."""
    path = Path(bundle) / "configs" / "inference.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be the bundle's, got no such file: give the bundle's folder.")
    config = read_json(path, "copy the bundle again")
    if not isinstance(config.get("classes"), list) or config.get("mode") not in MODES:
        raise ValueError(f"{path} must name classes and mode, got none: give a bundle of this project.")
    return {key: config[key] for key in ("classes", "mode")}


def studies_of(pairs: Sequence[Mapping[str, Any]]) -> Path | None:
    """The folder of studies that MONAI Label took labelled images from; None where they are from elsewhere."""
    for pair in pairs:
        if isinstance(pair.get("label"), str):
            folder = Path(pair["label"]).parent.parent.parent  # labels/final
            if (folder / STORE).is_file():
                return folder
    return None


def datalist_of_training(datalist: str | Path | None) -> dict[str, Any] | None:
    """The datalist of a training that MONAI Label has begun, which writes its labelled images into the configuration
    that is being parsed; None of any other training.

    Args:
        datalist: a datalist's file, whose classes count and whose unlabelled images are learnt from as well; None for
            the classes of the bundle.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when there is no labelled image.
    """
    from common.parsed import parsed_configuration  # MONAI takes a while

    config = parsed_configuration() or {}
    labeled, validation = (config.get(key, {}).get("dataset", {}).get("data") for key in ("train", "validate"))
    if not isinstance(labeled, list):
        return None
    if not labeled:
        raise ValueError(
            "train#dataset#data must hold labelled images, got none: annotate some, and save them as final."
        )
    studies = studies_of(labeled)
    if studies is None:
        return None
    if datalist is None:
        base = {"name": studies.name, **bundle_classes(config["bundle_root"])}
    else:
        base = load_datalist(datalist)
    return annotated_datalist(studies, labeled, validation if isinstance(validation, list) else None, base)


def annotated_datalist(
    studies: Path, labeled: Sequence[Mapping], validation: Sequence[Mapping] | None, base: Mapping[str, Any]
) -> dict[str, Any]:
    """The datalist of a training that MONAI Label has begun.

    Args:
        studies: the folder of studies.
        labeled: pairs of image and label that it hands in.
        validation: pairs for validation; None for those of ``base``.
        base: name, mode and classes, and perhaps images beside the studies.

    Returns:
        ``base`` with the labelled and validation pairs and their patients. Unlabelled are its own unlabelled images and
        all others of the studies, but those of patients who are validated on.
    """
    listed = [item for part in PARTS for item in base.get(part, [])]
    own = study_items(studies)
    patient_of = {os.path.realpath(item["image"]): item["patient"] for item in [*listed, *own]}

    def known(pairs: Sequence[Mapping]) -> list[dict]:
        return [{**pair, "patient": patient_of.get(os.path.realpath(pair["image"]), pair["image"])} for pair in pairs]

    learnt = known(labeled)
    seen = list(base.get("validation", [])) if validation is None else known(validation)
    both = {item["patient"] for item in learnt} & {item["patient"] for item in seen}
    if both:
        logger.warning(
            f"{len(both)} patients have images among both those to train on and those to validate on, which MONAI "
            f"Label parts by image: {first_few(sorted(both))}. The epoch is chosen by patients that were learnt from."
        )
    taken = {os.path.realpath(item["image"]) for item in [*listed, *learnt, *seen]}
    new = [{"image": item["image"], "patient": item["patient"]} for item in own if item["image"] not in taken]
    unlabeled = not_among([*base.get("unlabeled", []), *new], seen)
    return {"split": 0, "seed": 0, "test": [], **base, "labeled": learnt, "validation": seen, "unlabeled": unlabeled}
