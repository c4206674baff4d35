"""How well boxes are found: recall and precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from monai.apps.detection.metrics.matching import matching_batch
from monai.data.box_utils import box_iou

OVERLAP = 0.5  # intersection over union from which on a box is found


def box_scores(
    found: Sequence[dict[str, np.ndarray]],
    true: Sequence[dict[str, np.ndarray]],
    classes: Sequence[str],
    score: float,
    overlap: float = OVERLAP,
) -> list[dict[str, Any]]:
    """Recall and precision of boxes of a score or higher, of each class and of all.

    In each image and class, the boxes are gone through from the highest score on; each takes the true box that it
    overlaps most among those that are left, if the overlap (intersection over union) suffices, and is right then
    (MONAI's matching, as COCO has it).

    Args:
        found: for each image ``boxes``, ``labels`` and ``scores``.
        true: for each image ``boxes`` and ``labels``.
        classes: names of the classes.
        score: lowest score that counts.
        overlap: lowest overlap.

    Returns:
        A row for each class and one for ``all``: ``class``, ``objects`` and ``boxes`` (numbers), ``recall`` and
        ``precision``; None where there is nothing to divide by.
    """
    kept = [each["scores"] >= score for each in found]
    boxes, labels, scores = (
        [each[key][counts] for each, counts in zip(found, kept, strict=True)] for key in ("boxes", "labels", "scores")
    )
    truth, kinds = ([each[key] for each in true] for key in ("boxes", "labels"))
    ignored = [np.zeros(len(each), bool) for each in kinds]
    matched = matching_batch(box_iou, [overlap], boxes, labels, scores, truth, kinds, ignored, max_detections=10**6)
    sums = np.zeros((len(classes), 4), int)
    for image in matched:
        for kind, match in image.items():
            hits, right = match["gtMatches"][0], match["dtMatches"][0]
            sums[kind] += [len(hits), int(hits.sum()), len(right), int(right.sum())]
    rows = zip([*classes, "all"], [*sums, sums.sum(0)], strict=True)
    return [
        {
            "class": name,
            "objects": int(objects),
            "boxes": int(number),
            "recall": round(float(hits / objects), 4) if objects else None,
            "precision": round(float(right / number), 4) if number else None,
        }
        for name, (objects, hits, number, right) in rows
    ]
