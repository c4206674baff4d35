"""Reads all files of a datalist and gathers what they hold and what is wrong with them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy import ndimage
from tqdm import tqdm

from common.data.datalist_rules import PARTS, label_classes
from common.data.files import PICTURE_SUFFIXES, file_suffix, first_few, times
from common.data.labels import load_label, require_own_label, same_shape_up_to_scale
from common.data.mask_facts import MaskFacts
from common.data.near_duplicates import Seen, report_duplicates, report_near_copies
from common.data.readers import read_image
from common.label_space import LabelSpace


@dataclass
class Inspection:
    """What `inspect_datalist` found; errors stop a training, warnings and notes do not."""

    parts: pd.DataFrame
    classes: pd.DataFrame
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class _Part:
    """The facts about one part, gathered image by image."""

    sizes: list[tuple[int, ...]] = field(default_factory=list)
    lowest: float = np.inf
    highest: float = -np.inf
    pixels: list[np.ndarray] = field(default_factory=list)  # per label, each class's pixels
    shares: list[np.ndarray] = field(default_factory=list)  # per label, each class's share of the image
    masks: MaskFacts = field(default_factory=MaskFacts)
    empty: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    showing: dict[int, set] = field(default_factory=lambda: defaultdict(set))  # patients by class
    absent: dict[int, set] = field(default_factory=lambda: defaultdict(set))  # patients of empty labels by class
    rescaled: int = 0
    coloured: int = 0  # images whose channels differ
    blank: list[str] = field(default_factory=list)  # those with a channel of one value
    bright_lungs: list[bool] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)


def inspect_datalist(datalist: dict) -> Inspection:
    """Read all files of a datalist that has absolute paths (see `common.data.datalist.read_datalist`)."""
    labels = {part: LabelSpace(label_classes(datalist, part), datalist["mode"]) for part in PARTS}
    found = Inspection(pd.DataFrame(), pd.DataFrame())
    parts = {part: _Part() for part in PARTS}
    places: dict[bytes, list[tuple[str, str]]] = defaultdict(list)
    total = sum(len(datalist[part]) for part in PARTS)
    with tqdm(total=total, desc="checking", unit="image", leave=False, disable=None) as progress:
        for part in PARTS:
            for item in datalist[part]:
                _inspect_item(item, part, parts[part], labels[part], places, found.errors)
                progress.update()
    report_duplicates(places, found, name=lambda file: Path(file).name)
    report_near_copies([image for facts in parts.values() for image in facts.seen], found)
    for part, facts in parts.items():
        _report_part(part, facts, datalist[part], labels[part].classes, found)
    found.parts = pd.DataFrame([_part_row(part, parts[part], datalist[part]) for part in PARTS])
    rows = [_class_row(part, parts[part], j, name) for part in PARTS for j, name in enumerate(labels[part].classes)]
    found.classes = pd.DataFrame([row for row in rows if row is not None])
    return found


def _inspect_item(item: dict, part: str, facts: _Part, labels: LabelSpace, places: dict, errors: list[str]) -> None:
    image = label = None
    if "slice" in item:
        errors.append(f"{part}: {item['image']} must be a volume to have a 'slice', got an image of two axes.")
    try:
        image = read_image(item["image"])
        content = digest(image)
        places[content].append((part, item["image"]))
        facts.seen.append(Seen.of(item, part, content, image))
        facts.sizes.append(image.shape)
        facts.lowest, facts.highest = min(facts.lowest, image.min()), max(facts.highest, image.max())
        _inspect_channels(item["image"], facts)
    except (OSError, ValueError) as error:
        errors.append(f"{part}: {error}")
    files = item.get("label", item.get("truth"))
    try:
        label = None if files is None else load_label(files, labels)
        require_own_label(files, item["image"])
    except (OSError, ValueError) as error:
        errors.append(f"{part}: {error}")
    if label is not None:
        _inspect_masks(class_masks(label, labels), image, item, facts, labels.classes)
    if label is not None and image is not None and not same_shape_up_to_scale(label.shape[1:], image.shape):
        errors.append(
            f"{part}: {item['image']} and its label must have one size or shape, got {image.shape} and "
            f"{label.shape[1:]} ({files if isinstance(files, str) else files[0]})."
        )


def _inspect_channels(path: str, facts: _Part) -> None:
    """Counts a picture whose channels differ, as three contrasts do, and one with a channel of one value."""
    if file_suffix(path) not in PICTURE_SUFFIXES:
        return
    with Image.open(path) as picture:
        if len(picture.getbands()) == 1:
            return
    channels = read_image(path, channel="all")
    if (channels != channels[0]).any():
        facts.coloured += 1
        if (channels.min(axis=(1, 2)) == channels.max(axis=(1, 2))).any():
            facts.blank.append(Path(path).name)


def _inspect_masks(
    masks: np.ndarray, image: np.ndarray | None, item: dict, facts: _Part, classes: Sequence[str]
) -> None:
    facts.masks.add(masks, Path(item["image"]).name)
    facts.pixels.append(masks.sum(axis=(1, 2)))
    facts.shares.append(masks.mean(axis=(1, 2)))
    for index, pixels in enumerate(facts.pixels[-1]):
        (facts.showing if pixels else facts.absent)[index].add(item["patient"])
        if not pixels:
            facts.empty[index].append(Path(item["image"]).name)
    if image is not None:
        facts.bright_lungs += _lungs_are_bright(image, masks, classes)
        facts.rescaled += masks.shape[1:] != image.shape


def class_masks(label: np.ndarray, labels: LabelSpace) -> np.ndarray:
    """A label as it is read as one mask for each class, booleans."""
    return labels.masks(torch.from_numpy(label)[None])[0].numpy() > 0


def digest(values: np.ndarray) -> bytes:
    """Tells images of other values or another shape apart."""
    return hashlib.blake2b(repr(values.shape).encode() + np.ascontiguousarray(values).tobytes()).digest()


def ends(sizes: Sequence[tuple[float, ...]]) -> str:
    """The smallest and the largest of several sizes in words."""
    ordered = sorted(set(sizes), key=lambda size: (float(np.prod(size)), size))
    return " to ".join(map(times, dict.fromkeys(ordered[:1] + ordered[-1:]))) or "-"


def _lungs_are_bright(image: np.ndarray, masks: np.ndarray, classes: Sequence[str]) -> list[bool]:
    """Whether the lungs are brighter than a margin around them, as in an inverted radiograph alone; [] without."""
    chosen = [index for index, name in enumerate(classes) if "lung" in name.lower()]
    small = image[_grid(image.shape)]
    lungs = np.stack([mask[_grid(mask.shape)] for mask in masks])[chosen].any(axis=0)
    margin = ndimage.binary_dilation(lungs, iterations=6) & ~lungs
    if not lungs.any() or not margin.any():
        return []
    return [bool(small[lungs].mean() > small[margin].mean())]


def _grid(shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    return np.ix_(*(np.linspace(0, length - 1, 128).astype(int) for length in shape))


def _report_part(part: str, facts: _Part, items: list[dict], classes: Sequence[str], found: Inspection) -> None:
    if not items:
        (found.errors if part == "labeled" else found.warnings).append(f"{part} holds no image.")
    facts.masks.report(part, classes, found)
    for index, names in sorted(facts.empty.items()):
        if part == "labeled" and len(names) == len(facts.pixels):
            found.errors.append(f"labeled: no image holds {classes[index]}. Choose others, or leave the class out.")
        else:
            message = f"{part}: {len(names)} of {len(facts.pixels)} labels hold no {classes[index]}"
            if facts.absent[index] <= facts.showing[index]:  # slices, which are not expected to show everything
                found.notes.append(f"{message}; others of the same patients do.")
            else:
                found.warnings.append(f"{message}: {first_few(names)}.")
    if sum(facts.bright_lungs) * 2 > len(facts.bright_lungs):
        found.warnings.append(
            f"{part}: in {sum(facts.bright_lungs)} of {len(facts.bright_lungs)} images the lungs are brighter than "
            "what surrounds them. Air must be dark: invert the images."
        )
    if facts.rescaled:
        found.notes.append(f"{part}: {facts.rescaled} labels will be scaled to their image's size.")
    if facts.coloured:
        found.notes.append(
            f"{part}: {facts.coloured} images have channels that differ. Grey values are of all together, as images "
            "are read where no channel is asked for."
        )
    if facts.blank:
        found.notes.append(f"{part}: {len(facts.blank)} images have a channel of one value: {first_few(facts.blank)}.")


def _part_row(part: str, facts: _Part, items: list[dict]) -> dict:
    return {
        "part": part,
        "images": len(items),
        "patients": len({item["patient"] for item in items}),
        "width x height": ends(facts.sizes),
        "grey values": f"{facts.lowest:g} to {facts.highest:g}" if facts.sizes else "-",
    }


def _class_row(part: str, facts: _Part, index: int, name: str) -> dict | None:
    if not facts.pixels:
        return None
    pixels = [int(counts[index]) for counts in facts.pixels]
    return {
        "part": part if part != "unlabeled" else "unlabeled (hidden truth)",
        "class": name,
        "in images": f"{sum(count > 0 for count in pixels)} of {len(pixels)}",
        "pixels": f"{sum(pixels):,}",
        "mean share": f"{100 * np.mean([share[index] for share in facts.shares]):.2f} %",
    }
