"""The pool of labelled images that pseudo-labels are taken from (RPG, eq. 1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from monai.transforms.traits import RandomizableTrait
from torch.utils.data import Dataset

from common.label_space import LabelSpace


def class_presence(dataset: Dataset, labels: LabelSpace) -> np.ndarray:
    """Which class occurs in which image: booleans, images x classes.

    Labels are read up to the first random transform, so that what one random crop shows does not count.

    Args:
        dataset: a MONAI ``Dataset`` with ``data`` (a list of dictionaries) and a ``Compose`` as ``transform``.
        labels: the label space.

    Raises:
        ValueError: when an item has no label.
    """
    transform = dataset.transform
    first_random = transform.get_index_of_first(lambda t: isinstance(t, RandomizableTrait))
    rows = []
    for index, entry in enumerate(dataset.data):
        if "label" not in entry:
            raise ValueError(f"labelled image {index} must have a 'label', got the keys {sorted(entry)}.")
        item = transform(dict(entry), end=first_random)
        masks = labels.masks(item["label"][None])[0]
        rows.append(masks.flatten(1).any(dim=1).cpu().numpy())
    return np.asarray(rows, dtype=bool).reshape(len(rows), labels.num_classes)


class ReferencePool:
    """Draws p of the labelled images such that every class occurs in at least one (Seibold et al. 2022, eq. 1).

    The draw is a randomised set cover: as long as a class is missing, the first image in a random order that holds the
    rarest missing one is taken; the places that are left are filled at random. A class that occurs nowhere, and a
    number p that no cover fits in, are found when the pool is built.

    Args:
        presence: which class occurs in which image, booleans, images x classes.
        size: number p of images in a pool.
        classes: names of the classes, for error messages.

    Raises:
        ValueError: when a class occurs in no image, or no ``size`` images hold all classes.
    """

    def __init__(self, presence: np.ndarray, size: int, classes: Sequence[str]) -> None:
        presence = np.asarray(presence, dtype=bool)
        if not 1 <= size <= len(presence):
            raise ValueError(f"the pool's size must lie between 1 and the {len(presence)} labelled images, got {size}.")
        self.presence, self.size = presence, size
        missing = [name for name, found in zip(classes, presence.any(axis=0), strict=True) if not found]
        if missing:
            raise ValueError(
                f"every class must occur in a labelled image, got none with {', '.join(missing)}: label an image that "
                f"shows it, or take the class out."
            )
        if self._smallest_cover(size) is None:
            rare = [name for name, found in zip(classes, presence.sum(axis=0), strict=True) if found < len(presence)]
            raise ValueError(
                f"a pool of {size} labelled images must be able to hold every class, got no such {size} images; the "
                f"classes {', '.join(rare)} are spread over too many of them: raise labeled_batch."
            )

    def draw(self, random: np.random.Generator) -> list[int]:
        """Indices of the ``size`` images of a pool."""
        order = random.permutation(len(self.presence))
        chosen = self._cover(order, self.size)
        if chosen is None:  # unlucky order of a tight cover: any cover will do, its images in random order
            chosen = self._smallest_cover(self.size)
        rest = [int(index) for index in order if index not in chosen]
        chosen = [*chosen, *rest[: self.size - len(chosen)]]
        return [chosen[place] for place in random.permutation(self.size)]

    def _cover(self, order: np.ndarray, size: int) -> list[int] | None:
        """Images that hold all classes, the rarest missing class first, or None where more than ``size`` are needed."""
        chosen: list[int] = []
        missing = np.ones(self.presence.shape[1], dtype=bool)
        frequency = self.presence.sum(axis=0)
        while missing.any():
            if len(chosen) == size:
                return None
            rarest = min(np.flatnonzero(missing), key=lambda j: frequency[j])
            index = next(int(i) for i in order if self.presence[i, rarest])
            chosen.append(index)
            missing &= ~self.presence[index]
        return chosen

    def _smallest_cover(self, size: int) -> list[int] | None:
        """A cover of at most ``size`` images by exhaustive search over the rarest missing class, or None."""

        def search(chosen: list[int], missing: np.ndarray) -> list[int] | None:
            if not missing.any():
                return chosen
            if len(chosen) == size:
                return None
            rarest = min(np.flatnonzero(missing), key=lambda j: self.presence[:, j].sum())
            for index in np.flatnonzero(self.presence[:, rarest]):
                found = search([*chosen, int(index)], missing & ~self.presence[index])
                if found is not None:
                    return found
            return None

        return search([], np.ones(self.presence.shape[1], dtype=bool))
