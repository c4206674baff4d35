"""Heads and the gliomas in them: where each part may be."""

from __future__ import annotations

import numpy as np
import pytest

from common.phantoms.head import FIELD, make_head
from common.phantoms.tumour import make_tumour


@pytest.fixture(scope="module")
def made():
    """Heads with their tumours; a coarse grid is enough to tell where things are."""
    found = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        head = make_head(rng, 48, 10)
        found.append((head, make_tumour(rng, head)))
    return found


def test_the_grid():
    head = make_head(np.random.default_rng(0), 60, 5)
    assert head.voxel == (FIELD / 60, FIELD / 60, 37.0)  # from -76 to 72 mm in 4 steps
    assert head.place.shape == (3, 60, 60, 5)
    x, y, z = head.place
    assert y[0].mean() > 80 and y[-1].mean() < -80  # the front is above
    assert z[..., 0].mean() < -60 and z[..., -1].mean() > 60
    assert abs(x.mean()) < 12


def test_shares_are_shares(made):
    for head, tumour in made:
        for _, share in head.layers + tumour.layers:
            assert share.shape == head.inside.shape
            assert share.min() >= 0 and share.max() <= 1


def test_tumours_are_in_the_brain_and_outside_the_ventricles(made):
    for head, tumour in made:
        marked = tumour.extent > 0.5
        assert marked.any()
        assert head.inside[marked].min() > 0
        assert head.wall[marked].min() > -2.5  # mm: walls are soft


def test_tumour_and_oedema_are_marked_with_all_they_hold(made):
    for _, tumour in made:
        names = [name for name, _ in tumour.layers]
        assert names[:3] == ["oedema", "tumour", "dense"]
        for _, share in tumour.layers:
            assert (share <= tumour.extent + 1e-6).all()


def test_some_take_up_contrast_and_some_hold_a_cyst(made):
    for part in ("enhancing", "cyst"):
        having = sum(part in dict(tumour.layers) for _, tumour in made)
        assert 0 < having < len(made)


def test_tumours_are_of_many_sizes_and_on_both_sides(made):
    volumes, sides = [], set()
    for head, tumour in made:
        marked = tumour.extent > 0.5
        volumes.append(marked.sum() * np.prod(head.voxel) / 1000)
        sides.add(np.sign(head.place[0][marked].mean()))
    assert max(volumes) > 4 * min(volumes)
    assert sides == {-1, 1}


def test_the_head_is_around_the_brain(made):
    for head, _ in made:
        scalp = head.layers[0][1]
        assert (scalp[head.inside > 0] > 0.95).all()
