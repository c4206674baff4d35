"""Layouts in which FLAIR volumes and lesion masks are distributed: ISBI 2015, and one folder for each patient."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from common.data.files import file_stem, first_few
from common.data.patients import patients_of_images
from common.data.volume_files import existing_folder, is_flair, is_lesion_mask, nifti_files
from common.files import replacing

CONSENSUS = ("rater1", "rater2", "intersection", "union")
_ISBI_IMAGE = re.compile(r"(.+)_flair_pp$", re.IGNORECASE)
_ISBI_MASK = re.compile(r"(.+)_mask([12])$", re.IGNORECASE)


def isbi_items(
    folder: str | Path,
    consensus: str = "intersection",
    masks: str | Path | None = None,
    patients: str | Path | None = None,
) -> list[dict]:
    """The volumes of the ISBI 2015 longitudinal layout, sorted by name: items with 'image', 'patient' and, where there
    are masks, 'label', a list of one mask.

    Images are named ``training01_01_flair_pp.nii`` (patient, time point; or .nii.gz), masks ``training01_01_mask1.nii``
    and ``..._mask2.nii``, anywhere below the folder. An image without masks, as the challenge's test images, is
    unlabelled.

    Args:
        folder: folder of the images and masks.
        consensus: whose lesions: rater1, rater2, or the intersection or union of both, which is written as a file.
        masks: where masks of both raters are written, ``masks_<consensus>`` in the folder by default; those that are
            newer than the raters' stay as they are.
        patients: CSV that names each image's patient, where the name up to the time point does not.

    Raises:
        FileNotFoundError: when the folder is missing or holds no such image.
        ValueError: when a file is there twice, a mask lacks its image, or a rater's mask is missing or unreadable.
    """
    if consensus not in CONSENSUS:
        raise ValueError(f"consensus must be one of {', '.join(CONSENSUS)}, got {consensus!r}.")
    folder = existing_folder(folder)
    images, raters = _isbi_files(folder)
    place = Path(masks) if masks is not None else folder / f"masks_{consensus}"
    named = {file_stem(path): path for name, path in images.items() if name in raters}
    patient_of = {} if patients is None else patients_of_images(patients, named, {})
    items = []
    for name, image in sorted(images.items()):
        patient = patient_of.get(file_stem(image)) or re.sub(r"_\d+$", "", name)
        item = {"image": str(image), "patient": patient}
        if name in raters:
            item["label"] = [str(_consensus_mask(name, raters[name], consensus, place))]
        items.append(item)
    return items


def patient_folder_items(
    folder: str | Path, flair: str | None = None, mask: str | None = None, patients: str | Path | None = None
) -> list[dict]:
    """The volumes of a folder that holds one folder for each patient, as MSSEG and open_ms do: items with 'image',
    'label' (a list of one mask) and 'patient', sorted by patient.

    A patient's folder holds, at any depth, one NIfTI file with "flair" in its name and one with lesion, mask,
    consensus, seg or gt, which does not say brain. Of several masks the only one called consensus is taken.

    Args:
        folder: folder of the patients' folders.
        flair: pattern of the FLAIR volume's path in a patient's folder ("Preprocessed_Data/FLAIR*"), where there are
            several.
        mask: pattern of the lesion mask's path, likewise.
        patients: CSV that names the patient of each folder (in its column image), where it is not the folder's name.

    Raises:
        FileNotFoundError: when the folder is missing or holds no folder.
        ValueError: naming the candidates, when a patient's FLAIR volume or mask is missing or there are several.
    """
    folder = existing_folder(folder)
    found = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")}
    if not found:
        raise FileNotFoundError(f"{folder} must hold one folder for each patient, got none: give the folder above.")
    patient_of = {} if patients is None else patients_of_images(patients, found, {})
    items = []
    for name, path in found.items():
        files = sorted(nifti_files(path))
        image = _only(path, files, is_flair, flair, "FLAIR volume", "flair in its name", "flair")
        words = "lesion, mask, consensus, seg or gt in its name, and not brain"
        label = _only(path, files, is_lesion_mask, mask, "lesion mask", words, "mask")
        items.append({"image": str(image), "label": [str(label)], "patient": patient_of.get(name, name)})
    return items


def _only(
    folder: Path, files: list[Path], is_one: Callable[[str], bool], pattern: str | None, what: str, words: str, key: str
) -> Path:
    """The one file of a patient's folder that is called so, or fits the pattern."""
    if pattern is not None:
        chosen = [path for path in files if path.relative_to(folder).match(pattern)]
        words = f"the path {pattern}"
    else:
        chosen = [path for path in files if is_one(path.name)]
        agreed = [path for path in chosen if key == "mask" and "consensus" in path.name.lower()]
        chosen = agreed if len(agreed) == 1 else chosen
    if len(chosen) == 1:
        return chosen[0]
    names = [str(path.relative_to(folder)) for path in chosen or files]
    if chosen:
        found, advice = f"{len(chosen)}: {first_few(names)}", f"Choose by --{key} PATTERN, or take the others out"
    else:
        found = f"none among {first_few(names)}" if names else "no NIfTI file at all"
        advice = f"Rename it, or give --{key} PATTERN"
    raise ValueError(f"{folder} must hold one {what} ({words}), got {found}. {advice}.")


