"""Labels of images and volumes from their files, in the form of a label space."""

from __future__ import annotations

from collections.abc import Sequence
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
    multilabel = labels.mode == "multilabel"
    if isinstance(files, (list, tuple)):
        if not multilabel or len(files) not in map(len, labels.forms):
            masks = " or ".join(f"{len(names)} masks, one for each of {first_few(names)}" for names in labels.forms)
            expected = masks if multilabel else "one label map"
            raise ValueError(f"a {labels.mode} label must be {expected}, got {len(files)} files: {first_few(files)}.")
        masks = [read_mask(file) for file in files]
        sizes = {mask.shape for mask in masks}
        if len(sizes) > 1:
            raise ValueError(f"{files[0]}: the masks of one image must have one size, got {sorted(sizes)}.")
        return np.stack(masks).astype(np.float32)
    label, classes = read_label(files), labels.forms[0]
    outside = np.setdiff1d(label, np.arange(len(classes) + 1))
    if outside.size:
        raise ValueError(
            f"{files}: a label map of {len(classes)} classes {classes} must hold values 0 to {len(classes)}, got "
            f"{outside[:8].tolist()}. Declare the classes, or renumber the values."
        )
    if multilabel:
        return np.stack([label == value + 1 for value in range(len(classes))]).astype(np.float32)
    return label[None].astype(np.float32)


def load_volume_label(files: str | Sequence[str], labels: LabelSpace, like: nibabel.Nifti1Image) -> np.ndarray:
    """A volume's label files as float32 ``(C, H, W, D)`` or ``(1, H, W, D)``, on the grid of its image.

    See :class:`~common.transforms.LoadVolumed`.
    """
    from common.data.volumes import read_volume_labels, read_volume_mask  # nibabel takes a while

    names = [files] if isinstance(files, str) else list(files)
    count = labels.num_classes
    if labels.multilabel and (len(names) == count if count == 1 else not isinstance(files, str)):
        if len(names) != count:
            raise ValueError(
                f"a {labels.mode} label must be {count} masks, one for each of {first_few(labels.classes)}, got "
                f"{len(names)} files: {first_few(names)}."
            )
        masks = [read_volume_mask(file, like).dataobj for file in names]
        return np.stack([np.asarray(mask, dtype=np.float32) for mask in masks])
    if len(names) != 1:
        raise ValueError(f"a {labels.mode} label must be one label map, got {len(names)} files: {first_few(names)}.")
    values = np.asarray(read_volume_labels(names[0], count, like).dataobj)
    if labels.multilabel:
        return np.stack([values == value + 1 for value in range(count)]).astype(np.float32)
    return values[None].astype(np.float32)


def label_values(file: str) -> set[int]:
    """The values that occur in a label map, 2D or 3D."""
    from common.data.volumes import is_volume, read_volume_labels

    values = np.asarray(read_volume_labels(file).dataobj) if is_volume(file) else read_label(file)
    return {int(value) for value in np.unique(values)}


def classes_present(label: str | Sequence[str], num_classes: int) -> frozenset[int]:
    """Indices of the classes that occur in a label: one mask for each class, or one label map."""
    from common.data.volumes import is_volume, read_volume_mask

    if isinstance(label, str):
        return frozenset(value - 1 for value in label_values(label) if 1 <= value <= num_classes)
    masks = (read_volume_mask(file).dataobj if is_volume(file) else read_mask(file) for file in label)
    return frozenset(index for index, mask in enumerate(masks) if np.asanyarray(mask).any())


def same_shape_up_to_scale(size: Sequence[int], other: Sequence[int]) -> bool:
    """Whether one of the 2D sizes is the other one scaled, up to the rounding to whole pixels."""
    (large, small) = (size, other) if max(size) >= max(other) else (other, size)
    scale = large[1] / small[1]
    return abs(small[0] * scale - large[0]) <= max(1.0, scale)
