"""Views that cut a box out of each image, or fill it from another image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from common.parts import Needs
from common.values import Values
from common.views.change import BACKGROUND, IGNORE, Cut, Mixed
from common.views.geometry import probability
from common.views.view import View, Viewed

TRIES = 10  # for boxes that fit into an image


class CutOut(View):
    """Sets one box of each image to the middle of its values' range (DeVries and Taylor 2017).

    Args:
        size: largest side of the box relative to the image's, drawn evenly up to it; 0 for no box.
        label: what the pseudo-label becomes in the box: ``"background"`` as in RPG+ (Seibold et al. 2022), or
            ``"ignore"``.

    Raises:
        ValueError: when a setting is out of range.
    """

    def __init__(self, size: float = 0.5, label: str = BACKGROUND) -> None:
        super().__init__()
        if not 0 <= size <= 1:
            raise ValueError(f"size (cutout of Strong) must be a share of the image's side in [0, 1], got {size}.")
        if label not in (BACKGROUND, IGNORE):
            raise ValueError(f"label (cutout_label of Strong) must be {BACKGROUND!r} or {IGNORE!r}, got {label!r}.")
        self.size, self.label = size, label

    @torch.no_grad()
    def forward(self, image, draw, values=None, groups=None, step=None) -> Viewed:
        values = values or Values()
        shares = self.size * draw.random((len(image), 1)) * np.ones(image.ndim - 2)
        labels = None if step is None else step.labels
        change = Cut(boxes(shares, image.shape[2:], draw), (values.low + values.high) / 2, self.label, labels)
        return Viewed(change.of_image(image), change)


class CutMix(View):
    """Fills one box of each image from another image of the batch (Yun et al. 2019; French et al. 2020).

    Args:
        area: range of the box's share of the image's area or volume, drawn evenly; 0.02 to 0.4 in UniMatch.
        aspect: range of the ratio of each further side to the first one, both relative to the image's, drawn evenly;
            0.3 to 3.33 in UniMatch. A box that would not fit into the image is drawn anew.
        prob: probability that an image gets a box; 0.5 in UniMatch.
        beta: parameters of a beta distribution, in place of ``area``: the share is 1 - lambda with lambda from it.

    Raises:
        ValueError: when a setting is out of range; for a batch of one image, which has no partner.
    """

    needs = Needs(unlabeled=2)

    def __init__(
        self,
        area: Sequence[float] = (0.02, 0.4),
        aspect: Sequence[float] = (0.3, 1 / 0.3),
        prob: float = 0.5,
        beta: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if len(area) != 2 or not 0 <= area[0] <= area[1] <= 1:
            raise ValueError(f"area must be a range of shares in [0, 1], got {list(area)}.")
        if len(aspect) != 2 or not 0 < aspect[0] <= aspect[1]:
            raise ValueError(f"aspect must be a range of positive ratios, got {list(aspect)}.")
        self.area, self.aspect, self.prob = tuple(area), tuple(aspect), probability(prob)
        self.beta = None if beta is None else beta_parameters(beta)

    @torch.no_grad()
    def forward(self, image, draw, values=None, groups=None, step=None) -> Viewed:
        number, n = len(image), image.ndim - 2
        if number < 2:
            raise ValueError(
                "CutMix must have two or more unlabelled images in a batch, got one, which has no partner: raise "
                "unlabeled_batch."
            )
        shares = np.full((number, n), np.inf)
        for _ in range(TRIES):
            outside = (shares > 1).any(axis=1)
            shares[outside] = self.shares(int(outside.sum()), n, draw)
        shares = np.minimum(shares, 1) * (draw.random((number, 1)) < self.prob)
        partner = (np.arange(number) + draw.integers(1, number)) % number  # any but itself
        change = Mixed(boxes(shares, image.shape[2:], draw), partner)
        return Viewed(change.of_image(image), change)

    def shares(self, number: int, n: int, draw: np.random.Generator) -> np.ndarray:
        """Sides of boxes as shares of the image's, ``number n``; they may be longer than the image."""
        area = draw.uniform(*self.area, (number, 1)) if self.beta is None else 1 - draw.beta(*self.beta, (number, 1))
        ratios = np.concatenate([np.ones((number, 1)), draw.uniform(*self.aspect, (number, n - 1))], axis=1)
        return ratios * (area / ratios.prod(axis=1, keepdims=True)) ** (1 / n)


def beta_parameters(beta: Sequence[float]) -> tuple[float, float]:
    """The parameters of a beta distribution, where they are some.

    Raises:
        ValueError: when they are not two positive numbers.
    """
    if len(beta) != 2 or min(beta) <= 0:
        raise ValueError(f"beta must be two positive numbers, got {list(beta)}.")
    return float(beta[0]), float(beta[1])


def boxes(shares: np.ndarray, size: Sequence[int], draw: np.random.Generator) -> np.ndarray:
    """Boxes ``B n 2`` at random places, whose sides are shares ``B n`` of the image's, rounded to whole pixels."""
    sides = np.round(shares * np.array(size))
    first = np.floor(draw.random(shares.shape) * (np.array(size) - sides + 1))
    return np.stack([first, first + sides], axis=2).astype(np.int64)
