"""Pairs of patches of 3D images, as a function of the iteration's number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor
from torch.utils.data import Dataset

from common.data.loader import collate
from common.data.volume_cache import CachedVolumes
from common.ranks import rank, world_size

# Streams of random numbers that must not be the same although they share seed and iteration.
PAIRS, UNLABELED = 10, 11
TRIES = 50


class Volume(NamedTuple):
    """What patches are drawn from.

    ``read`` opens the arrays ``C H W D`` (memory-mapped) anew for each patch, since thousands of open maps would be too
    many files. ``box`` holds the first and the last-plus-one index of the voxels that are not 0 along each axis,
    ``lesions`` the places of the voxels with a label, as flat indices of ``shape``. Where ``read`` gives no label,
    ``label`` holds it in the same way, as flat indices of ``C H W D``: lesions are few, and a mask is large.
    """

    name: str
    read: Callable[[], dict[str, np.ndarray]]
    shape: tuple[int, ...]
    box: np.ndarray
    lesions: np.ndarray
    label: np.ndarray | None = None
    classes: int = 1


class PairedPatches(Dataset):
    """The patches of iteration t: pairs from the training images, which become more while the curriculum goes on.

    A pair is, with probability ``same_patch``, one patch twice; else two patches of two images at the same place of the
    brain: the second one's centre has the same relative position in the bounding box of its image's voxels that are not
    0, as the first one's. Both have the same orientation (images are in RAS), also when they are mirrored
    left to right. Each of the two is augmented on its own (POPCORN, section 2.2).

    Everything is drawn from (seed, iteration, rank, place) and the list of training images alone, so a run that is
    resumed sees what the uninterrupted run saw, with any number of workers.

    Args:
        labeled: the labelled volumes.
        unlabeled: volumes without labels, for methods that ask for patches of them.
        patch_size: sides of a patch in voxels.
        pairs: number of pairs in a batch.
        unlabeled_batch: number of patches of unlabelled volumes in a batch.
        augment: random transform of a dictionary with ``image``, ``C H W D``; applied to each patch anew.
        same_patch: probability that a pair's patches are one and the same before they are augmented.
        lesion: probability that a patch's centre is a labelled voxel; else, and in images without any, it is any voxel
            of the brain.
        labeled_share: probability that a pair's first patch is of a labelled image; without it all training images are
            equally probable, as in the paper, however few are labelled.
        mirror: mirror half of the pairs left to right.
        seed: seed of all draws.

    Raises:
        ValueError: when a number is out of its range, or there is no labelled volume.
    """

    def __init__(
        self,
        labeled: CachedVolumes,
        unlabeled: CachedVolumes | None = None,
        patch_size: Sequence[int] = (64, 64, 64),
        pairs: int = 2,
        unlabeled_batch: int = 0,
        augment: Callable | None = None,
        same_patch: float = 0.5,
        lesion: float = 0.3,
        labeled_share: float | None = None,
        mirror: bool = True,
        seed: int = 0,
    ) -> None:
        if len(labeled) == 0:
            raise ValueError("labeled must hold at least one volume, got none: name it in the datalist.")
        if pairs < 1 or unlabeled_batch < 0:
            raise ValueError(f"pairs must be at least 1 and unlabeled_batch 0, got {pairs} and {unlabeled_batch}.")
        if any(side < 16 or side % 16 for side in patch_size):
            raise ValueError(f"patch_size must be multiples of 16, the network's down-scaling, got {list(patch_size)}.")
        for name, value in (("same_patch", same_patch), ("lesion", lesion), ("labeled_share", labeled_share or 0)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be a probability, got {value}.")
        self.patch_size, self.pairs, self.seed = tuple(patch_size), pairs, seed
        self.augment, self.same_patch, self.lesion, self.mirror = augment, same_patch, lesion, mirror
        self.labeled_share, self.unlabeled_batch = labeled_share, unlabeled_batch
        self.labeled = [
            volume(labeled.data[i]["image"], partial(labeled.arrays, i), labeled.box(i)) for i in range(len(labeled))
        ]
        self.unlabeled = unlabeled
        self.joined: list[Volume] = []
        self.looked_at: dict[int, Volume] = {}
        self.rank, self.world_size = rank(), world_size()

    def join(
        self, name: str, read: Callable[[], dict[str, np.ndarray]], box: np.ndarray, mask: np.ndarray | None = None
    ) -> None:
        """Adds a pseudo-labelled volume to the training images.

        Args:
            name: the image's file.
            box: see :class:`Volume`.
            read: gives the array ``image`` and, for soft labels, ``label`` and ``weight``, ``C H W D``.
            mask: the label of 0 and 1, ``C H W D``, where ``read`` gives none.
        """
        self.joined.append(volume(name, read, box, mask))

    def __getitem__(self, iteration: int) -> dict[str, dict[str, Any]]:
        first, second = [], []
        for place in range(self.pairs):
            draw = np.random.default_rng([self.seed, PAIRS, iteration, self.rank, place])
            one, other = self._pair(draw)
            first.append(self._augmented(one, draw))
            second.append(self._augmented(other, draw))
        batch = {"labeled": collate(with_weights([*first, *second]))}
        if self.unlabeled_batch and self.unlabeled is not None and len(self.unlabeled):
            batch["unlabeled"] = collate([self._unlabeled(iteration, place) for place in range(self.unlabeled_batch)])
        return batch

    def _pair(self, draw: np.random.Generator) -> tuple[dict, dict]:
        """The two patches of a pair before they are augmented."""
        number = len(self.labeled) + len(self.joined)
        mostly = self.labeled_share is not None and draw.random() < self.labeled_share
        first = int(draw.integers(len(self.labeled) if mostly else number))
        one = self._image(first)
        centre = self._centre(one, draw)
        mirrored = self.mirror and draw.random() < 0.5
        patch = crop(one, centre, self.patch_size, mirrored)
        if number == 1 or draw.random() < self.same_patch:
            return patch, dict(patch)
        second = int(draw.integers(number - 1))
        other = self._image(second + (second >= first))  # any but the first
        place = (centre - one.box[0]) / (one.box[1] - one.box[0])
        there = np.rint(other.box[0] + place * (other.box[1] - other.box[0])).astype(int)
        return patch, crop(other, there, self.patch_size, mirrored)

    def _image(self, index: int) -> Volume:
        """A training image: those that are labelled come first."""
        labeled = len(self.labeled)
        return self.labeled[index] if index < labeled else self.joined[index - labeled]

    def _centre(self, image: Volume, draw: np.random.Generator) -> np.ndarray:
        """A labelled voxel or any voxel of the brain."""
        if draw.random() < self.lesion and len(image.lesions):
            return np.array(np.unravel_index(image.lesions[draw.integers(len(image.lesions))], image.shape))
        values = image.read()["image"]
        for _ in range(TRIES):
            centre = draw.integers(*image.box)
            if values[(0, *centre)] != 0:
                break
        return centre

    def _unlabeled(self, iteration: int, place: int) -> dict[str, Any]:
        """A patch of an unlabelled image; each image has its turn."""
        draw = np.random.default_rng([self.seed, UNLABELED, iteration, self.rank, place])
        turn = (iteration * self.world_size + self.rank) * self.unlabeled_batch + place
        index = turn % len(self.unlabeled)
        if index not in self.looked_at:
            name, read = self.unlabeled.data[index]["image"], partial(self.unlabeled.arrays, index)
            shape = read()["image"].shape[1:]
            self.looked_at[index] = Volume(name, read, shape, self.unlabeled.box(index), np.zeros(0, np.int32))
        image = self.looked_at[index]
        patch = crop(image, self._centre(image, draw), self.patch_size, self.mirror and draw.random() < 0.5)
        return self._augmented({"image": patch["image"]}, draw)

    def _augmented(self, patch: dict[str, Any], draw: np.random.Generator) -> dict[str, Any]:
        seed = int(draw.integers(2**32 - 1))
        if self.augment is None:
            return patch
        if hasattr(self.augment, "set_random_state"):
            self.augment.set_random_state(seed=seed)
        return self.augment(patch)


def volume(
    name: str, read: Callable[[], dict[str, np.ndarray]], box: np.ndarray, mask: np.ndarray | None = None
) -> Volume:
    """A volume to draw patches from; a ``mask`` of 0 and 1 stands for the label that ``read`` does not give."""
    arrays = read()
    shape = arrays["image"].shape[1:]
    label = arrays.get("label") if mask is None else mask
    if label is None:
        return Volume(name, read, shape, box, np.zeros(0, np.int32))
    # a soft label is 0 nowhere
    lesions = np.flatnonzero((np.asarray(label) > 0.5).any(axis=0)).astype(np.int32)
    if mask is None:
        return Volume(name, read, shape, box, lesions)
    places = lesions if len(mask) == 1 else np.flatnonzero(mask).astype(np.int64)
    return Volume(name, read, shape, box, lesions, places, len(mask))


def crop(image: Volume, centre: np.ndarray, size: Sequence[int], mirrored: bool) -> dict[str, Any]:
    """The patch around ``centre`` as float32 tensors, moved inwards at the borders; small volumes get zeros around."""
    shape = np.array(image.shape)
    first = np.clip(np.asarray(centre) - np.array(size) // 2, 0, np.maximum(shape - size, 0))
    last = np.minimum(first + size, shape)
    window = tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))
    missing = np.maximum(np.array(size) - shape, 0)
    padding = [(0, 0), *((int(n) // 2, int(n) - int(n) // 2) for n in missing)]
    patch: dict[str, Any] = {}
    parts = {key: array[(slice(None), *window)] for key, array in image.read().items()}
    if image.label is not None:
        parts["label"] = _mask_within(image, first, last)
    for key, part in parts.items():
        values = np.pad(part.astype(np.float32), padding)
        values = np.ascontiguousarray(values[:, ::-1] if mirrored else values)
        patch[key] = MetaTensor(torch.from_numpy(values), meta={"filename_or_obj": image.name})
    return patch


def _mask_within(image: Volume, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """The part of a mask that is kept as the places of its ones."""
    places = np.stack(np.unravel_index(image.label, (image.classes, *image.shape)))
    within = ((places[1:] >= first[:, None]) & (places[1:] < last[:, None])).all(axis=0)
    mask = np.zeros((image.classes, *(last - first)), np.float32)
    mask[tuple(places[:, within] - np.array([0, *first])[:, None])] = 1
    return mask


def with_weights(patches: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Gives all patches a weight of 1 where one of them has a weight; labels of people count fully."""
    if any("weight" in patch for patch in patches):
        for patch in patches:
            patch.setdefault("weight", torch.ones_like(patch["image"][:1]))
    return patches
