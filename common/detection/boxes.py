"""Boxes around the objects of a label, and what they cover of an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from common.label_space import LabelSpace


def component_boxes(mask: np.ndarray, min_size: int = 90) -> np.ndarray:
    """The smallest boxes around the connected components of a mask, diagonal neighbours included.

    Args:
        mask: ``H W [D]``, boolean.
        min_size: components of more than so many pixels have a box; 90 as in the paper.

    Returns:
        First pixel along each axis and the one behind the last, ``n 4`` or ``n 6`` (MONAI's standard mode), float32.
    """
    components, number = ndimage.label(mask, np.ones((3,) * mask.ndim, bool))
    sizes = np.bincount(components.ravel(), minlength=number + 1)[1:]
    places = [place for place, size in zip(ndimage.find_objects(components), sizes, strict=True) if size > min_size]
    found = [[*(line.start for line in place), *(line.stop for line in place)] for place in places]
    return np.array(found, np.float32).reshape(-1, 2 * mask.ndim)


def label_boxes(labels: LabelSpace, label: Tensor, classes: Sequence[int], min_size: int = 90) -> list[dict]:
    """Boxes of some classes' objects in a label, as MONAI's detectors are taught.

    Args:
        labels: the label space.
        label: a label ``B C H W [D]`` of the label space.
        classes: indices of the classes among its foreground classes.
        min_size: see :func:`component_boxes`.

    Returns:
        For each image ``boxes``, ``n 4`` or ``n 6``, and ``labels``, ``n``, their classes' places in ``classes``.
    """
    masks, found = labels.masks(label)[:, list(classes)].cpu().numpy() > 0.5, []
    for image in masks:
        boxes = [component_boxes(mask, min_size) for mask in image]
        kinds = np.repeat(np.arange(len(boxes)), [len(each) for each in boxes])
        joined = torch.from_numpy(np.concatenate(boxes))
        found.append({"boxes": joined.to(label.device), "labels": torch.from_numpy(kinds).to(label.device)})
    return found


def filled(boxes: np.ndarray, kinds: np.ndarray, number: int, first: Sequence[int], size: Sequence[int]) -> np.ndarray:
    """What boxes cover in a window of an image: pixels whose centre lies within a box of a class.

    Args:
        boxes: ``n 4`` or ``n 6`` in the image's pixels; what of them lies outside of the window is left out.
        kinds: class of each box, ``n``.
        number: number of classes.
        first: the window's first pixel along each axis; it may lie before the image.
        size: its sides.

    Returns:
        A mask for each class, ``number H W [D]``, uint8.
    """
    mask, n = np.zeros((number, *size), np.uint8), len(size)
    # pixel i has its centre at i + 1/2, so that it is in from ceil(low - 1/2) on and before ceil(high - 1/2)
    edges = np.ceil(np.asarray(boxes, np.float64).reshape(-1, 2, n) - 0.5) - np.asarray(first)
    edges = np.clip(edges, 0, np.asarray(size)).astype(int)
    for kind, (low, high) in zip(kinds, edges, strict=True):
        mask[(int(kind), *map(slice, low, high))] = 1
    return mask
