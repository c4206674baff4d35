"""Copies of images in a datalist: equal ones, and across parts those written anew, resized, cropped or flipped."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from common.data.likeness import likeness, nearest, thumbnail

if TYPE_CHECKING:
    from common.data.inspection import Inspection

COPY = 0.88  # likeness from which on two images are taken for one; measured in docs/reference/datalist.md
ORDER = ("unlabeled", "labeled", "validation", "test")  # each part is searched for copies of what is before


class Seen(NamedTuple):
    """What is kept of an image once it has been read."""

    file: str
    part: str
    patient: str
    content: bytes
    thumbnail: np.ndarray

    @classmethod
    def of(cls, item: Mapping[str, Any], part: str, content: bytes, image: np.ndarray) -> Seen:
        """Of an item's picture or volume, and a hash of its values."""
        return cls(item["image"], part, str(item["patient"]).strip(), content, thumbnail(image))


def near_copies(seen: Sequence[Seen]) -> list[tuple[Seen, Seen, float]]:
    """Pairs of images of two parts that are nearly the same, and how alike they are, the most alike first.

    Pairs of one patient, and of equal values, are passed over. Each image of the later part is compared with those two
    of the others that are most like it at a glance.
    """
    place, patient, content = (
        np.unique(values, return_inverse=True)[1]
        for values in ([ORDER.index(s.part) for s in seen], [s.patient for s in seen], [s.content for s in seen])
    )
    asked = np.flatnonzero(place)
    allowed = place[:, None] < place[asked]
    allowed &= (patient[:, None] != patient[asked]) & (content[:, None] != content[asked])
    if not allowed.any():
        return []
    thumbnails = np.stack([image.thumbnail for image in seen])
    rows, columns, flips = nearest(thumbnails, thumbnails[asked], allowed)
    alike = likeness(thumbnails[rows], thumbnails[asked[columns]], flips)
    pairs = [(seen[i], seen[j], float(a)) for i, j, a in zip(rows, asked[columns], alike, strict=True) if a >= COPY]
    return sorted(pairs, key=lambda pair: -pair[2])


def report_near_copies(seen: Sequence[Seen], found: Inspection, kind: str = "image") -> None:
    """Errors, where a labelled or unlabelled image has a near copy in the test part, and warnings of all others.

    There is one line for two patients, which names the two files that are most alike.

    Args:
        seen: the images of all parts.
        found: gets the lines.
        kind: what the images are called.
    """
    pairs: dict[tuple[str, ...], list[tuple[Seen, Seen, float]]] = defaultdict(list)
    for one, other, alike in near_copies(seen):
        pairs[one.part, one.patient, other.part, other.patient].append((one, other, alike))
    for (one, other, alike), *further in pairs.values():
        more = f", as are {len(further)} more of these two patients" if further else ""
        lines = found.errors if other.part == "test" and one.part != "validation" else found.warnings
        lines.append(
            f"{one.file} ({one.part}) and {other.file} ({other.part}) are nearly the same {kind} (likeness "
            f"{alike:.2f}){more}. Keep one of them, or give both one patient and put them in one part."
        )


def report_duplicates(
    places: Mapping[bytes, list[tuple[str, str]]], found: Inspection, kind: str = "image", name: Callable = str
) -> None:
    """What is in several parts, an error, and what occurs several times in one, a warning."""
    for same in places.values():
        if len(same) < 2:
            continue
        names = ", ".join(f"{name(image)} ({part})" for part, image in same)
        if len({part for part, _ in same}) > 1:
            found.errors.append(f"the same {kind} is in several parts: {names}. Keep one of them.")
        else:
            found.warnings.append(f"the same {kind} occurs several times: {names}. Keep one of them.")
