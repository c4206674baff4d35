"""Some of an image's pixels: which they are, maps at them, and maps of them brought back."""

from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.sources import Grid

SIZES = [(32, 32), (40, 24), (30, 29), (5, 50), (12, 9, 17)]


def plain_places(side, number, phase):
    """The pixel that lies at a phase of each cell, in exact fractions."""
    cells = min(side, number)
    return tuple(floor((i + Fraction(phase)) * side / cells) for i in range(cells))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("phase", [0.0, 0.25, 0.5, 0.75, 1 - 2**-20])
@pytest.mark.parametrize("number", [1, 7, 8])
def test_places_are_exact(size, phase, number):
    grid = Grid.of_cells(size, number, [phase] * len(size))
    assert grid.places == tuple(plain_places(side, number, phase) for side in size)
    assert grid.shape == tuple(min(number, side) for side in size)
    assert grid.size == size


def test_each_axis_has_its_own_phase():
    assert Grid.of_cells((12, 12), 3, [0.0, 0.75]).places == ((0, 4, 8), (3, 7, 11))
    assert Grid.of_cells((12, 12), 3).places == ((2, 6, 10), (2, 6, 10))


@pytest.mark.parametrize("side", [3, 8, 21, 64, 77])
def test_the_last_phase_below_one_stays_within_the_image(side):
    """As near to 1 as random numbers come."""
    grid = Grid.of_cells((side,), 2, [float(np.nextafter(1, 0))])
    assert grid.places[0][-1] == side - 1


@pytest.mark.parametrize("size", [(6, 9), (8, 16), (9, 8, 4)], ids=str)
def test_phases_hit_every_pixel_in_turn(size):
    """Each pixel of a cell is asked by as large a part of the phases as any other."""
    hits = [np.zeros(side) for side in size]
    for phase in np.arange(0, 1, 1 / 360):
        for axis, places in enumerate(Grid.of_cells(size, 3, [float(phase)] * len(size)).places):
            hits[axis][list(places)] += 1
    for side, counts in zip(size, hits, strict=True):
        np.testing.assert_allclose(counts, 360 * 3 / side, atol=1)


@pytest.mark.parametrize("number", [None, 9, 20])
def test_no_grid_where_all_pixels_are_asked(number):
    assert Grid.of_cells((9, 7), number) is None


def test_an_axis_shorter_than_the_grid_keeps_its_pixels():
    grid = Grid.of_cells((4, 12), 6, [0.9, 0.0])
    assert grid.places == ((0, 1, 2, 3), (0, 2, 4, 6, 8, 10))
    maps = torch.rand(2, 3, 4, 12)
    assert torch.equal(grid.of(maps), maps[..., ::2])
    assert torch.equal(grid.spread(grid.of(maps))[..., ::2], maps[..., ::2])


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("number", [3, 8])
def test_in_the_middle_it_is_nearest_exact_interpolation(size, number):
    maps = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    grid = Grid.of_cells(size, number)
    expected = F.interpolate(maps, size=grid.shape, mode="nearest-exact")
    assert torch.equal(grid.of(maps), expected)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_maps_at_the_pixels_and_back(size):
    maps = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    phases = [0.2, 0.7, 0.4][: len(size)]
    grid = Grid.of_cells(size, 4, phases)
    few, whole = grid.of(maps), grid.spread(grid.of(maps))
    assert few.shape == (2, 3, *grid.shape) and whole.shape == maps.shape
    asked = np.zeros(size, bool)
    for index in np.ndindex(*grid.shape):
        place = tuple(places[i] for places, i in zip(grid.places, index, strict=True))
        asked[place] = True
        assert torch.equal(few[(..., *index)], maps[(..., *place)])
    np.testing.assert_array_equal(whole.numpy(), np.where(asked, maps.numpy(), 0))
    assert torch.equal(grid.of(whole), few)


def test_gradients_reach_the_pixels_of_the_grid_alone():
    maps = torch.rand(1, 1, 6, 6, requires_grad=True)
    grid = Grid.of_cells((6, 6), 2)
    grid.of(maps).sum().backward()
    assert torch.equal(maps.grad, grid.spread(torch.ones(1, 1, 2, 2)))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_filled_gives_each_pixel_the_value_of_its_cell(size):
    grid = Grid.of_cells(size, 4)
    few = torch.rand(1, 2, *grid.shape, generator=torch.Generator().manual_seed(0))
    found = grid.filled(few)
    assert found.shape == (1, 2, *size)
    for place in np.ndindex(*size):
        cell = tuple(floor((p + Fraction(1, 2)) * n / side) for p, n, side in zip(place, grid.shape, size, strict=True))
        assert torch.equal(found[(..., *place)], few[(..., *cell)])


def test_whole_numbers_stay_whole_numbers():
    label = torch.arange(36).view(1, 1, 6, 6)
    grid = Grid.of_cells((6, 6), 3)
    assert grid.of(label).dtype == grid.spread(grid.of(label)).dtype == torch.long
    assert grid.filled(label[..., :3, :3]).dtype == torch.float32
