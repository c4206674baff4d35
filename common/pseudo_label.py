"""A pseudo-label, where in the image its pixels lie, and what its source knows about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from common.draws import on_device


@dataclass(frozen=True)
class Grid:
    """Some of an image's pixels, a grid along its axes.

    Attributes:
        places: for each spatial axis the positions of the pixels, ascending, on the host.
        size: the image's size.
    """

    places: tuple[tuple[int, ...], ...]
    size: tuple[int, ...]

    @classmethod
    def of_cells(cls, size: Sequence[int], number: int | None, phases: Sequence[float] | None = None) -> Grid | None:
        """One pixel of each of ``number`` cells along each axis that is longer; None for all pixels.

        Args:
            size: the image's size.
            number: number of cells along an axis; None for as many as pixels.
            phases: for each axis which pixel of a cell, 0 the first, 0.5 the one in the middle, below 1; the one in the
                middle where not given.
        """
        if number is None or all(number >= side for side in size):
            return None
        shape = [min(number, side) for side in size]
        # in whole numbers of a 2**-20th, rounded down: a product in floats could miss the pixel
        steps = [int(phase * 2**20) for phase in phases or [0.5] * len(size)]
        places = [
            tuple((i * 2**20 + step) * side // (n * 2**20) for i in range(n))
            for n, side, step in zip(shape, size, steps, strict=True)
        ]
        return cls(tuple(places), tuple(size))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(map(len, self.places))

    def of(self, maps: Tensor) -> Tensor:
        """Maps ``B C H W [D]`` at the grid's pixels, ``B C h w [d]``."""
        for axis, places in enumerate(self.places):
            if len(places) < self.size[axis]:
                maps = maps.index_select(2 + axis, _indices(places, maps))
        return maps

    def spread(self, maps: Tensor) -> Tensor:
        """Maps ``B C h w [d]`` at the grid's pixels of whole images ``B C H W [D]``, and 0 elsewhere."""
        for axis, places in enumerate(self.places):
            if len(places) < self.size[axis]:
                shape = [*maps.shape[: 2 + axis], self.size[axis], *maps.shape[3 + axis :]]
                maps = maps.new_zeros(shape).index_copy(2 + axis, _indices(places, maps), maps)
        return maps

    def filled(self, maps: Tensor) -> Tensor:
        """Maps ``B C h w [d]`` as whole images, each pixel that of its cell: for pictures, not for losses.

        A cell's pixel need not lie in its middle, so that this moves what it shows by up to half a cell.
        """
        return torch.nn.functional.interpolate(maps.float(), size=self.size, mode="nearest-exact")


def _indices(places: tuple[int, ...], like: Tensor) -> Tensor:
    return on_device(torch.tensor(places).numpy(), like)


@dataclass(frozen=True)
class PseudoLabel:
    """What unlabelled images are said to show.

    Attributes:
        label: a label of the label space, or class probabilities where it is soft, ``B C h w [d]``.
        grid: the pixels of the images that have a label; None for all.
        known: what weights may ask: ``outputs`` of the network that the label is of, ``predicted`` outputs of the
            network beside a label that is not of them, ``distances`` to the classes ``B c h w [d]``, ``spread`` of
            several passes; of the same pixels as the label.
        network: the network whose view of the images it is, a teacher; None for the one that is trained.
    """

    label: Tensor
    grid: Grid | None = None
    known: dict[str, Tensor] = field(default_factory=dict)
    network: nn.Module | None = None
