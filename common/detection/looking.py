"""Boxes of whole images, slice by slice where the detector is one of slices: what is true, and what is found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from common.data import DecodedImages
from common.detection.boxes import label_boxes
from common.detection.found_boxes import Found
from common.detection.network import Detector
from common.label_space import LabelSpace

AT_ONCE = 8  # slices


def is_of_slices(patch_size: Sequence[int]) -> bool:
    """Whether windows of this size are slices of volumes."""
    return len(patch_size) == 3 and patch_size[-1] == 1


def window_of(patch_size: Sequence[int]) -> tuple[int, ...]:
    """The sides of what a detector sees: of a slice two."""
    return tuple(patch_size[:2] if is_of_slices(patch_size) else patch_size)


def planes(maps: Tensor, slices: bool) -> Tensor:
    """Maps ``C H W [D]`` as a batch: of themselves, or of their slices, ``D C H W``."""
    return maps.movedim(-1, 0) if slices else maps[None]


def joined(found: Sequence[dict[str, Tensor]], slices: bool) -> Found:
    """What there is in each of a batch, as that of one image: slices are one pixel thick, at their place."""
    parts = []
    for place, each in enumerate(found):
        part = {key: value.detach().cpu().numpy() for key, value in each.items()}
        if slices:
            low, high = np.split(part["boxes"], 2, axis=1)
            depth = np.full((len(low), 1), place, np.float32)
            part["boxes"] = np.concatenate([low, depth, high, depth + 1], axis=1)
        parts.append(part)
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def true_boxes(
    store: DecodedImages, labels: LabelSpace, classes: Sequence[int], min_size: int, slices: bool
) -> list[Found]:
    """``boxes`` and ``labels`` (foreground classes) of the objects of each image, by its label."""
    found = []
    for index in range(len(store)):
        label = torch.from_numpy(np.array(store.arrays(index)["label"]))
        found.append(joined(label_boxes(labels, planes(label, slices), classes, min_size), slices))
        found[-1]["labels"] = np.array(classes)[found[-1]["labels"]]
    return found


@torch.no_grad()
def boxes_in(
    detector: Detector, store: DecodedImages, classes: Sequence[int], slices: bool, device: torch.device
) -> list[Found]:
    """``boxes``, ``labels`` (foreground classes) and ``scores`` that the detector finds in each image.

    Images that are larger than its windows are looked at by MONAI's sliding windows.
    """
    detector.eval()
    found = []
    for index in tqdm(range(len(store)), desc="boxes", unit="image", leave=False, disable=None):
        image = torch.from_numpy(np.array(store.arrays(index)["image"], dtype=np.float32))
        batch = planes(image, slices)
        larger = any(side > most for side, most in zip(batch.shape[2:], detector.inferer.roi_size, strict=True))
        seen = [each for part in batch.split(AT_ONCE) for each in detector(part.to(device), use_inferer=larger)]
        boxes = joined(seen, slices)
        labels = np.array(classes)[boxes["labels"].astype(int)]
        found.append({"boxes": boxes["boxes"], "labels": labels, "scores": boxes["labels_scores"]})
    return found
