"""What a weight is, and weights that are multiplied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from common.parts import Part
from common.pseudo_label import PseudoLabel

if TYPE_CHECKING:
    from common.step import Step


class Weight(Part):
    """Says how much each pixel of a pseudo-label counts.

    Attributes:
        asks: what the source must know about its label, a key of :class:`~common.sources.PseudoLabel`'s ``known``; None
            where it may know nothing.
        accepts: other keys, one of which serves as well.
    """

    asks: str | None = None
    accepts: tuple[str, ...] = ()

    def forward(self, step: Step, pseudo: PseudoLabel) -> Tensor:
        """Weights of the pseudo-label's pixels, ``B 1 h w [d]`` or, for each class of its own, ``B C h w [d]``.

        Raises:
            ValueError: when the source does not know what the weight asks.
        """
        raise NotImplementedError

    def known(self, pseudo: PseudoLabel) -> Tensor:
        """What the source knows of what this weight asks."""
        key = next((key for key in (self.asks, *self.accepts) if key in pseudo.known), None)
        if key is None:
            raise ValueError(
                f"{type(self).__name__} asks for the {self.asks} behind a pseudo-label, got a source that knows "
                f"{', '.join(pseudo.known) or 'nothing'}: take another weight or another source."
            )
        return pseudo.known[key]


class Ones(Weight):
    """Every pixel counts."""

    def forward(self, step: Step, pseudo: PseudoLabel) -> Tensor:
        shape = (len(pseudo.label), 1, *pseudo.label.shape[2:])
        return pseudo.label.new_ones(shape, dtype=torch.float32)


class Product(Weight):
    """Several weights, multiplied.

    Args:
        weights: the weights.
    """

    def __init__(self, weights: Sequence[Weight]) -> None:
        super().__init__()
        self.weights = nn.ModuleList(weights)

    def forward(self, step: Step, pseudo: PseudoLabel) -> Tensor:
        product, factors = 1.0, {}
        for weight in self.weights:
            factor = weight(step, pseudo)
            own = step.factors.get(id(weight), {type(weight).__name__: factor.detach()})
            factors |= {name: value for name, value in own.items() if name not in factors}
            product = product * factor
        step.factors[id(self)] = factors
        return product
