"""RETOUCH's OCT volumes of retinal fluid (Bogunovic et al. 2019) as they are distributed, and their datalists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from common.data.datalist import written
from common.data.datalist_rules import validate_datalist
from common.data.files import first_few
from common.data.splits import check_numbers
from common.data.volume_files import existing_folder, walk

CLASSES = ("IRF", "SRF", "PED")  # intraretinal, subretinal fluid, pigment epithelial detachment
VENDORS = ("Cirrus", "Spectralis", "Topcon")
IMAGE, REFERENCE = "oct.mhd", "reference.mhd"
TRIES = 1000


def retouch_datalist(
    folder: str | Path,
    vendor: str = "Spectralis",
    labeled: int = 3,
    validation: int = 3,
    test: int = 3,
    split: int = 0,
    folds: int = 10,
    seed: int = 0,
    name: str = "retouch",
    output: str | Path | None = None,
) -> dict | None:
    """Make a datalist of RETOUCH's OCT volumes, oct.mhd with reference.mhd beside it in a folder for each case.

    Labelled images are single B-scans in which every fluid occurs, drawn from the training volumes; validation and test
    are whole volumes. All training volumes are unlabelled images, their labelled B-scans among them, as in RPG; so are
    volumes of this vendor without a reference. With 14 Spectralis volumes of 49 B-scans the defaults leave 392 to train
    on; the paper, which does not list its splits, has 415.

    Args:
        folder: folder of RETOUCH-TrainingSet-Spectralis and the like, or one of these.
        vendor: Cirrus, Spectralis or Topcon, by the folder's name; or all.
        labeled: number of labelled B-scans; 3 are among 6 and those among 12 of the same split.
        validation: number of validation volumes.
        test: number of test volumes; over all splits, every volume is tested on about equally often.
        split: index of the split, below the number of folds.
        folds: number of splits over which the test volumes change.
        seed: seed of the draw.
        name: the data set's name.
        output: JSON file to write; a summary is printed. Without it the datalist is returned.

    Raises:
        FileNotFoundError: when the folder is missing or holds no volumes of the vendor.
        ValueError: when a reference holds other values than 0 to 3, or the request cannot be met: too few volumes, a
            split whose labelled, validation or test part cannot show every fluid.
    """
    check_numbers(labeled=(labeled, 1), validation=(validation, 1), test=(test, 1), folds=(folds, 1), seed=(seed, 0))
    check_numbers(split=(split, 0))
    if split >= folds:
        raise ValueError(f"split must be below the number of folds, {folds}, got {split}.")
    items = find_retouch(folder, vendor)
    annotated = {item["patient"]: item for item in items if "label" in item}
    if validation + test >= len(annotated):
        raise ValueError(
            f"there must be volumes left to train on, got {len(annotated)} with a reference of which {validation} are "
            f"for validation and {test} for test: ask for fewer."
        )
    fluids = {patient: fluids_of(item["label"]) for patient, item in annotated.items()}
    parts = parts_of_split(fluids, validation, test, split, folds, seed)
    slices = draw_slices(fluids, parts["train"], labeled, np.random.default_rng([seed, split]))
    drawn = set(parts["train"])
    unlabeled = [_hidden(item) for item in items if item["patient"] in drawn or "label" not in item]
    datalist = {"name": name, "mode": "multiclass", "classes": list(CLASSES), "seed": seed, "split": split}
    datalist |= {
        "labeled": [{**annotated[patient], "slice": place} for patient, place in slices],
        "unlabeled": unlabeled,
        "validation": [annotated[patient] for patient in parts["validation"]],
        "test": [annotated[patient] for patient in parts["test"]],
    }
    validate_datalist(datalist)
    return written(datalist, output)


def find_retouch(folder: str | Path, vendor: str = "all") -> list[dict]:
    """The vendor's volumes below a folder: items with 'image', 'patient' and, where there is a reference, 'label'.

    The patient is the case's folder, as TRAIN025.

    Raises:
        FileNotFoundError: when the folder is missing or holds no volumes of the vendor.
        ValueError: for an unknown vendor, a case that is there twice, a reference without its volume.
    """
    if vendor not in (*VENDORS, "all"):
        raise ValueError(f"vendor must be one of {', '.join(VENDORS)} or all, got {vendor!r}.")
    folder = existing_folder(folder)
    cases: dict[str, dict] = {}
    others: set[str] = set()
    for place, files in walk(folder):
        names = {path.name.lower(): path for path in files}
        if REFERENCE in names and IMAGE not in names:
            raise ValueError(f"{place} must hold {IMAGE} beside {REFERENCE}, got none: copy the case again.")
        if IMAGE not in names:
            continue
        maker = _vendor_of(place)
        if vendor not in ("all", maker):
            others.add(maker)
            continue
        if place.name in cases:
            raise ValueError(f"{folder} must hold each case once, got {place.name} twice: keep one of them.")
        cases[place.name] = {"image": str(names[IMAGE]), "patient": place.name}
        if REFERENCE in names:
            cases[place.name]["label"] = str(names[REFERENCE])
    if not cases:
        wanted = "OCT volumes" if vendor == "all" else f"OCT volumes in a folder that is called after {vendor}"
        found = f"volumes of {', '.join(sorted(others))}" if others else f"no {IMAGE}"
        raise FileNotFoundError(f"{folder} must hold {wanted}, got {found}: give RETOUCH's folder, or another vendor.")
    return [cases[case] for case in sorted(cases)]


def _vendor_of(place: Path) -> str:
    """The vendor that the innermost folder with one in its name is called after."""
    found = (known for part in reversed(place.parts) for known in VENDORS if known.lower() in part.lower())
    return next(found, "no vendor in its path")


def fluids_of(reference: str | Path) -> np.ndarray:
    """Which fluid each B-scan of a reference shows: booleans (B-scans, fluids)."""
    reference = Path(reference)
    files = sorted(reference.parent.glob(f"{reference.stem}.*"))  # the header and its data
    return _fluids_of(reference, tuple(path.stat().st_mtime_ns for path in files))


@cache  # a grid draws dozens of datalists of the same references
def _fluids_of(reference: Path, times: tuple[int, ...]) -> np.ndarray:
    from common.data.volumes import read_volume_labels  # nibabel takes a while

    values = np.asarray(read_volume_labels(reference, len(CLASSES)).dataobj)
    return np.stack([(values == value + 1).any(axis=(0, 1)) for value in range(len(CLASSES))], axis=1)


def parts_of_split(
    fluids: Mapping[str, np.ndarray], validation: int, test: int, split: int, folds: int, seed: int
) -> dict[str, list[str]]:
    """The volumes to train on, for validation and for test.

    The volumes are shuffled, and the parts move through them from split to split. Of many shuffles the first one is
    taken with which every part of every split shows every fluid, or else of the most splits.

    Raises:
        ValueError: when a part of this split shows not every fluid: naming the part and the fluids.
    """
    names, best = sorted(fluids), None
    for attempt in range(TRIES):
        order = np.random.default_rng([seed, attempt]).permutation(len(names))
        splits = [_rotated([names[index] for index in order], validation, test, at, folds) for at in range(folds)]
        faults = [_missing(fluids, parts) for parts in splits]
        bad = sum(fault is not None for fault in faults)
        if best is None or bad < best[0]:
            best = bad, splits, faults
        if bad == 0:
            break
    bad, splits, faults = best
    if faults[split]:
        raise ValueError(
            f"every part of split {split} must show every fluid, got {faults[split]}, and {bad} such splits of {folds} "
            f"in the best of {TRIES} draws: ask for more validation and test volumes, or another split."
        )
    return splits[split]


def _rotated(names: list[str], validation: int, test: int, split: int, folds: int) -> dict[str, list[str]]:
    first = round(split * len(names) / folds)
    turned = names[first:] + names[:first]
    return {
        "test": sorted(turned[:test]),
        "validation": sorted(turned[test : test + validation]),
        "train": sorted(turned[test + validation :]),
    }


def _missing(fluids: Mapping[str, np.ndarray], parts: Mapping[str, list[str]]) -> str | None:
    """The first part that lacks a fluid, as a sentence's part; None where there is none."""
    for part, names in parts.items():
        shown = np.any([fluids[name].any(axis=0) for name in names], axis=0)
        if not shown.all():
            lacking = [CLASSES[index] for index in np.flatnonzero(~shown)]
            return f"{part} ({first_few(names)}) without {', '.join(lacking)}"
    return None


def draw_slices(
    fluids: Mapping[str, np.ndarray], names: Sequence[str], labeled: int, rng: np.random.Generator
) -> list[tuple[str, int]]:
    """Volumes and indices of the labelled B-scans: first those that add a fluid, then any, in random order.

    Raises:
        ValueError: when there are too few, or when fewer are asked for than show every fluid.
    """
    known = [(name, place) for name in names for place in range(len(fluids[name]))]
    order = [known[index] for index in rng.permutation(len(known))]
    front, missing = [], np.ones(len(CLASSES), bool)
    for name, place in order:
        if (missing & fluids[name][place]).any():
            front.append((name, place))
            missing &= ~fluids[name][place]
    if not len(front) <= labeled <= len(order):
        raise ValueError(
            f"labeled must be from {len(front)}, for every fluid to occur in this split, to {len(order)}, the number "
            f"of B-scans to train on, got {labeled}."
        )
    return (front + [one for one in order if one not in front])[:labeled]


def _hidden(item: dict) -> dict:
    return {("truth" if key == "label" else key): value for key, value in item.items()}
