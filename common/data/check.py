"""Checks what a datalist's files hold before hours are spent on them."""

from __future__ import annotations

from pathlib import Path

from common.data.datalist import read_datalist
from common.data.inspection import Inspection, inspect_datalist


def check(path: str | Path) -> None:
    """Read every file of a datalist and print what it holds: sizes, grey values, classes, and a list of
    problems.

    Errors (the process ends with status 1): unreadable or missing files, NaN or constant images, labels of
    another shape than the image or with values outside the classes, a class without a labelled pixel, the
    same image in two parts, a shared patient, a labelled or unlabelled image of which a test image is a near copy
    (written anew, resized, cropped or flipped), an image given as its own label, one mask given for two classes, a
    class that all labelled images show everywhere. Warnings: patients without a class, the same image twice in a
    part, near copies in other parts, an empty part, a mask that is inside everywhere, two classes of the same pixels,
    lungs brighter than what surrounds them (an inverted image).

    Of volumes (NIfTI, MHD, folders of DICOM series) it prints shapes, voxel sizes, and number and ml of lesions. Errors
    are also masks on another voxel grid than their image and series that lack a slice; warnings are voxels over 2 mm,
    fewer than 64 voxels along an axis, and volumes that show more than the brain.

    Args:
        path: the datalist's JSON file.

    Raises:
        SystemExit: when there are errors.
    """
    try:
        datalist = read_datalist(path)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    found = _inspect(datalist)
    print(f"{path}: {datalist.get('name', 'datalist')}, {datalist['mode']}, split {datalist.get('split')}\n")
    print(f"{found.parts.to_string(index=False)}\n\n{found.classes.to_string(index=False)}\n")
    for kind, lines in (("error", found.errors), ("warning", found.warnings), ("note", found.notes)):
        for line in lines:
            print(f"{kind}: {line}")
    print(f"{len(found.errors)} errors, {len(found.warnings)} warnings")
    if found.errors:
        raise SystemExit(1)


def require_sound_datalist(datalist: dict) -> None:
    """Read every file of a datalist with absolute paths, so that a training stops before it starts; prints warnings.

    Raises:
        ValueError: naming the first few of the errors that `check` prints.
    """
    found = _inspect(datalist)
    for line in found.warnings:
        print(f"warning: {line}")
    if found.errors:
        raise ValueError(
            f"the data must be sound, got {len(found.errors)} errors: {' '.join(found.errors[:3])} To see all of them, "
            "make a datalist and call `python -m common check` with it."
        )


def _inspect(datalist: dict) -> Inspection:
    from common.data.volume_inspection import holds_volumes, inspect_volumes

    return inspect_volumes(datalist) if holds_volumes(datalist) else inspect_datalist(datalist)
