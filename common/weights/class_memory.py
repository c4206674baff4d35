"""The last features of pixels of each class, and their mean."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from common.draws import uniform


class ClassMemory(nn.Module):
    """Features of pixels of each class, first in, first out (Howlader et al. 2024, supplement, section 5).

    Its buffers are part of the checkpoint. Whoever adds the same in all processes has the same memory in all.

    Args:
        size: number of features that are kept of each class.

    Raises:
        ValueError: when it is below 1.
    """

    def __init__(self, size: int = 256) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"memory must keep at least 1 feature of each class, got {size}: the paper has 256.")
        self.size = size
        self.register_buffer("features", torch.zeros(0))
        self.register_buffer("added", torch.zeros(0, dtype=torch.long))

    def prepare(self, classes: int, width: int, device: torch.device) -> None:
        """Makes room for so many classes and for features of so many numbers."""
        self.features = torch.zeros(classes, self.size, width, device=device)
        self.added = torch.zeros(classes, dtype=torch.long, device=device)

    def prototypes(self) -> tuple[Tensor, Tensor]:
        """The mean feature of each class ``K d``, 0 where there is none, and of which there is one ``K``."""
        held = self.added.clamp(max=self.size)
        return self.features.sum(1) / held.clamp(min=1)[:, None], held > 0

    @torch.no_grad()
    def add(self, features: Tensor, there: Tensor) -> None:
        """Takes in features ``K n d`` where they are there ``K n``, in their order; the oldest go.

        Without waiting for a device: what is not there, and what more than ``size`` others follow, goes to a place
        beyond the end.
        """
        order = self.added[:, None] + there.cumsum(1)  # the number of each, from 1
        kept = there & (order > order[:, -1:] - self.size)
        places = torch.where(kept, (order - 1) % self.size, self.size)
        longer = torch.cat([self.features, self.features[:, :1]], dim=1)
        longer[torch.arange(len(longer), device=longer.device)[:, None], places] = features
        self.features.copy_(longer[:, : self.size])
        self.added.copy_(order[:, -1])


def draw_pixels(
    features: Tensor, classes: Tensor, number: int, each: int, draw: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Features of up to ``each`` random pixels of each class, ``K each d``, and which of them are there ``K each``.

    Args:
        features: ``B d H W [D]``.
        classes: the class that each pixel is taken for, ``B G H W [D]``, -1 for none; with several channels, channel g
            holds classes c with g = c modulo G.
        number: number K of classes.
        each: number of pixels of each class.
        draw: random numbers.
    """
    pixels, groups = classes[0, 0].numel(), classes.shape[1]
    chance = uniform((len(classes), *classes.shape[2:]), draw, classes.device).flatten()
    rows, width = features.detach().flatten(2), min(each, len(chance))
    found = features.new_zeros(number, each, features.shape[1], dtype=torch.float32)
    there = torch.zeros(number, each, dtype=torch.bool, device=features.device)
    for index in range(number):
        mine = torch.where((classes[:, index % groups] == index).flatten(), chance, -1.0)
        best, places = mine.topk(width)
        found[index, :width] = rows[places // pixels, :, places % pixels].float()
        there[index, :width] = best >= 0
    return found, there
