"""Labels of images and volumes from their files, in the form of a label space."""

from __future__ import annotations

import filecmp
import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from common.data.files import first_few
from common.data.readers import read_label, read_mask

if TYPE_CHECKING:
    import nibabel

    from common.label_space import LabelSpace


def load_label(files: str | Sequence[str], labels: LabelSpace) -> np.ndarray:
    """A label's files as float32 ``(C, W, H)`` or ``(1, W, H)``, of their own size.

    See :class:`~common.transforms.LoadLabeld`.
    """
    return _label(files, labels, read_mask, read_label)


def load_volume_label(files: str | Sequence[str], labels: LabelSpace, like: nibabel.Nifti1Image) -> np.ndarray:
    """A volume's label files as float32 ``(C, H, W, D)`` or ``(1, H, W, D)``, on the grid of its image.

    See :class:`~common.transforms.LoadVolumed`.
    """
    from common.data.volumes import read_volume_labels, read_volume_mask  # nibabel takes a while

    return _label(
        files,
        labels,
        lambda file: np.asarray(read_volume_mask(file, like).dataobj),
        lambda file: np.asarray(read_volume_labels(file, None, like).dataobj),
    )


def _label(files: str | Sequence[str], labels: LabelSpace, read_one: Callable, read_map: Callable) -> np.ndarray:
    several = isinstance(files, (list, tuple))
    names, classes = list(files) if several else [files], labels.forms[0]
    masked = labels.multilabel and (several or len(classes) == 1)  # of one class that is its mask
    if len(names) not in (map(len, labels.forms) if masked else [1]):
        masks = " or ".join(f"{len(form)} masks, one for each of {first_few(form)}" for form in labels.forms)
        expected = masks if masked else "one label map"
        raise ValueError(f"a {labels.mode} label must be {expected}, got {len(names)} files: {first_few(names)}.")
    if masked:
        masks = [read_one(file) for file in names]
        sizes = {mask.shape for mask in masks}
        if len(sizes) > 1:
            raise ValueError(f"{names[0]}: the masks of one image must have one size, got {sorted(sizes)}.")
        _require_own_files(names, masks)
        return np.stack(masks).astype(np.float32)
    label = read_map(names[0])
    _require_classes(names[0], label, len(classes), classes)
    if labels.multilabel:
        return np.stack([label == value + 1 for value in range(len(classes))]).astype(np.float32)
    return label[None].astype(np.float32)


def label_values(file: str) -> set[int]:
    """The values that occur in a label map, 2D or 3D."""
    return {int(value) for value in np.unique(_label_map(file))}


def _label_map(file: str) -> np.ndarray:
    from common.data.volumes import is_volume, read_volume_labels

    return np.asarray(read_volume_labels(file).dataobj) if is_volume(file) else read_label(file)


def classes_present(label: str | Sequence[str], num_classes: int) -> frozenset[int]:
    """Indices of the classes that occur in a label: one mask for each class, or one label map; of a single class, every
    value above 0 is it.

    Raises:
        ValueError: as the readers; for values of no class, and one mask of several classes.
    """
    from common.data.volumes import is_volume, read_volume_mask

    if isinstance(label, str):
        values = _label_map(label)
        if num_classes == 1:
            return frozenset({0} if (values > 0).any() else ())
        _require_classes(label, values, num_classes)
        return frozenset(int(value) - 1 for value in np.unique(values) if value)
    masks = [np.asanyarray(read_volume_mask(file).dataobj) if is_volume(file) else read_mask(file) for file in label]
    _require_own_files(label, masks)
    return frozenset(index for index, mask in enumerate(masks) if mask.any())


def require_own_label(files: str | Sequence[str] | None, image: str) -> None:
    """Refuses a label that is its image, by another name or as a copy.

    Raises:
        ValueError: naming both.
    """
    for file in [files] if isinstance(files, str) else files or ():
        if filecmp.cmp(file, image, shallow=False):
            raise ValueError(
                f"{file}: a label must be another file than its image, got the bytes of {image}. Name the file of the "
                "mask."
            )


def _require_own_files(files: Sequence[str], masks: Sequence[np.ndarray]) -> None:
    """Refuses one mask of several classes, unless it is empty: that one may be given for all that an image lacks."""
    places = Counter(map(os.path.realpath, files))
    for file, mask in zip(files, masks, strict=True):
        number = places[os.path.realpath(file)]
        if number > 1 and mask.any():
            raise ValueError(
                f"{file}: each class must have a mask of its own, got this one for {number} classes. Name the file of "
                "each."
            )


def _require_classes(file: str, label: np.ndarray, classes: int, names: Sequence[str] = ()) -> None:
    """Refuses a label map with values that are no class's."""
    if not label.size or (label.min() >= 0 and label.max() <= classes):
        return
    found = np.unique(label)
    outside = [int(value) for value in found if not 0 <= value <= classes]
    advice = "Declare the classes, or renumber the values."
    if set(found) <= {0, *outside[:1]} and outside[0] > 0:
        advice = f"Is it a mask of one class? Give each class its own, or its number instead of {outside[0]}."
        if classes == 1:
            advice = (
                f"Renumber {outside[0]} to 1, or set the mode to multilabel, where inside of a single class's label is "
                "every value above 0."
            )
    of = f"{classes} class{'es' * (classes > 1)}{f' ({first_few(names)})' if names else ''}"
    raise ValueError(f"{file}: a label map of {of} must hold values 0 to {classes}, got {outside[:8]}. {advice}")


def same_shape_up_to_scale(size: Sequence[int], other: Sequence[int]) -> bool:
    """Whether one of the 2D sizes is the other one scaled, up to the rounding to whole pixels."""
    (large, small) = (size, other) if max(size) >= max(other) else (other, size)
    scale = large[1] / small[1]
    return abs(small[0] * scale - large[0]) <= max(1.0, scale)
