"""The JSRT radiographs with the SCR masks, as distributed or converted, and phantoms in that layout."""

from __future__ import annotations

import re
from pathlib import Path

from common.data.datalist import written
from common.data.files import first_few, list_images
from common.data.fine_masks import with_fine_labels
from common.data.splits import make_datalist

CLASSES = ("right_lung", "left_lung", "heart", "right_clavicle", "left_clavicle")
_NAME = re.compile(r"JPC(LN|NN)(\d+)$", re.IGNORECASE)
_IMAGE_FOLDERS = (("all247images",), ("nodule154images", "nonnodule93images"), ("images",))


def find_jsrt(directory: str | Path) -> list[dict]:
    """All radiographs of a folder with their five masks: items with 'image', 'label' (in the order of
    `CLASSES`) and 'patient' (the file's stem), sorted by patient.

    Images lie in ``All247images``, in ``Nodule154images`` and ``Nonnodule93images``, in ``images`` or in the
    folder itself. Masks lie in ``scratch/fold1/masks/right lung`` and so on, or in ``masks/right lung``;
    upper or lower case, with space or underscore.

    Raises:
        FileNotFoundError: when the folder is missing, or holds no radiographs or no masks.
        ValueError: when an image lacks a mask, a mask lacks its image, or a file is there twice.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(
            f"{directory}: there is no such folder. Give the folder that holds JSRT's All247images."
        )
    images = _find_images(directory)
    masks = _find_masks(directory)
    _check_pairs(directory, images, masks)
    return [
        {"image": str(images[stem]), "label": [str(masks[name][stem]) for name in CLASSES], "patient": stem}
        for stem in sorted(images)
    ]


def jsrt_datalist(
    dir: str | Path,  # the command line's name for it
    labeled: int = 3,
    split: int = 0,
    seed: int = 0,
    validation: int = 5,
    fine: bool = False,
    output: str | Path | None = None,
) -> dict | None:
    """Make a datalist of the JSRT radiographs: labelled, validation and unlabelled images from the odd
    numbers (fold 1), test images the even numbers (fold 2).

    Args:
        dir: folder with All247images and scratch (SCR masks), or a phantom of that layout.
        labeled: number of labelled images; 3 are among 6 and those among 12 of the same split.
        split: index of the split.
        seed: seed of the draw.
        validation: number of validation images; the same ones for every number of labelled images.
        fine: train on the fine classes of DIR/fine/<class>: the labelled images are drawn from those that have
            masks there and carry them; all other parts keep the five classes, by which the model is evaluated.
        output: JSON file to write; a summary is printed. Without it the datalist is returned.

    Raises:
        FileNotFoundError, ValueError: as `find_jsrt`, and when the request cannot be met.
    """
    items = find_jsrt(dir)
    odd = [item for item in items if _number(item["patient"]) % 2 == 1]
    even = [item for item in items if _number(item["patient"]) % 2 == 0]
    if not even:
        raise ValueError(
            f"{dir}: images with even numbers are needed for the test part, got none in {len(items)} images."
        )
    classes = CLASSES
    if fine:
        classes, odd, even = with_fine_labels(Path(dir) / "fine", odd, even)
    datalist = make_datalist(
        odd,
        classes=classes,
        evaluation_classes=CLASSES if fine else None,
        labeled=labeled,
        validation=validation,
        split=split,
        seed=seed,
        test=even,
        name="jsrt, fine classes" if fine else "jsrt",
    )
    return written(datalist, output)


def _number(stem: str) -> int:
    return int(_NAME.match(stem).group(2))


def _normalized(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip().lower())


def _radiographs(directory: Path) -> dict[str, Path]:
    return {stem.upper(): path for stem, path in list_images(directory).items() if _NAME.match(stem)}


def _find_images(directory: Path) -> dict[str, Path]:
    children = {child.name.lower(): child for child in sorted(directory.iterdir()) if child.is_dir()}
    for names in _IMAGE_FOLDERS:
        images: dict[str, Path] = {}
        for name in names:
            if name in children:
                images.update(_radiographs(children[name]))
        if images:
            return images
    images = _radiographs(directory)
    if not images:
        raise FileNotFoundError(
            f"{directory}: no radiograph named JPCLN001 or JPCNN001 (.IMG, .png, .dcm) was found in it or in its "
            "All247images. Give the folder that holds JSRT's All247images."
        )
    return images


def _find_masks(directory: Path) -> dict[str, dict[str, Path]]:
    masks: dict[str, dict[str, Path]] = {name: {} for name in CLASSES}
    folders = [folder for depth in ("*", "*/*", "*/*/*") for folder in sorted(directory.glob(depth))]
    for parent in folders:
        if not parent.is_dir() or parent.name.lower() != "masks":
            continue
        for folder in sorted(parent.iterdir()):
            name = _normalized(folder.name)
            if name not in masks or not folder.is_dir():
                continue
            for stem, path in _radiographs(folder).items():
                if stem in masks[name]:
                    raise ValueError(
                        f"{directory}: {stem} has two {name} masks: {masks[name][stem]}, {path}. Keep one."
                    )
                masks[name][stem] = path
    if not any(masks.values()):
        raise FileNotFoundError(
            f"{directory}: no SCR masks were found in scratch/fold1/masks/right lung and so on, or in masks/right "
            "lung. Unpack the SCR database (scratch) there."
        )
    return masks


def _check_pairs(directory: Path, images: dict[str, Path], masks: dict[str, dict[str, Path]]) -> None:
    for name, found in masks.items():
        bare = sorted(set(images) - set(found))
        orphans = sorted(set(found) - set(images))
        if bare:
            raise ValueError(
                f"{directory}: {len(bare)} of {len(images)} images have no {name} mask: {first_few(bare)}. "
                "Add the masks, or take the images out."
            )
        if orphans:
            raise ValueError(
                f"{directory}: {len(orphans)} of {len(found)} {name} masks have no image: {first_few(orphans)}. Add "
                "the images, or take the masks out."
            )
