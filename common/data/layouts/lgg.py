"""TCGA-LGG's slices of brain MRI with low-grade glioma (Buda et al. 2019) as they are distributed, and datalists."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from functools import cache, partial
from numbers import Integral
from pathlib import Path

import numpy as np
from PIL import Image

from common.data.datalist import written
from common.data.datalist_rules import PARTS
from common.data.files import first_few
from common.data.layouts.by_patient import datalist_by_patient, draw_patients
from common.data.readers import read_label
from common.data.splits import check_numbers
from common.data.volume_files import walk

CLASSES = ("tumor",)
CHANNELS = ("before contrast", "FLAIR", "after contrast")  # of an image; the first and the last are T1-weighted
LABELED = 2
_TIFF = (".tif", ".tiff")
_SLICE = re.compile(r"(.+)_(\d+)(_mask)?$", re.IGNORECASE)
_logger = logging.getLogger(__name__)
_DATE = re.compile(r"_(19|20)\d{6}$")  # of the examination, behind the patient's code


def lgg_datalist(
    folder: str | Path,
    labeled: int = LABELED,
    validation: int = 10,
    test: str | Path | int | None = 10,
    split: int = 0,
    seed: int = 0,
    share: float | None = None,
    name: str = "lgg",
    output: str | Path | None = None,
) -> dict | None:
    """Make a datalist of TCGA-LGG's slices, <patient>/<patient>_<slice>.tif with ..._<slice>_mask.tif beside it.

    Every part holds all slices of its patients. Images without a mask are unlabelled; where others of the same patient
    have one, a warning names them.

    Args:
        folder: folder of the patients' folders (kaggle_3m, say), at any depth.
        labeled: number of labelled patients; 1 is among 2 and those among 3 of the same split.
        validation: number of validation patients.
        test: number of test patients, the same ones for every number of labelled patients; or another folder of the
            layout.
        split: index of the split.
        seed: seed of the draw.
        share: instead of labeled, the share of the patients left after validation and test that are labelled, above 0
            and at most 1, as figure 2 of SegMatch has it; rounded, one patient at least.
        name: the data set's name.
        output: JSON file to write; a summary is printed. Without it the datalist is returned.

    Raises:
        FileNotFoundError: when the folder is missing or holds no slices.
        ValueError: as `find_lgg`; when the request cannot be met, or no labelled patient has a tumour; when a mask has
            several channels or grey levels: all are read here.
    """
    draw = {"validation": validation, "split": split, "seed": seed}
    parts = None
    if share is not None:
        _check_share(share, labeled, test)
        parts = partial(shared_parts, share=share, test=test if isinstance(test, Integral) else 0, **draw)
    space = {"name": name, "mode": "multilabel", "classes": list(CLASSES)}
    datalist = datalist_by_patient(_find, folder, test, space, parts=parts, labeled=labeled, **draw)
    shown = _tumors(item.get("label", item.get("truth")) for part in PARTS for item in datalist[part])
    if not any(shown[item["label"][0]] for item in datalist["labeled"]):
        patients = sorted({item["patient"] for item in datalist["labeled"]})
        raise ValueError(
            f"{folder}: a labelled patient must have a tumour, got empty masks alone of {first_few(patients)}: label "
            "more patients, or take another split."
        )
    return written(datalist, output)


def find_lgg(folder: str | Path) -> list[dict]:
    """All slices below a folder: items with 'image', 'patient' and, where there is one, 'label', a list of one mask.

    They are sorted by folder and by the slice's number. A patient is called as the folder, without the date of the
    examination: TCGA_CS_4941 of TCGA_CS_4941_19960909. Other files than TIFF are passed over.

    Raises:
        FileNotFoundError: when the folder is missing or holds no slices.
        ValueError: when a TIFF file is called otherwise, a patient or a slice is there twice, or a mask lacks its
            image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} must be the folder of TCGA-LGG's patients, got no such folder.")
    places: dict[str, Path] = {}
    images, masks, misnamed = {}, {}, []
    for place, files in walk(folder):
        for path in (path for path in files if path.suffix.lower() in _TIFF):
            match = _SLICE.match(path.stem)
            if not match or match[1] != place.name:
                misnamed.append(path.relative_to(folder))
                continue
            if places.setdefault(place.name, place) != place:
                both = f"{places[place.name]} and {place}"
                raise ValueError(f"{folder} must hold each patient once, got {both}: keep one of them.")
            known, key = masks if match[3] else images, (place.name, int(match[2]))
            if key in known:
                raise ValueError(f"{place} must hold each slice once, got {known[key].name} and {path.name}: keep one.")
            known[key] = path
    _check_names(folder, images, masks, misnamed)
    return [
        {"image": str(path), "patient": _DATE.sub("", key[0])} | ({"label": [str(masks[key])]} if key in masks else {})
        for key, path in sorted(images.items())
    ]


