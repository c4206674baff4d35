"""Boxes around objects, by hand and against a flood fill, and what boxes cover, pixel by pixel."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from common.detection import component_boxes, filled, label_boxes
from common.label_space import LabelSpace


def flooded(mask: np.ndarray, min_size: int) -> set[tuple[int, ...]]:
    """Boxes of components, each found by walking from pixel to pixel, diagonals included."""
    left, found = {tuple(int(i) for i in place) for place in np.argwhere(mask)}, set()
    steps = list(itertools.product((-1, 0, 1), repeat=mask.ndim))
    while left:
        todo, component = [left.pop()], []
        while todo:
            place = todo.pop()
            component.append(place)
            for step in steps:
                other = tuple(i + d for i, d in zip(place, step, strict=True))
                if other in left:
                    left.remove(other)
                    todo.append(other)
        if len(component) > min_size:
            lines = list(zip(*component, strict=True))
            found.add((*(min(line) for line in lines), *(max(line) + 1 for line in lines)))
    return found


def test_two_objects_by_hand():
    mask = np.zeros((8, 10), bool)
    mask[1:3, 2:5] = True  # 6 pixels
    mask[3, 5] = True  # touches it at a corner: 7
    mask[6:8, 0:2] = True  # 4, at the border
    assert component_boxes(mask, min_size=0).tolist() == [[1, 2, 4, 6], [6, 0, 8, 2]]
    assert component_boxes(mask, min_size=4).tolist() == [[1, 2, 4, 6]]  # more than 4 pixels
    assert component_boxes(mask, min_size=7).shape == (0, 4)


@pytest.mark.parametrize("shape", [(20, 30), (9, 10, 12)])
@pytest.mark.parametrize("min_size", [0, 2])
def test_boxes_equal_a_flood_fill(shape, min_size):
    mask = np.random.default_rng(len(shape)).random(shape) > (0.8 if len(shape) == 2 else 0.93)
    boxes = [tuple(map(int, box)) for box in component_boxes(mask, min_size)]
    assert len(boxes) > 5
    assert sorted(boxes) == sorted(flooded(mask, min_size)) and len(set(boxes)) == len(boxes)


def test_classes_of_a_batch_multiclass():
    labels = LabelSpace(["a", "b", "c"], "multiclass")
    label = torch.zeros(2, 1, 6, 6)
    label[0, 0, 0:2, 0:2], label[0, 0, 4:6, 3:6], label[0, 0, 0:2, 4:6] = 1, 3, 3
    label[1, 0, 3, 3] = 2  # of a class without boxes
    one, other = label_boxes(labels, label, classes=[0, 2], min_size=0)
    assert one["boxes"].tolist() == [[0, 0, 2, 2], [0, 4, 2, 6], [4, 3, 6, 6]]
    assert one["labels"].tolist() == [0, 1, 1]
    assert other["boxes"].shape == (0, 4) and other["labels"].shape == (0,)


def test_classes_that_overlap_have_boxes_of_their_own_multilabel_3d():
    labels = LabelSpace(["a", "b"], "multilabel")
    label = torch.zeros(1, 2, 4, 4, 4)
    label[0, :, 1:3, 1:3, 1:3] = 1
    label[0, 1, 3, 3, 3] = 1  # touches at a corner
    (found,) = label_boxes(labels, label, classes=[0, 1], min_size=0)
    assert found["boxes"].tolist() == [[1, 1, 1, 3, 3, 3], [1, 1, 1, 4, 4, 4]]
    assert found["labels"].tolist() == [0, 1] and found["boxes"].dtype == torch.float32


def plainly_filled(boxes, kinds, number, first, size):
    mask = np.zeros((number, *size), np.uint8)
    for place in itertools.product(*map(range, size)):
        centre = [a + i + 0.5 for a, i in zip(first, place, strict=True)]
        for box, kind in zip(boxes, kinds, strict=True):
            low, high = box[: len(size)], box[len(size) :]
            if all(a <= c < b for a, c, b in zip(low, centre, high, strict=True)):
                mask[(kind, *place)] = 1
    return mask


@pytest.mark.parametrize("dimensions", [2, 3])
def test_what_boxes_cover_equals_a_loop_over_pixels(dimensions):
    rng = np.random.default_rng(0)
    low = rng.uniform(-4, 8, (6, dimensions))
    boxes = np.concatenate([low, low + rng.uniform(0, 7, low.shape)], axis=1)
    boxes[0] = np.concatenate([np.full(dimensions, 2.5), np.full(dimensions, 4.5)])  # edges on centres of pixels
    kinds, first, size = rng.integers(0, 3, 6), [2, -1, 3][:dimensions], [7, 9, 5][:dimensions]
    found = filled(boxes, kinds, 4, first, size)
    np.testing.assert_array_equal(found, plainly_filled(boxes.tolist(), kinds, 4, first, size))
    assert 0 < found.mean() < 0.5


def test_a_component_s_box_covers_its_pixels_and_one_outside_nothing():
    mask = np.zeros((9, 9), bool)
    mask[2:5, 3:9] = True
    covered = filled(component_boxes(mask, 0), [0], 1, (0, 0), (9, 9))
    np.testing.assert_array_equal(covered[0], mask)
    outside = [[-5, -5, -1, -1], [20, 0, 30, 9], [3, 3, 3, 3]]
    assert filled(np.array(outside), [0, 0, 0], 1, (0, 0), (9, 9)).sum() == 0
    assert filled(np.zeros((0, 4)), [], 2, (0, 0), (3, 3)).shape == (2, 3, 3)
