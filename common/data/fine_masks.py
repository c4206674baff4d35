"""Masks of fine classes beside a data set's own: one folder for each class, for some or all of the images."""

from __future__ import annotations

from pathlib import Path

from common.data.files import first_few, list_images


def with_fine_labels(folder: Path, items: list[dict], others: list[dict]) -> tuple[list[str], list[dict], list[dict]]:
    """The fine classes, and the items with their own label as 'evaluation' and the fine masks, if any, as 'label'.

    Args:
        folder: holds a folder for each class, named like it, with masks named like the images (their stems, in
            capitals or not).
        items: images, with 'patient' (the stem) and 'label', some of which have fine masks.
        others: images that need none, for the test part.

    Raises:
        FileNotFoundError: when the folder is missing or holds no masks.
        ValueError: when an image has masks of some classes alone, or a mask lacks its image.
    """
    masks = _find_masks(folder)
    stems = set().union(*masks.values())
    known = {item["patient"] for item in (*items, *others)}
    if stems - known:
        raise ValueError(
            f"{folder}: each mask must have the file name of its image, got {len(stems - known)} without one: "
            f"{first_few(sorted(stems - known))}. Rename them, or add the images."
        )
    for name, files in masks.items():
        if stems - set(files):
            raise ValueError(
                f"{folder / name}: it must hold masks of the same images as the other classes, got none of "
                f"{first_few(sorted(stems - set(files)))}. Add them, empty where the class is absent."
            )
    evaluated = [[_with_evaluation(item) for item in held] for held in (items, others)]
    for item in evaluated[0]:
        if item["patient"] in stems:
            item["label"] = [str(files[item["patient"]]) for files in masks.values()]
    return list(masks), *evaluated


def _with_evaluation(item: dict) -> dict:
    return {**{key: value for key, value in item.items() if key != "label"}, "evaluation": item["label"]}


def _find_masks(folder: Path) -> dict[str, dict[str, Path]]:
    """The mask files of each class by the image's stem, classes in alphabetical order."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: there is no such folder. Fine masks lie in a folder for each class, as "
            "fine/left_ventricle/JPCLN001.png; `python -m common phantom jsrt DIR --fine` makes some."
        )
    masks = {
        child.name: {stem.upper(): path for stem, path in list_images(child).items()}
        for child in sorted(folder.iterdir())
        if child.is_dir() and not child.name.startswith(".")
    }
    if not any(masks.values()):
        raise FileNotFoundError(f"{folder}: it must hold a folder of masks for each fine class, got no mask.")
    return masks
