"""Draws labelled images such that every class occurs among them (RPG, eq. 1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from common.label_space import LabelSpace


def class_presence(label_arrays: Sequence[np.ndarray], labels: LabelSpace) -> np.ndarray:
    """Which class occurs in which label ``C H W [D]`` or ``1 H W [D]``: booleans, images x classes."""
    rows = [
        labels.masks(torch.from_numpy(np.array(label))[None])[0].flatten(1).any(dim=1).numpy() for label in label_arrays
    ]
    return np.asarray(rows, dtype=bool).reshape(len(rows), labels.num_classes)


class ClassCover:
    """Draws p of the labelled images such that every class occurs in at least one (Seibold et al. 2022, eq. 1).

    The draw is a randomised set cover: as long as a class is missing, the first image in a random order that holds the
    rarest missing one is taken; the places that are left are filled at random. Where p is larger than the number of
    images, each is drawn as often as all others, or once more. A class that occurs nowhere, and a number p that no
    cover fits in, are found when it is built.

    Args:
        presence: which class occurs in which image, booleans, images x classes.
        size: number p of images in a draw.
        classes: names of the classes, for error messages.
        needed: refuse a number p that no cover fits in; else images are drawn at random then.

    Raises:
        ValueError: when a class occurs in no image, or no ``size`` images hold all classes.
    """

    def __init__(self, presence: np.ndarray, size: int, classes: Sequence[str], needed: bool = True) -> None:
        self.presence, self.size = np.asarray(presence, dtype=bool), size
        self.frequency = self.presence.sum(axis=0)
        if size < 1 or not len(self.presence):
            raise ValueError(
                f"there must be an image to draw, and one or more of them, got {len(presence)} and {size}."
            )
        missing = [name for name, found in zip(classes, self.presence.any(axis=0), strict=True) if not found]
        if missing:
            raise ValueError(
                f"every class must occur in a labelled image, got none with {', '.join(missing)}: label an image that "
                f"shows it, or take the class out."
            )
        self.possible = self._smallest_cover(min(size, len(self.presence))) is not None
        if not self.possible and needed:
            rare = [name for name, n in zip(classes, self.frequency, strict=True) if n < len(self.presence)]
            raise ValueError(
                f"{size} labelled images must be able to hold every class, got no such {size} images; the classes "
                f"{', '.join(rare)} are spread over too many of them: raise labeled_batch."
            )

    def draw(self, random: np.random.Generator) -> list[int]:
        """Indices of the images of a draw."""
        number = len(self.presence)
        full, rest = divmod(self.size, number)
        chosen = [index for _ in range(full) for index in range(number)]
        order = [int(index) for index in random.permutation(number)]
        if not full and self.possible:
            cover = self._cover(order, rest)
            # unlucky order of a tight cover: any cover will do
            cover = self._smallest_cover(rest) if cover is None else cover
            order = [*cover, *(index for index in order if index not in cover)]
        chosen += order[:rest]
        return [chosen[place] for place in random.permutation(self.size)]

    def _cover(self, order: Sequence[int], size: int) -> list[int] | None:
        """Images that hold all classes, the rarest missing class first, or None where more than ``size`` are needed."""
        chosen: list[int] = []
        missing = np.ones(self.presence.shape[1], dtype=bool)
        while missing.any():
            if len(chosen) == size:
                return None
            rarest = min(np.flatnonzero(missing), key=lambda j: self.frequency[j])
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
            rarest = min(np.flatnonzero(missing), key=lambda j: self.frequency[j])
            for index in np.flatnonzero(self.presence[:, rarest]):
                found = search([*chosen, int(index)], missing & ~self.presence[index])
                if found is not None:
                    return found
            return None

        return search([], np.ones(self.presence.shape[1], dtype=bool))