def _check_names(folder: Path, images: dict, masks: dict, misnamed: list[Path]) -> None:
    if misnamed:
        raise ValueError(
            f"{folder}: TIFF files must be named <patient>_<slice>.tif or <patient>_<slice>_mask.tif in a folder "
            f"<patient>, got {first_few(misnamed)}: rename them, or take them out."
        )
    if not images:
        found = f"{len(masks)} masks alone" if masks else "none"
        raise FileNotFoundError(f"{folder} must hold slices named <patient>/<patient>_<slice>.tif, got {found}.")
    orphans = [masks[key].name for key in sorted(set(masks) - set(images))]
    if orphans:
        raise ValueError(f"{folder}: each mask must have its image beside it, got none for {first_few(orphans)}.")


def _find(folder: str | Path) -> list[dict]:
    """All slices below a folder; says which lack a mask that others of their patient have."""
    items = find_lgg(folder)
    masked = {item["patient"] for item in items if "label" in item}
    bare = [Path(item["image"]).name for item in items if "label" not in item and item["patient"] in masked]
    if bare:
        _logger.warning(
            f"{folder}: {len(bare)} slices have no mask, but others of their patients do: {first_few(bare)}. They are "
            "unlabelled, and left out where their patient is labelled, validated or tested on."
        )
    return items


def _tumors(labels: Iterable[list[str] | None]) -> dict[str, bool]:
    """Which masks show a tumour; where some cannot be used, the first one's error, and the names of others."""
    shown: dict[str, bool] = {}
    wrong: dict[str, ValueError] = {}
    for mask in (label[0] for label in labels if label):
        try:
            shown[mask] = shows_tumor(mask)
        except ValueError as error:
            wrong[mask] = error
    if wrong:
        first, *others = wrong
        names = first_few(Path(mask).name for mask in others)
        more = f" {len(others)} more masks cannot be used: {names}." if others else ""
        raise ValueError(f"{wrong[first]}{more}") from wrong[first]
    return shown


def shows_tumor(mask: str | Path) -> bool:
    """Whether a slice's mask, 0 outside and 255 inside, holds any tumour; a file is read again once it has changed.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: naming the file, when it cannot be read or has several channels or grey levels.
    """
    changed = Path(mask).stat().st_mtime_ns if Path(mask).is_file() else None
    return _shows_tumor(str(mask), changed)


@cache  # datalists of a grid have the same masks
def _shows_tumor(mask: str, changed: int | None) -> bool:
    bands = _bands(mask)
    if len(bands) > 1:
        raise ValueError(f"{mask}: a mask must have one channel, got {len(bands)} ({''.join(bands)}): is it an image?")
    values = np.unique(read_label(mask))
    if len(set(values) - {0}) > 1:
        raise ValueError(
            f"{mask}: a mask must be 0 outside and 255 inside, got {len(values)} grey levels, {first_few(values)}: was "
            "it scaled? Take the nearest pixel for masks, or set a threshold."
        )
    return bool(values.any())


def _bands(picture: str) -> tuple[str, ...]:
    """Names of a picture's channels; none of a file that cannot be read, of which its reader tells more."""
    try:
        with Image.open(picture) as opened:
            return opened.getbands()
    except OSError:
        return ()


def shared_parts(
    names: Sequence[str], share: float, validation: int, test: int, split: int, seed: int
) -> dict[str, list[str]]:
    """The patients of each part where a share of those left after validation and test is labelled.

    Raises:
        ValueError: when a number is none, or there are too few patients.
    """
    check_numbers(validation=(validation, 0), test=(test, 0))
    number = max(1, round(share * (len(names) - validation - test)))
    return draw_patients(names, number, validation, test, split, seed)


def _check_share(share: float, labeled: int, test: str | Path | int | None) -> None:
    if isinstance(share, (bool, str)) or not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share!r}.")
    if labeled != LABELED:
        raise ValueError(f"either labeled or share must be given, got labeled={labeled} and share={share}: drop one.")
    if test is None:
        raise ValueError("test must be a number or a folder where share is given, got none: what is left would be all.")
