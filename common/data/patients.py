"""Which patient an image shows, from a CSV."""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Iterable
from pathlib import Path

from common.data.files import file_stem, first_few
from common.files import read_text

_IMAGE_COLUMNS = ("image", "file", "filename", "file_name", "image_file", "image_id", "path")
_PATIENT_COLUMNS = ("patient", "patient_id", "patientid", "subject", "subject_id")


def patients_of_images(path: str | Path | None, found: dict[str, Path], free: dict[str, Path]) -> dict[str, str]:
    """The patient of each image, by file stem; an image that no CSV names is a patient of its own, and one with images
    whose names differ only in what people write differently (see `plain_patient`).

    Args:
        path: the CSV, or None, which warns.
        found: annotated images, all of which the CSV must name.
        free: images without a label, of which it names all or none.

    Raises:
        FileNotFoundError, ValueError: as `read_patients`, and when the CSV misses an annotated image, or some of the
            images without a label, but not all.
    """
    own = same_patients((*found, *free))
    if path is None:
        warnings.warn(
            "without a CSV of patients each image counts as a patient of its own: images of one patient may fall into "
            "different parts. Give --patients FILE.csv if a patient has several images.",
            stacklevel=3,
        )
        annotated = {own[stem] for stem in found}
        if both := sorted(stem for stem in free if own[stem] in annotated):
            warnings.warn(
                f"{len(both)} of {len(free)} images without a label are called as annotated ones, and left out as "
                f"images of the same patients: {first_few(both)}. Rename them if they show others.",
                stacklevel=3,
            )
        return own
    patient_of = read_patients(path)
    unnamed = sorted(set(found) - set(patient_of))
    if unnamed:
        raise ValueError(
            f"{path}: {len(unnamed)} of {len(found)} images are not named there: {first_few(unnamed)}. Add their lines."
        )
    unnamed = sorted(set(free) - set(patient_of))
    if unnamed and len(unnamed) < len(free):  # a list that names none is of the annotated images alone
        raise ValueError(
            f"{path}: {len(unnamed)} of {len(free)} images without a label are not named there, others are: "
            f"{first_few(unnamed)}. Add their lines: each would count as a patient of its own."
        )
    return {stem: patient_of.get(name, name) for stem, name in own.items()} | patient_of


def plain_patient(patient: str) -> str:
    """What is left of a patient's name once all is taken away that people write differently: case, spaces and other
    marks, leading zeros, BIDS's ``sub-``."""
    word = re.sub(r"\d+", lambda digits: str(int(digits[0])), patient.casefold().removeprefix("sub-"))
    kept = re.sub(r"(?<=\d)[\W_]+(?=\d)", "\0", word)  # marks between two numbers tell them apart
    return re.sub(r"[^\w\0]|_", "", kept) or patient


def same_patients(names: Iterable[str]) -> dict[str, str]:
    """What each of several names is called; those of one plain name as the first of them."""
    first: dict[str, str] = {}
    return {name: first.setdefault(plain_patient(name), name) for name in names}


def read_patients(path: str | Path) -> dict[str, str]:
    """The patient of each image from a CSV, by the image's file stem as it is written and without a suffix.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when a column is missing, a cell is empty, or an image has two patients.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such CSV of patients.")
    with io.StringIO(read_text(path, "save it as CSV in UTF-8"), newline="") as file:
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
        try:
            rows = list(reader)
        except csv.Error as error:
            raise ValueError(f"{path}: the CSV must be a table, got {error}. Is a quotation mark left open?") from error
        for line, row in enumerate(rows, start=2):
            image, patient = (row[image_column] or "").strip(), (row[patient_column] or "").strip()
            if not image or not patient:
                raise ValueError(
                    f"{path}, line {line}: image and patient must be filled, got '{image[:80]}' and '{patient[:80]}'."
                )
            stem = file_stem(image.replace("\\", "/"))
            if patient_of.setdefault(stem, patient) != patient:
                raise ValueError(
                    f"{path}, line {line}: '{stem}' must have one patient, got {patient_of[stem]}, {patient}."
                )
    return patient_of


def _plain(column: str | None) -> str:
    return re.sub(r"[\s-]+", "_", (column or "").strip().lower())
