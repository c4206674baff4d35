"""Reads all volumes and labels of a datalist and gathers what they hold and what is wrong with them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
from nibabel.affines import voxel_sizes
from scipy import ndimage
from tqdm import tqdm

from common.data.datalist_rules import PARTS, label_classes
from common.data.files import first_few, times
from common.data.inspection import Inspection, class_masks, digest, ends
from common.data.labels import load_volume_label, require_own_label
from common.data.mask_facts import MaskFacts
from common.data.near_duplicates import Seen, report_duplicates, report_near_copies
from common.data.volumes import is_volume, read_volume
from common.label_space import LabelSpace

LARGEST_VOXEL_MM = 2.0
SMALL_MM3 = 100.0  # where nothing is larger than this, two digits of ml say little
SMALLEST_SIDE = 64  # voxels; the side of a patch in training
# share of a face of the volume that is exactly 0: all but where the brain touches it, once the skull is removed
ZERO_BORDER = 0.75
_CORNERS_TOUCH = np.ones((3, 3, 3))


@dataclass
class _Part:
    """The facts about one part, gathered volume by volume."""

    shapes: list[tuple[int, ...]] = field(default_factory=list)
    voxels: list[tuple[float, ...]] = field(default_factory=list)
    mm3: list[list[float]] = field(default_factory=list)  # per annotated volume, of each class
    components: list[list[int]] = field(default_factory=list)
    masks: MaskFacts = field(default_factory=MaskFacts)
    empty: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    coarse: list[str] = field(default_factory=list)
    small: list[str] = field(default_factory=list)
    with_skull: list[str] = field(default_factory=list)
    seen: dict[str, Seen] = field(default_factory=dict)  # whole volumes by file, also of items that are slices


def holds_volumes(datalist: dict) -> bool:
    """Whether a datalist with absolute paths is of 3D images; the first one whose header can be read decides."""
    for part in PARTS:
        for item in datalist[part]:
            volume = is_volume(item["image"])
            if volume is not None:
                return volume
    return False


def inspect_volumes(datalist: dict) -> Inspection:
    """Read all files of a datalist of volumes that has absolute paths (see `common.data.datalist.read_datalist`)."""
    found = Inspection(pd.DataFrame(), pd.DataFrame())
    parts = {part: _Part() for part in PARTS}
    places: dict[bytes, list[tuple[str, str]]] = defaultdict(list)
    volumes: dict[bytes, list[tuple[str, str]]] = defaultdict(list)  # of which slices are items
    total = sum(len(datalist[part]) for part in PARTS)
    with tqdm(total=total, desc="checking", unit="volume", leave=False, disable=None) as progress:
        for part in PARTS:
            for item in datalist[part]:
                labels = LabelSpace(label_classes(datalist, part), datalist["mode"])
                _inspect_item(item, part, parts[part], labels, (places, volumes), found.errors)
                progress.update()
    for content, slices in volumes.items():
        if {part for part, _ in places.get(content, [])} & {"validation", "test"}:
            places[content] += slices
    report_duplicates(places, found, "volume")
    report_near_copies([image for facts in parts.values() for image in facts.seen.values()], found, "volume")
    for part, facts in parts.items():
        _report_part(part, facts, datalist[part], label_classes(datalist, part), found)
    found.parts = pd.DataFrame([_part_row(part, parts[part], datalist[part]) for part in PARTS])
    largest = max((size for facts in parts.values() for sizes in facts.mm3 for size in sizes), default=0.0)
    unit = "ml" if largest > SMALL_MM3 else "mm3"
    rows = [
        _class_row(part, facts, index, name, unit)
        for part, facts in parts.items()
        for index, name in enumerate(label_classes(datalist, part))
        if facts.components
    ]
    found.classes = pd.DataFrame(rows)
    return found


def _inspect_item(
    item: dict, part: str, facts: _Part, labels: LabelSpace, places: tuple[dict, dict], errors: list[str]
) -> None:
    """Adds the facts; ``places`` are of items, and of the volumes of which an item is a slice, by their values."""
    try:
        image = read_volume(item["image"])
        own, values = _slices(item, image), np.asanyarray(image.dataobj)
    except (OSError, ValueError) as error:
        errors.append(f"{part}: {error}")
        return
    _inspect_image(image, _name(item), facts)
    content = digest(values[own])
    places[0][content].append((part, _name(item)))
    if "slice" in item:
        content = digest(values)
        places[1][content].append((part, _name(item)))
    if item["image"] not in facts.seen:
        facts.seen[item["image"]] = Seen.of(item, part, content, values)
    files = item.get("label", item.get("truth"))
    if files is None:
        return
    try:
        label = load_volume_label(files, labels, image)[(slice(None), *own)]
        require_own_label(files, item["image"])
    except (OSError, ValueError) as error:
        errors.append(f"{part}: {error}")
        return
    masks = class_masks(label, labels)
    facts.masks.add(masks, _name(item))
    facts.mm3.append([np.count_nonzero(mask) * _voxel_mm3(image) for mask in masks])
    facts.components.append([ndimage.label(mask, _CORNERS_TOUCH)[1] for mask in masks])
    for index, number in enumerate(facts.components[-1]):
        if number == 0:
            facts.empty[index].append(_name(item))


def _slices(item: dict, image: nibabel.Nifti1Image) -> tuple[slice, ...]:
    """The part of a volume that an item is of."""
    place, depth = item.get("slice"), image.shape[-1]
    if place is None:
        return (slice(None),) * 3
    if place >= depth:
        raise ValueError(f"{item['image']} must have a slice {place}, counted from 0, got {depth} slices.")
    return slice(None), slice(None), slice(place, place + 1)


def _inspect_image(image: nibabel.Nifti1Image, name: str, facts: _Part) -> None:
    voxel = tuple(round(float(size), 3) for size in voxel_sizes(image.affine))
    facts.shapes.append(image.shape)
    facts.voxels.append(voxel)
    if max(voxel) > LARGEST_VOXEL_MM:
        facts.coarse.append(f"{name} ({times(voxel)} mm)")
    if min(image.shape) < SMALLEST_SIDE:
        facts.small.append(f"{name} ({times(image.shape)})")
    values = np.asanyarray(image.dataobj)
    faces = [values.take(end, axis) for axis in range(3) for end in (0, -1)]
    if min(np.mean(face == 0) for face in faces) < ZERO_BORDER:
        facts.with_skull.append(name)


def _voxel_mm3(image: nibabel.Nifti1Image) -> float:
    return abs(np.linalg.det(image.affine[:3, :3]))


def _name(item: dict) -> str:
    """A file's name with its folder's, since a patient's file is often called as all others', and which slice of it."""
    name = "/".join(Path(item["image"]).parts[-2:])
    return f"{name} slice {item['slice']}" if "slice" in item else name


def _report_part(part: str, facts: _Part, items: list[dict], classes: Sequence[str], found: Inspection) -> None:
    if not items:
        lines = {"labeled": found.errors, "validation": found.notes}.get(part, found.warnings)
        lines.append(f"{part} holds no volume.")
    facts.masks.report(part, classes, found)
    for index, names in sorted(facts.empty.items()):
        name = classes[index] if index < len(classes) else "label"
        if part == "labeled" and len(names) == len(facts.components):
            found.errors.append(f"labeled: no volume or slice holds {name}. Choose others.")
        else:
            message = f"{part}: {len(names)} of {len(facts.components)} masks hold no {name}"
            # that a case lacks one of several classes is usual
            lines = found.warnings if len(classes) == 1 else found.notes
            lines.append(f"{message}: {first_few(names)}. Is the patient free of them, or the mask lost?")
    if not any("lesion" in name.lower() for name in classes):  # what follows is about small lesions in brains
        return
    for names, message, advice in (
        (facts.coarse, f"have voxels of more than {LARGEST_VOXEL_MM:g} mm along an axis", "Small lesions are lost"),
        (facts.small, f"have fewer than {SMALLEST_SIDE} voxels along an axis", "A patch does not fit in"),
        (facts.with_skull, "seem to show more than the brain: few zeros at the border", "Preprocess brains"),
    ):
        if names:
            found.warnings.append(f"{part}: {len(names)} volumes {message}: {first_few(names)}. {advice}.")


def _part_row(part: str, facts: _Part, items: list[dict]) -> dict:
    return {
        "part": part,
        "volumes": len(items),
        "patients": len({item["patient"] for item in items}),
        "shape": ends(facts.shapes),
        "voxels (mm)": ends(facts.voxels),
    }


def _class_row(part: str, facts: _Part, index: int, name: str, unit: str) -> dict:
    sizes = [volume[index] / (1000 if unit == "ml" else 1) for volume in facts.mm3 if index < len(volume)]
    number = [count[index] for count in facts.components if index < len(count)]
    return {
        "part": part if part != "unlabeled" else "unlabeled (hidden truth)",
        "class": name,
        "in volumes": f"{sum(count > 0 for count in number)} of {len(number)}",
        unit: f"{min(sizes):.2f} to {max(sizes):.2f}, median {np.median(sizes):.2f}" if sizes else "-",
        "number": f"{min(number)} to {max(number)}, median {np.median(number):g}" if number else "-",
    }
