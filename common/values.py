"""What the values of images mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Values(NamedTuple):
    """What an image's values mean: strengths of intensity operations are shares of ``high - low``.

    Attributes:
        low, high: the range that images lie in and are clamped to, [0, 1] for radiographs. Of images with mean 0 and
            standard deviation 1 (MR), roughly where their values lie, and nothing is clamped.
        clamp: cut off what an operation makes lie outside.
        background: a value that stays as it is (0 outside of an extracted brain), or None.
    """

    low: float = 0.0
    high: float = 1.0
    clamp: bool = True
    background: float | None = None

    @property
    def unit(self) -> float:
        return self.high - self.low

    @classmethod
    def of(cls, value_range: Sequence[float] | None) -> Values:
        """Those of a data set: its range, or None for images with mean 0 and standard deviation 1 around zeros.

        Raises:
            ValueError: when the range is none.
        """
        if value_range is None:
            return cls(-2.5, 2.5, clamp=False, background=0.0)
        if len(value_range) != 2 or not value_range[0] < value_range[1]:
            raise ValueError(
                f"value_range must be the lowest and the highest value of the images, or null for images with mean 0 "
                f"and standard deviation 1, got {value_range!r}."
            )
        return cls(float(value_range[0]), float(value_range[1]))
