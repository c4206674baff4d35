"""What masks of a part of a datalist say that no mask should: everything, or the same as another class's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from common.data.files import first_few

if TYPE_CHECKING:
    from common.data.inspection import Inspection


@dataclass
class MaskFacts:
    """Full masks, and equal masks of two classes, gathered label by label."""

    labels: int = 0
    full: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    # of two classes: labels that show one of them, or both, and those in which their pixels are the same
    shown: dict[tuple[int, int], int] = field(default_factory=lambda: defaultdict(int))
    equal: dict[tuple[int, int], list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, masks: Sequence[np.ndarray], name: str) -> None:
        """Looks at a label's masks, booleans, one for each class."""
        self.labels += 1
        pixels = [int(np.count_nonzero(mask)) for mask in masks]
        for index, (mask, inside) in enumerate(zip(masks, pixels, strict=True)):
            if inside == mask.size:
                self.full[index].append(name)
        for pair in combinations(range(len(masks)), 2):
            one, other = pair
            self.shown[pair] += bool(pixels[one] or pixels[other])
            if pixels[one] and pixels[one] == pixels[other] and np.array_equal(masks[one], masks[other]):
                self.equal[pair].append(name)

    def report(self, part: str, classes: Sequence[str], found: Inspection) -> None:
        """Adds errors and warnings."""
        for index, names in sorted(self.full.items()):
            message = f"{part}: {len(names)} of {self.labels} labels are {classes[index]} everywhere"
            wrong = part == "labeled" and len(names) == self.labels
            (found.errors if wrong else found.warnings).append(
                f"{message}: {first_few(names)}. Is what is outside not 0? Store 0 outside and 255 inside."
            )
        for (one, other), names in sorted(self.equal.items()):
            if len(names) == self.shown[one, other]:
                found.warnings.append(
                    f"{part}: {classes[one]} and {classes[other]} are the same pixels in all {len(names)} labels that "
                    f"show them: {first_few(names)}. Have the masks of one class been given for both?"
                )
