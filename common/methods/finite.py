"""Looks whether loss terms are finite, without waiting for the device in each iteration."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

EVERY = 10  # iterations between two looks at a GPU's terms


class FiniteTerms:
    """Ends a training whose loss is not finite, naming the first iteration in which it was not, and its images.

    On a CPU each iteration's terms are looked at before its step; on a GPU those of ten iterations together, after
    their steps. No checkpoint is made of weights that are not finite.
    """

    def __init__(self) -> None:
        self.waiting: list[tuple[int, dict[str, Tensor], dict[str, list[str]]]] = []

    def add(self, iteration: int, terms: dict[str, Tensor], batch: dict[str, Any]) -> None:
        """Remembers an iteration's terms, and looks at them when it is time.

        Raises:
            FloatingPointError: when one is not finite.
        """
        names = {part: items.get("name", ["unknown"]) for part, items in batch.items() if isinstance(items, dict)}
        self.waiting.append((iteration, terms, names))
        if terms["supervised"].device.type == "cpu" or len(self.waiting) >= EVERY:
            self.look()

    def look(self) -> None:
        """Looks at the terms that were remembered, and forgets them."""
        waiting, self.waiting = self.waiting, []
        if not waiting:
            return
        values = torch.stack([term.float() for _, terms, _ in waiting for term in terms.values()]).cpu()
        rows = values.split([len(terms) for _, terms, _ in waiting])
        for (iteration, terms, files), row in zip(waiting, rows, strict=True):
            if not torch.isfinite(row).all():
                found = dict(zip(terms, row.tolist(), strict=True))
                raise FloatingPointError(
                    f"the loss must be finite, got {found} at iteration {iteration} with the files {files}: the last "
                    f"checkpoint is kept; lower the learning rate, or look at these images with `python -m common "
                    f"check`."
                )
