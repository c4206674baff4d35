"""Every class in every draw (eq. 1), and what cannot be done is said."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from common.batches.class_cover import ClassCover, class_presence
from common.label_space import LabelSpace

CLASSES = ["a", "b", "c", "d"]


def covers(presence, size):
    """All sets of ``size`` images that hold every class, by trying every one."""
    return {frozenset(s) for s in combinations(range(len(presence)), size) if presence[list(s)].any(axis=0).all()}


def draws(cover, number=200):
    return [cover.draw(np.random.default_rng([7, turn])) for turn in range(number)]


def random_presence(seed, images=6, share=0.35):
    rng = np.random.default_rng(seed)
    presence = rng.random((images, 4)) < share
    presence[rng.integers(images, size=4), range(4)] = True  # no class is missing altogether
    return presence


@pytest.mark.parametrize("seed", range(20))
def test_every_draw_is_one_of_the_covers_or_there_is_none(seed):
    presence = random_presence(seed)
    for size in range(1, 7):
        possible = covers(presence, size)
        if not possible:
            with pytest.raises(ValueError, match=f"no such {size} images"):
                ClassCover(presence, size, CLASSES)
            continue
        for drawn in draws(ClassCover(presence, size, CLASSES), 30):
            assert len(set(drawn)) == len(drawn) == size
            assert frozenset(drawn) in possible


def test_tight_cover_that_a_greedy_order_misses():
    """b's most obvious images spoil the cover: of 3 images in 2 places only 1 and 2 hold a to d."""
    presence = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1]], dtype=bool)
    cover = ClassCover(presence, 2, CLASSES)
    assert {frozenset(drawn) for drawn in draws(cover)} == {frozenset({1, 2})}
    greedy_trap = np.array([[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 0], [0, 1, 1, 0], [1, 0, 1, 0]], dtype=bool)
    cover = ClassCover(greedy_trap, 2, CLASSES)
    assert {frozenset(drawn) for drawn in draws(cover)} == covers(greedy_trap, 2)


def test_images_that_hold_every_class_are_drawn_alike():
    cover = ClassCover(np.ones((5, 4), dtype=bool), 3, CLASSES)
    drawn = draws(cover, 1000)
    assert {frozenset(d) for d in drawn} == covers(np.ones((5, 4)), 3)
    for place in range(3):
        share = np.bincount([d[place] for d in drawn], minlength=5) / len(drawn)
        np.testing.assert_allclose(share, 0.2, atol=0.05)


def test_every_image_gets_its_turn_also_beside_a_rare_class():
    presence = np.ones((6, 4), dtype=bool)
    presence[1:, 3] = False  # the last class is in image 0 alone
    drawn = draws(ClassCover(presence, 2, CLASSES), 400)
    assert all(0 in d for d in drawn)
    share = np.bincount([next(i for i in d if i) for d in drawn], minlength=6) / len(drawn)
    np.testing.assert_allclose(share[1:], 0.2, atol=0.07)
    assert {d.index(0) for d in drawn} == {0, 1}  # the rare one has no place of its own


@pytest.mark.parametrize("size", [4, 6, 11, 12])
def test_more_places_than_images_repeat_them_evenly(size):
    presence = random_presence(3, images=4)
    drawn = draws(ClassCover(presence, size, CLASSES), 300)
    for each in drawn:
        counts = Counter(each)
        assert len(each) == size and set(counts) == {0, 1, 2, 3}
        assert max(counts.values()) - min(counts.values()) <= 1
    often = np.bincount([index for each in drawn for index in each], minlength=4) / len(drawn)
    np.testing.assert_allclose(often, size / 4, atol=0.1)  # who comes once more changes
    if size % 4:
        assert len({tuple(sorted(each)) for each in drawn}) > 1
    assert len({tuple(each) for each in drawn}) > 4


def test_a_draw_is_a_function_of_the_generator():
    cover = ClassCover(np.random.default_rng(0).random((8, 4)) < 0.6, 4, CLASSES)
    again = ClassCover(cover.presence.copy(), 4, CLASSES)
    cover.draw(np.random.default_rng(99))
    assert draws(cover, 20) == draws(again, 20)


def test_where_every_class_is_not_needed_images_are_drawn_at_random():
    presence = np.eye(4, dtype=bool)
    drawn = draws(ClassCover(presence, 2, CLASSES, needed=False), 600)
    assert {frozenset(d) for d in drawn} == {frozenset(s) for s in combinations(range(4), 2)}
    np.testing.assert_allclose(np.bincount([i for d in drawn for i in d]) / len(drawn), 0.5, atol=0.07)
    cover = ClassCover(np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]], bool), 2, CLASSES, needed=False)
    assert {frozenset(d) for d in draws(cover)} == {frozenset({0, 2})}  # where it can be done, it is


def test_a_class_that_occurs_nowhere_is_named():
    presence = np.array([[1, 0, 1, 0], [1, 0, 0, 0]], dtype=bool)
    for needed in (True, False):
        with pytest.raises(ValueError, match="none with b, d"):
            ClassCover(presence, 2, CLASSES, needed)


def test_an_impossible_cover_names_its_classes():
    presence = np.eye(4, dtype=bool)
    presence[:, 0] = True
    with pytest.raises(ValueError, match="classes b, c, d are spread") as caught:
        ClassCover(presence, 2, CLASSES)
    assert "labeled_batch" in str(caught.value)


@pytest.mark.parametrize(("images", "size"), [(4, 0), (4, -1), (0, 2)])
def test_nothing_to_draw_is_refused(images, size):
    with pytest.raises(ValueError, match=f"got {images} and {size}"):
        ClassCover(np.ones((images, 4), dtype=bool), size, CLASSES)


@pytest.mark.parametrize("size", [(6, 6), (5, 4, 6)])
def test_presence_is_that_of_the_labels(labels, size):
    masks = np.zeros((3, 2, *size), np.uint8)
    masks[0, 0].flat[7] = masks[1, 1].flat[-1] = masks[1, 0].flat[0] = 1
    arrays = masks if labels.multilabel else masks[:, :1] + 2 * masks[:, 1:]
    np.testing.assert_array_equal(class_presence(arrays, labels), [[True, False], [True, True], [False, False]])


def test_presence_in_no_images_has_a_column_for_each_class(multilabel):
    assert class_presence([], multilabel).shape == (0, 2)
    assert class_presence([np.ones((3, 4, 4))], LabelSpace(CLASSES[:3])).tolist() == [[True] * 3]
