"""What volumes there are below any folder, NIfTI files and DICOM series, and whose they are by their names."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from common.data.files import DICOM_SUFFIXES, NIFTI_SUFFIXES, file_stem, file_suffix, first_few, is_dicom
from common.data.patients import patients_of_images, same_patients

# as words of a name: a volume that is "masked", or of "mslesion", is none
_MASK = re.compile(
    r"(?<![a-z])(?:brain)?(?:masks?|lesions?|consensus|(?:manual)?segmentation|seg|gt|label)\d*(?![a-z])"
)
_TIME = r"(?:study|ses|session|visit|time|timepoint|tp|scan|exam)[-_]?\d+"
# the longest name before a time point, or before what says FLAIR
_BEFORE_TIME = re.compile(rf"(?:(.*?)[_-])?{_TIME}(?:[_.-].*)?$", re.IGNORECASE)
_BEFORE_NUMBER = re.compile(r"(.+)_\d+(?:_[a-z].*)?$", re.IGNORECASE)
_BEFORE_FLAIR = re.compile(r"(?:(.*?)[_.-])?flair(?:[_.-].*)?$", re.IGNORECASE)
_SAYS_NOTHING = ("", "anat", "dicom", "dcm", "raw", "orig", "preprocessed", "data", "images")


def unlabeled_items(folder: str | Path, known: Iterable[str] = (), patients: str | Path | None = None) -> list[dict]:
    """All volumes below a folder, NIfTI files and folders with DICOM files: items with 'image' and 'patient'.

    The patient is what the CSV says; else the one of ``known`` with whose name the file's (or a folder's above it)
    begins, whatever people write differently (see `common.data.patients.plain_patient`); else the file's name up to a
    time point, as ``_study1``, ``_ses-01`` or ``_01``, or up to ``_flair``; a name that consists of these alone, as
    ``flair.nii.gz``, leaves it to the folder above. Masks are passed over, as are other contrasts beside files that are
    called FLAIR.

    Args:
        folder: the folder.
        known: names of patients, those of the annotated volumes.
        patients: CSV that names the patients of images by their file's name, or of series by their folder's.

    Raises:
        FileNotFoundError: when the folder is missing or holds no volume.
    """
    folder = existing_folder(folder)
    table = {} if patients is None else patients_of_images(patients, {}, {})
    images = _volumes(folder)
    if not images:
        raise FileNotFoundError(f"{folder} must hold volumes, NIfTI files or folders of DICOM files, got none.")
    names = sorted({str(name) for name in known}, key=len, reverse=True)
    patterns = [(re.escape(name), name) for name in names] + [(_pattern(name), name) for name in names]
    known = [(re.compile(rf"{pattern}(?![a-zA-Z0-9])"), name) for pattern, name in patterns]
    found = [_patient(path, folder, known, table) for path in images]
    told = {*names, *table.values()}
    called = {name: name for name in told} | same_patients(name for name in found if name not in told)
    return [{"image": str(path), "patient": called[patient]} for path, patient in zip(images, found, strict=True)]


def patient_of_name(name: str) -> str:
    """The patient in a file's name without suffix: what stands before a time point, or before "flair"."""
    for pattern in (_BEFORE_TIME, _BEFORE_NUMBER, _BEFORE_FLAIR):
        match = pattern.match(name)
        if match:
            return match.group(1) or ""
    return name


def _pattern(patient: str) -> str:
    """An expression for what `common.data.patients.plain_patient` takes for the same name."""
    words = re.findall(r"\d+|[^\W\d_]+", patient.casefold().removeprefix("sub-"))
    found = ""
    for before, word in zip(["", *words], words, strict=False):
        marks = r"[\W_]+" if before.isdecimal() and word.isdecimal() else r"[\W_]*"
        found += marks + (f"0*{int(word)}" if word.isdecimal() else word)
    return rf"(?i:(?:sub-)?{found})" if found else re.escape(patient)


def _patient(path: Path, folder: Path, known: list[tuple[re.Pattern, str]], table: dict[str, str]) -> str:
    parts = path.relative_to(folder).parts
    names = [file_stem(parts[-1]), *reversed(parts[:-1])] if parts else [path.name]
    for name in names:
        if name in table:
            return table[name]
    for name in names:
        for pattern, patient in known:
            if pattern.match(name):
                return patient
    for name in names:
        if patient_of_name(name).lower() not in _SAYS_NOTHING:
            return patient_of_name(name)
    return names[0]


def is_mask(name: str) -> bool:
    """Whether a file's name calls it a mask, of lesions or of the brain."""
    return _MASK.search(name.lower()) is not None


def is_lesion_mask(name: str) -> bool:
    return is_mask(name) and "brain" not in name.lower()


def is_brain_mask(name: str) -> bool:
    return is_mask(name) and "brain" in name.lower()


def is_flair(name: str) -> bool:
    return "flair" in name.lower() and not is_mask(name)


def existing_folder(folder: str | Path) -> Path:
    folder = Path(folder).expanduser().absolute()
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder. Give the folder that holds the volumes.")
    return folder


def walk(folder: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Each folder with its files, hidden ones left out; links to folders are followed, each folder is met once."""
    met = set()
    for top, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(top)
        folders[:] = [] if real in met else sorted(name for name in folders if not name.startswith("."))
        if real not in met:
            met.add(real)
            yield Path(top), [Path(top, name) for name in sorted(files) if not name.startswith(".")]


def nifti_files(folder: Path) -> Iterator[Path]:
    for _, files in walk(folder):
        yield from (path for path in files if file_suffix(path) in NIFTI_SUFFIXES)


def _volumes(folder: Path) -> list[Path]:
    """NIfTI files that are no masks, and folders that hold DICOM files."""
    found, beside = [], []
    for top, files in walk(folder):
        images = [path for path in files if file_suffix(path) in NIFTI_SUFFIXES and not is_mask(path.name)]
        flair = [path for path in images if is_flair(path.name)]
        beside += [path for path in images if flair and path not in flair]
        found += flair or images
        if any(file_suffix(path) in DICOM_SUFFIXES or is_dicom(path) for path in files if path not in images):
            found.append(top)
    if beside:
        warnings.warn(
            f"{folder}: {len(beside)} volumes beside ones that are called FLAIR are left out: {first_few(beside)}.",
            stacklevel=3,
        )
    return sorted(found)
