"""A view of the features instead of the image: channels that are dropped."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from common.draws import on_device
from common.parts import Needs
from common.views.change import Changes
from common.views.view import View, Viewed


class FeatureDropout(View):
    """Drops channels of the features of all of the encoder's levels (Yang et al. 2023, UniMatch, section 3.2).

    Each channel of each image is 0 with the probability ``rate``, and the others are scaled by 1 / (1 - rate).

    Args:
        rate: probability that a channel is dropped, 0.5 in UniMatch.

    Raises:
        ValueError: when the rate is not in [0, 1).
    """

    needs, perturbs = Needs(features=True), True

    def __init__(self, rate: float = 0.5) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"rate must be in [0, 1), got {rate}.")
        self.rate = rate

    def forward(self, image, draw, values=None, groups=None, step=None) -> Viewed:
        def perturb(levels: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(self.dropped(level, draw) for level in levels)

        return Viewed(image, Changes(), perturb)

    def dropped(self, level: Tensor, draw: np.random.Generator) -> Tensor:
        """A level's features ``B d H W [D]`` with channels dropped."""
        keep = (draw.random(level.shape[:2]) >= self.rate) / (1 - self.rate)
        return level * on_device(keep, level).to(level.dtype).view(*level.shape[:2], *[1] * (level.ndim - 2))
