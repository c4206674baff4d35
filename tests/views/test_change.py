"""A change of images and the same change of their labels, in 2D and 3D, against places computed one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from monai.transforms.utils import create_rotate, create_shear, create_translate
from scipy.ndimage import map_coordinates

from common.transforms.change import Change

SIZES = [(9, 10), (8, 9, 11)]


def change_of(matrices, size, box=None, cutout_label="background"):
    number = len(matrices)
    boxes = torch.zeros(number, len(size), 2, dtype=torch.long) if box is None else torch.tensor([box] * number)
    return Change(torch.from_numpy(np.stack(matrices)), boxes, cutout_label)


def random_matrix(dimensions, seed=0):
    rng = np.random.default_rng(seed)
    angles = rng.uniform(-0.5, 0.5, 1 if dimensions == 2 else 3)
    shear = rng.uniform(-0.2, 0.2, dimensions * (dimensions - 1))
    shift = rng.uniform(-1.5, 1.5, dimensions)
    return (
        create_rotate(dimensions, angles if dimensions == 3 else angles[0])
        @ create_shear(dimensions, shear)
        @ create_translate(dimensions, shift)
    )


def places(matrix, size):
    """Where each pixel comes from, in pixels of the original image, in float64."""
    centre = (np.array(size) - 1) / 2
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in size], indexing="ij"), axis=-1) - centre
    return grid @ matrix[:-1, :-1].T + matrix[:-1, -1] + centre


@pytest.mark.parametrize("size", SIZES)
def test_image_is_that_of_scipy(size):
    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    matrices = [random_matrix(len(size), seed) for seed in range(2)]
    found = change_of(matrices, size).of_image(image).numpy()
    for index, matrix in enumerate(matrices):
        where = np.moveaxis(places(matrix, size), -1, 0)
        for channel in range(3):
            expected = map_coordinates(image[index, channel].double().numpy(), where, order=1, mode="nearest")
            np.testing.assert_allclose(found[index, channel], expected, atol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_label_is_the_nearest_one_and_outside_has_no_weight(size):
    rng = np.random.default_rng(1)
    label = torch.from_numpy(rng.integers(0, 5, (1, 1, *size)))
    weight = torch.from_numpy(rng.uniform(0.5, 1, (1, 1, *size)))
    matrix = random_matrix(len(size), 3)
    moved, counted = change_of([matrix], size).of_label(label, weight)
    inside = 0
    for pixel in itertools.product(*[range(n) for n in size]):
        exact = places(matrix, size)[pixel]
        if np.abs(exact - np.round(exact)).max() > 0.499:
            continue  # midway between two pixels either may be the nearest
        origin = tuple(int(np.round(value)) for value in exact)
        if all(0 <= value < n for value, n in zip(origin, size, strict=True)):
            assert moved[(0, 0, *pixel)] == label[(0, 0, *origin)]
            assert counted[(0, 0, *pixel)] == pytest.approx(float(weight[(0, 0, *origin)]))
            inside += 1
        else:
            assert counted[(0, 0, *pixel)] == 0
    assert inside > np.prod(size) / 3
    assert set(moved.unique().tolist()) <= set(label.unique().tolist()) | {0}


@pytest.mark.parametrize("size", SIZES)
def test_whole_pixels_are_exact_and_undone_exactly(size):
    """A shift by whole pixels takes every value as it is, neither half a pixel off nor interpolated."""
    image = torch.rand(1, 2, *size, generator=torch.Generator().manual_seed(0)).double()
    shift = [2, -1, 3][: len(size)]
    change = change_of([create_translate(len(size), shift)], size)
    expected = torch.roll(image, [-s for s in shift], dims=list(range(2, 2 + len(size))))
    inner = (..., *[slice(3, -3)] * len(size))
    assert expected[inner].numel()
    torch.testing.assert_close(change.of_image(image)[inner], expected[inner])
    label, _ = change.of_label(image.round(), torch.ones_like(image))
    torch.testing.assert_close(label[inner], expected.round().float()[inner], rtol=0, atol=0)
    torch.testing.assert_close(change.undo(change.of_image(image))[inner], image[inner])


def test_a_quarter_turn_is_exact():
    label = torch.arange(16.0).view(1, 1, 4, 4)
    moved, weight = change_of([create_rotate(2, np.pi / 2)], (4, 4)).of_label(label, torch.ones_like(label))
    torch.testing.assert_close(moved[0, 0], torch.rot90(label[0, 0], -1), rtol=0, atol=0)
    assert weight.min() == 1


@pytest.mark.parametrize("size", [(48, 64), (24, 28, 32)])
def test_undo_brings_a_smooth_image_back(size):
    grid = torch.meshgrid(*[torch.linspace(0, 3, n) for n in size], indexing="ij")
    image = sum(torch.sin(axis + number) for number, axis in enumerate(grid))[None, None]
    change = change_of([random_matrix(len(size), 5)], size)
    back = change.undo(change.of_image(image))
    inner = (..., *[slice(n // 3, -n // 3) for n in size])
    torch.testing.assert_close(back[inner], image[inner], atol=0.01, rtol=0)
    assert (change.of_image(image) - image)[inner].abs().max() > 0.1  # there was something to undo


@pytest.mark.parametrize(("cutout_label", "weight"), [("background", 1.0), ("ignore", 0.0)])
@pytest.mark.parametrize("size", SIZES)
def test_the_box_is_background_or_ignored(size, cutout_label, weight):
    box = [[2, 4], [1, 6], [3, 5]][: len(size)]
    change = change_of([np.eye(len(size) + 1)], size, box, cutout_label)
    label, counted = change.of_label(torch.full((1, 2, *size), 1.0), torch.full((1, 1, *size), 0.5))
    inside = np.zeros(size, bool)
    inside[tuple(slice(*side) for side in box)] = True
    np.testing.assert_array_equal(change.cut(size)[0, 0].numpy(), inside)
    np.testing.assert_array_equal(label.numpy(), np.broadcast_to(np.where(inside, 0.0, 1.0), label.shape))
    np.testing.assert_array_equal(counted[0, 0].numpy(), np.where(inside, weight, 0.5))


@pytest.mark.parametrize("size", SIZES)
def test_places_are_exact_in_mixed_precision(size):
    maps = torch.arange(float(np.prod(size))).view(1, 1, *size)
    change = change_of([random_matrix(len(size), 2)], size)
    expected = change.of_image(maps), *change.of_label(maps, maps), change.undo(maps)
    with torch.autocast("cpu", torch.bfloat16):
        found = change.of_image(maps), *change.of_label(maps, maps), change.undo(maps)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)