def _isbi_files(folder: Path) -> tuple[dict[str, Path], dict[str, dict[str, Path]]]:
    """Images by their name before _flair_pp, and of each the raters' masks."""
    images: dict[str, Path] = {}
    raters: dict[str, dict[str, Path]] = {}
    for path in nifti_files(folder):
        image, mask = _ISBI_IMAGE.match(file_stem(path)), _ISBI_MASK.match(file_stem(path))
        if image is None and mask is None:
            continue
        place = images if image else raters.setdefault(mask.group(1), {})
        key = image.group(1) if image else f"rater{mask.group(2)}"
        if key in place:
            raise ValueError(f"{folder}: {file_stem(path)} must be there once, got {place[key]}, {path}. Keep one.")
        place[key] = path
    if not images:
        raise FileNotFoundError(f"{folder} must hold volumes named training01_01_flair_pp.nii or .nii.gz, got none.")
    orphans = sorted(str(path) for name in set(raters) - set(images) for path in raters[name].values())
    if orphans:
        raise ValueError(f"{folder}: {len(orphans)} masks have no image: {first_few(orphans)}. Add the images.")
    return images, raters


def _consensus_mask(name: str, raters: dict[str, Path], consensus: str, folder: Path) -> Path:
    """The rater's mask; for an intersection or a union one that is written, unless it is newer than both."""
    needed = [consensus] if consensus.startswith("rater") else ["rater1", "rater2"]
    for rater in needed:
        if rater not in raters:
            there = ", ".join(map(str, raters.values()))
            raise ValueError(f"{name} must have a mask{rater[-1]} for consensus={consensus}, got {there} alone.")
    sources = [raters[rater] for rater in needed]
    if len(sources) == 1:
        return sources[0]
    # masks of the same name from two folders, native and preprocessed say, are two files
    origin = hashlib.sha256("\n".join(map(str, sources)).encode()).hexdigest()[:8]
    target = folder.absolute() / f"{name}_{consensus}_{origin}.nii.gz"
    if target.exists() and target.stat().st_mtime_ns > max(path.stat().st_mtime_ns for path in sources):
        return target
    import nibabel  # it takes a while

    from common.data.volumes import read_volume_mask

    first = read_volume_mask(sources[0])
    second = read_volume_mask(sources[1], like=first)
    combine = np.logical_and if consensus == "intersection" else np.logical_or
    mask = combine(np.asanyarray(first.dataobj), np.asanyarray(second.dataobj)).astype(np.uint8)
    with replacing(target) as temporary:
        temporary.write_bytes(gzip.compress(nibabel.Nifti1Image(mask, first.affine).to_bytes(), mtime=0))
    return target
