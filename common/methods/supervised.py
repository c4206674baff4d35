"""The baseline: training on the labelled images alone."""

from __future__ import annotations

from typing import Any

from common.label_space import LabelSpace
from common.methods.base import Method


class Supervised(Method):
    """The supervised loss on the labelled images, for the same number of iterations as the other methods.

    The *Baseline* of Seibold et al. 2022, which trains for as many iterations as the other methods instead of as many
    epochs. It sees the same labelled batches as they do and leaves the unlabelled images alone.

    Args:
        labels: the label space.
        options: see :class:`~common.methods.Method`.
    """

    def __init__(self, labels: LabelSpace, **options: Any) -> None:
        super().__init__(labels, **options)
