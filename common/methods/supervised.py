"""The baseline: training on the labelled images alone."""

from __future__ import annotations

from typing import Any

from torch import nn

from common.methods.base import Method


class Supervised(Method):
    """Cross-entropy on the labelled images, for the same number of iterations as the other methods.

    The *Baseline* of Seibold et al. 2022, which trains for as many iterations as the other methods instead of as many
    epochs. It sees the same labelled batches as they do and leaves the unlabelled images alone.

    Args:
        labels: the label space.
    """

    def terms(self, network: nn.Module, batch: dict[str, dict[str, Any]], iteration: int) -> tuple[dict, dict]:
        labeled = batch["labeled"]
        return {"supervised": self.labels.cross_entropy(network(labeled["image"]), labeled["label"])}, {}
