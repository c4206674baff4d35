"""Recall and precision of boxes, by hand and against loops."""

from __future__ import annotations

import numpy as np
import pytest

from common.detection import box_scores

CLASSES = ["a", "b"]


def found(boxes, labels, scores):
    boxes = np.array(boxes, np.float32) if len(boxes) else np.zeros((0, 4), np.float32)
    return {"boxes": boxes, "labels": np.array(labels, int), "scores": np.array(scores, np.float32)}


def overlap(one, other) -> float:
    n = len(one) // 2
    sides = [max(0.0, min(one[n + i], other[n + i]) - max(one[i], other[i])) for i in range(n)]
    volume = lambda box: np.prod([box[n + i] - box[i] for i in range(n)])  # noqa: E731
    return np.prod(sides) / (volume(one) + volume(other) - np.prod(sides))


def plain(found, true, score, least, kind=None):
    """Numbers of objects, of those that are found, of boxes, and of those that are right."""
    objects = hits = boxes = right = 0
    for f, t in zip(found, true, strict=True):
        for label in (0, 1):
            if kind not in (None, label):
                continue
            left = [box for box, k in zip(t["boxes"].tolist(), t["labels"], strict=True) if k == label]
            objects += len(left)
            mine = zip(f["scores"].tolist(), f["boxes"].tolist(), f["labels"], strict=True)
            for _, box in sorted(((s, b) for s, b, k in mine if k == label and s >= score), reverse=True):
                boxes += 1
                best = max(left, key=lambda other: overlap(box, other), default=None)
                if best is not None and overlap(box, best) >= least:
                    left.remove(best)
                    hits, right = hits + 1, right + 1
    return objects, hits, boxes, right


def test_by_hand():
    true = [found([[0, 0, 10, 10], [20, 20, 30, 30], [0, 0, 10, 10]], [0, 0, 1], [1, 1, 1]), found([], [], [])]
    boxes = [
        found(
            # overlap 0.8; 1, with one that is taken if the first counts; 4/16, too little; one of the other class
            [[0, 0, 10, 8], [0, 0, 10, 10], [20, 26, 30, 36], [20, 20, 30, 30]],
            [0, 0, 0, 1],
            [0.9, 0.85, 0.95, 0.9],
        ),
        found([[0, 0, 5, 5]], [1], [0.99]),
    ]
    rows = box_scores(boxes, true, CLASSES, score=0.86)
    assert rows[0] == {"class": "a", "objects": 2, "boxes": 2, "recall": 0.5, "precision": 0.5}
    assert rows[1] == {"class": "b", "objects": 1, "boxes": 2, "recall": 0.0, "precision": 0.0}
    assert rows[2] == {"class": "all", "objects": 3, "boxes": 4, "recall": 0.3333, "precision": 0.25}
    assert box_scores(boxes, true, CLASSES, score=0.85)[0]["boxes"] == 3
    strict = box_scores(boxes, true, CLASSES, score=0.85, overlap=0.81)
    assert strict[0]["recall"] == 0.5 and strict[0]["precision"] == pytest.approx(1 / 3, abs=1e-4)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_equals_loops(dimensions):
    rng = np.random.default_rng(dimensions)
    true, boxes = [], []
    for _ in range(12):
        # apart from one another, so that which is overlapped most does not depend on the order
        low = np.arange(4)[:, None] * 20 + rng.uniform(0, 5, (4, dimensions))
        corners = np.concatenate([low, low + rng.uniform(6, 12, low.shape)], axis=1)
        labels = rng.integers(0, 2, 4)
        true.append(found(corners, labels, np.ones(4)))
        pick = rng.integers(0, 4, 6)
        moved = corners[pick] + rng.uniform(-2, 2, (6, 2 * dimensions))
        boxes.append(found(moved, np.where(rng.random(6) < 0.8, labels[pick], 1 - labels[pick]), rng.random(6)))
    rows = box_scores(boxes, true, CLASSES, score=0.3)
    for row, kind in zip(rows, (0, 1, None), strict=True):
        objects, hits, number, right = plain(boxes, true, 0.3, 0.5, kind)
        assert (row["objects"], row["boxes"]) == (objects, number)
        assert row["recall"] == round(hits / objects, 4) and row["precision"] == round(right / number, 4)
    assert 0.2 < rows[-1]["recall"] < 0.8


def test_what_is_not_there_is_none():
    nothing = [found([], [], [])]
    assert box_scores(nothing, nothing, CLASSES, 0.5)[-1] == {
        "class": "all",
        "objects": 0,
        "boxes": 0,
        "recall": None,
        "precision": None,
    }
