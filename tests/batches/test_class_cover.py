"""Every class in every pool (eq. 1), and what cannot be done is said."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from monai.data import Dataset
from monai.transforms import Compose, Lambdad, RandSpatialCropd

from common.data.reference_pool import ReferencePool, class_presence

CLASSES = ["a", "b", "c", "d"]


def covers(presence, size):
    """All sets of ``size`` images that hold every class, by trying every one."""
    return {frozenset(s) for s in combinations(range(len(presence)), size) if presence[list(s)].any(axis=0).all()}


def draws(pool, number=200):
    return [pool.draw(np.random.default_rng([7, turn])) for turn in range(number)]


@pytest.mark.parametrize("seed", range(20))
def test_every_draw_is_one_of_the_covers_or_there_is_none(seed):
    rng = np.random.default_rng(seed)
    presence = rng.random((6, 4)) < 0.35
    presence[rng.integers(6, size=4), range(4)] = True  # no class is missing altogether
    for size in range(1, 7):
        possible = covers(presence, size)
        if not possible:
            with pytest.raises(ValueError, match=f"pool of {size} labelled images"):
                ReferencePool(presence, size, CLASSES)
            continue
        pool = ReferencePool(presence, size, CLASSES)
        for drawn in draws(pool, 30):
            assert len(set(drawn)) == len(drawn) == size
            assert frozenset(drawn) in possible


def test_tight_cover_that_a_greedy_order_misses():
    """b's most obvious images spoil the cover: of 3 images in 2 places only 1 and 2 hold a to d."""
    presence = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1]], dtype=bool)
    pool = ReferencePool(presence, 2, CLASSES)
    assert {frozenset(drawn) for drawn in draws(pool)} == {frozenset({1, 2})}
    greedy_trap = np.array([[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 0], [0, 1, 1, 0], [1, 0, 1, 0]], dtype=bool)
    pool = ReferencePool(greedy_trap, 2, CLASSES)
    assert {frozenset(drawn) for drawn in draws(pool)} == covers(greedy_trap, 2)


def test_images_that_hold_every_class_are_drawn_alike():
    pool = ReferencePool(np.ones((5, 4), dtype=bool), 3, CLASSES)
    drawn = draws(pool, 1000)
    assert {frozenset(d) for d in drawn} == covers(np.ones((5, 4)), 3)
    for place in range(3):
        share = np.bincount([d[place] for d in drawn], minlength=5) / len(drawn)
        np.testing.assert_allclose(share, 0.2, atol=0.05)


def test_every_image_gets_its_turn_also_beside_a_rare_class():
    presence = np.ones((6, 4), dtype=bool)
    presence[1:, 3] = False  # the last class is in image 0 alone
    drawn = draws(ReferencePool(presence, 2, CLASSES), 400)
    assert all(0 in d for d in drawn)
    share = np.bincount([next(i for i in d if i) for d in drawn], minlength=6) / len(drawn)
    np.testing.assert_allclose(share[1:], 0.2, atol=0.07)
    assert {d.index(0) for d in drawn} == {0, 1}  # the rare one has no place of its own


def test_a_draw_is_a_function_of_the_generator():
    pool = ReferencePool(np.random.default_rng(0).random((8, 4)) < 0.6, 4, CLASSES)
    again = ReferencePool(pool.presence.copy(), 4, CLASSES)
    pool.draw(np.random.default_rng(99))
    assert draws(pool, 20) == draws(again, 20)


def test_a_class_that_occurs_nowhere_is_named():
    presence = np.array([[1, 0, 1, 0], [1, 0, 0, 0]], dtype=bool)
    with pytest.raises(ValueError, match="none with b, d"):
        ReferencePool(presence, 2, CLASSES)


def test_an_impossible_cover_names_its_classes():
    presence = np.eye(4, dtype=bool)
    presence[:, 0] = True
    with pytest.raises(ValueError, match="classes b, c, d are spread") as caught:
        ReferencePool(presence, 2, CLASSES)
    assert "labeled_batch" in str(caught.value)


@pytest.mark.parametrize("size", [0, -1, 5])
def test_sizes_out_of_range_are_refused(size):
    with pytest.raises(ValueError, match=f"4 labelled images, got {size}"):
        ReferencePool(np.ones((4, 4), dtype=bool), size, CLASSES)


def test_presence_is_that_of_the_labels(labels):
    masks = torch.zeros(3, 2, 6, 6)
    masks[0, 0, 1, 1] = masks[1, 1, 5, 5] = masks[1, 0, 2, 2] = 1
    data = masks if labels.multilabel else masks[:, :1] + 2 * masks[:, 1:]
    dataset = Dataset([{"label": item} for item in data], Compose([Lambdad("label", lambda x: x * 1)]))
    np.testing.assert_array_equal(class_presence(dataset, labels), [[True, False], [True, True], [False, False]])


def test_presence_is_not_that_of_a_random_crop(multilabel):
    """The class sits in a corner that the crop nearly always misses."""
    label = torch.zeros(2, 20, 20)
    label[:, 0, 0] = 1
    dataset = Dataset([{"label": label}], Compose([RandSpatialCropd("label", roi_size=(2, 2), random_size=False)]))
    assert class_presence(dataset, multilabel).all()


def test_an_item_without_label_is_named(multilabel):
    dataset = Dataset([{"label": torch.ones(2, 4, 4)}, {"image": torch.ones(1, 4, 4)}], Compose([]))
    with pytest.raises(ValueError, match=r"labelled image 1 must have a 'label', got the keys \['image'\]"):
        class_presence(dataset, multilabel)
