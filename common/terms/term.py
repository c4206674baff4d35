"""What a term is: a summand of the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from common.parts import Part

if TYPE_CHECKING:
    from common.step import Step


class Term(Part):
    """A summand of the loss beside the supervised one.

    Args:
        factor: how much it counts.

    Raises:
        ValueError: when the factor is negative.
    """

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        if factor < 0:
            raise ValueError(f"the factor of a term must not be negative, got {factor}.")
        self.factor = factor

    def forward(self, step: Step) -> Tensor:
        """The term, a scalar with gradients, not yet multiplied by its factor."""
        raise NotImplementedError
