"""Boxes of unlabelled images: which count, and that batches carry them as they carry the truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.batches import Batches
from common.detection import DetectorStage, FoundBoxes, component_boxes
from common.detection.found_boxes import packed, unpacked
from common.label_space import LabelSpace
from common.methods import Method
from common.sources import Prediction
from common.terms import Match
from common.views import Affine, Chain, Flip, QuarterTurn
from common.weights import DetectorAgreement

SIZE = (32, 32)


def agreeing(labels):
    """A method that asks for boxes."""
    return Method(labels, {"consistency": Match(Prediction(), DetectorAgreement(0.6))})


def rectangles(rng, size, room=8):
    """Masks of two classes, a rectangle each, away from the border, which a turn does not move out of the image."""
    masks = np.zeros((2, *size), np.uint8)
    for mask in masks:
        low = [int(rng.integers(room, side - room - 6)) for side in size]
        mask[tuple(slice(a, a + int(rng.integers(4, 7))) for a in low)] = 1
    return masks


def stores_of(store, size, number=5, labels=None):
    """A labelled and an unlabelled store of images of rectangles, with label maps where classes exclude each other."""
    rng, found = np.random.default_rng(number), []
    for key, many in (("label", 3), ("truth", number)):
        arrays = {}
        for index in range(many):
            masks = rectangles(rng, size)
            label = masks if labels.multilabel else (2 * masks[1] + (1 - masks[1]) * masks[0])[None]
            arrays[f"{key}{index}.png"] = {"image": 0.1 + 0.5 * masks.sum(0, keepdims=True) / 2, key: label}
        found.append(store(arrays))
    return found


def boxes_of_truth(labels, images):
    """What a perfect detector finds, of each class with more than 0 pixels."""
    found = []
    for index in range(len(images)):
        masks = labels.masks(torch.from_numpy(np.array(images.arrays(index)["truth"]))[None])[0].numpy() > 0.5
        boxes = [component_boxes(mask, 0) for mask in masks]
        kinds = np.repeat(np.arange(len(boxes)), [len(each) for each in boxes])
        found.append({"boxes": np.concatenate(boxes), "labels": kinds, "scores": np.ones(len(kinds), np.float32)})
    return found


def with_boxes(batches, found, score=0.5):
    images = batches.stores["unlabeled"]
    shapes, names = zip(*((images.shape(i), images.name(i)) for i in range(len(images))), strict=True)
    batches.boxes = FoundBoxes(found, shapes, names, batches.labels.num_classes, score)
    return batches


@pytest.mark.parametrize("weak", [None, Chain([QuarterTurn(), Flip([0]), Affine(rotate=15, prob=1.0)])])
def test_boxes_move_as_the_images_do(store, multilabel, weak):
    """The objects are rectangles: what their boxes cover is the truth, whatever the weak view does."""
    stores = stores_of(store, SIZE, labels=multilabel)
    batches = Batches(*stores, multilabel, agreeing(multilabel), 2, 4, weak=weak)
    with_boxes(batches, boxes_of_truth(multilabel, stores[1]))
    for iteration in (1, 2, 3):
        unlabeled = batches[iteration]["unlabeled"]
        torch.testing.assert_close(unlabeled["boxes"], unlabeled["truth"](), rtol=0, atol=0)
        assert 0.01 < unlabeled["boxes"].mean() < 0.2 and unlabeled["boxed"].tolist() == [True, True]


@pytest.mark.parametrize("size", [(40, 36, 24), (24, 36, 40)])
def test_boxes_of_windows_of_volumes_and_of_volumes_smaller_than_a_window(store, multilabel, size):
    stores = stores_of(store, size, labels=multilabel)
    batches = Batches(*stores, multilabel, agreeing(multilabel), 2, 6, patch_size=(32, 32, 32), value_range=None)
    with_boxes(batches, boxes_of_truth(multilabel, stores[1]))
    unlabeled = batches[1]["unlabeled"]
    assert unlabeled["boxes"].shape == (6, 2, 32, 32, 32) and unlabeled["boxes"].sum() > 100
    torch.testing.assert_close(unlabeled["boxes"], unlabeled["truth"](), rtol=0, atol=0)


def test_boxes_of_slices_of_volumes(store, multilabel):
    stores = stores_of(store, (32, 32, 24), labels=multilabel)
    batches = Batches(*stores, multilabel, agreeing(multilabel), 2, 8, patch_size=(32, 32, 1))
    with_boxes(batches, boxes_of_truth(multilabel, stores[1]))
    sums = 0
    for iteration in range(4):
        unlabeled = batches[iteration]["unlabeled"]
        assert unlabeled["boxes"].shape == (8, 2, 32, 32)
        torch.testing.assert_close(unlabeled["boxes"], unlabeled["truth"](), rtol=0, atol=0)
        sums += unlabeled["boxes"].sum()
    assert sums > 50


def test_beyond_an_image_there_are_no_boxes(store, multilabel):
    """A turned image goes on beyond its border; what is there was not looked at."""
    stores = stores_of(store, SIZE, labels=multilabel)
    batches = Batches(*stores, multilabel, agreeing(multilabel), 2, 4, weak=Affine(rotate=45, prob=1.0))
    whole = {"boxes": np.array([[0, 0, 32, 32]], np.float32), "labels": np.array([0]), "scores": np.array([0.9])}
    with_boxes(batches, [whole] * 5)
    boxes = batches[1]["unlabeled"]["boxes"]
    assert boxes[:, 0, 16, 16].all() and not boxes[:, 0, 0, 0].all() and not boxes[:, 1].any()
    assert batches[1]["unlabeled"]["boxed"].tolist() == [True, False]


def test_boxes_of_a_low_score_do_not_count():
    boxes = np.array([[0, 0, 2, 2], [2, 2, 4, 4], [0, 2, 2, 4]], np.float32)
    found = [{"boxes": boxes, "labels": np.array([0, 1, 2]), "scores": np.array([0.85, 0.84, 0.9], np.float32)}]
    kept = FoundBoxes(found, [(4, 4)], ["image"], 4, score=0.85)
    assert len(kept) == 2 and kept.boxed.tolist() == [True, False, True, False]
    expected = np.zeros((4, 4, 4), np.uint8)
    expected[0, :2, :2], expected[2, :2, 2:] = 1, 1
    np.testing.assert_array_equal(kept.covered(0, np.array([0, 0]), (4, 4)), expected)


def test_files_hold_the_boxes_of_each_image(tmp_path):
    rng = np.random.default_rng(0)
    found = [
        {"boxes": rng.random((n, 6), np.float32), "labels": rng.integers(0, 3, n), "scores": rng.random(n, np.float32)}
        for n in (2, 0, 3)
    ]
    torch.save(packed(found, 3), tmp_path / "boxes.pt")
    again = unpacked(torch.load(tmp_path / "boxes.pt", weights_only=True))
    for one, other in zip(found, again, strict=True):
        assert all(np.array_equal(one[key], other[key]) and one[key].shape == other[key].shape for key in one)
    assert unpacked(packed([], 2)) == []


@pytest.mark.parametrize("box", [[-1, 0, 4, 4], [0, 0, 4, 33]])
def test_boxes_outside_of_the_image_are_refused(box):
    found = [{"boxes": np.array([box], np.float32), "labels": np.array([0]), "scores": np.array([0.1], np.float32)}]
    with pytest.raises(ValueError, match=r"the boxes of scan\.png must lie within its 32 x 32 pixels, got"):
        FoundBoxes(found, [SIZE], ["scan.png"], 1, 0.85)


def test_a_method_that_asks_for_boxes_gets_none_without_a_detector(store):
    labels = LabelSpace(["a", "b"], "multilabel")
    batches = Batches(*stores_of(store, SIZE, labels=labels), labels, agreeing(labels), 2, 2)
    with pytest.raises(ValueError, match=r"asks for a detector's boxes .*, got none: put a common\.detection"):
        batches[1]
    assert DetectorStage(batches, "nowhere").needed
