"""Labels of 2D images from their files, in the form of a label space."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.data.files import first_few
from common.data.readers import read_label, read_mask
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


def same_shape_up_to_scale(size: Sequence[int], other: Sequence[int]) -> bool:
    """Whether one of the 2D sizes is the other one scaled, up to the rounding to whole pixels."""
    (large, small) = (size, other) if max(size) >= max(other) else (other, size)
    scale = large[1] / small[1]
    return abs(small[0] * scale - large[0]) <= max(1.0, scale)
