"""The 3D phantom: tissues where they belong, lesions as asked for, the same patient for the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from common.phantoms.brain import LOAD, Brain, make_brain, smooth_noise, step

SIZE = 56


@pytest.fixture(scope="module")
def brains() -> list[Brain]:
    return [make_brain(5, patient, SIZE) for patient in range(8)]


def test_shares_are_shares_within_the_brain(brains):
    for brain in brains:
        assert brain.inside.shape == (45, 56, 45)
        assert brain.voxel == pytest.approx(180 / SIZE)
        for share in (brain.csf, brain.grey, brain.lesion):
            assert share.min() >= 0
            assert share.max() <= 1
            assert (share[~brain.inside] == 0).all()
        assert (brain.csf + brain.grey <= 1 + 1e-5).all()
        assert 800 < brain.inside.sum() * brain.voxel**3 / 1000 < 1700  # ml


def test_lesions_are_in_tissue_and_of_the_load(brains):
    loads = []
    for brain in brains:
        assert (brain.csf[brain.truth] < 0.5).all()
        assert brain.lesion_ml == pytest.approx(brain.truth.sum() * (180 / SIZE) ** 3 / 1000)
        loads.append(brain.lesion_ml)
    assert min(loads) < 5
    assert max(loads) > 8
    assert max(loads) < 1.3 * LOAD[1]


def test_more_than_one_lesion_in_most_patients(brains):
    numbers = [ndimage.label(brain.truth, np.ones((3, 3, 3)))[1] for brain in brains]
    assert np.median(numbers) >= 5


def test_bait_is_bright_and_no_lesion(brains):
    for brain in brains:
        outside = brain.inside & ~brain.truth
        assert (brain.bait[outside] > 0.15).sum() > 50


def test_the_same_patient_every_time(brains):
    again, other = make_brain(5, 2, SIZE), make_brain(6, 2, SIZE)
    for name in ("inside", "csf", "grey", "lesion", "brightness", "bait"):
        np.testing.assert_array_equal(getattr(brains[2], name), getattr(again, name))
    assert not np.array_equal(other.inside, again.inside)
    assert not np.array_equal(brains[3].inside, again.inside)


def test_smooth_noise_is_standardised_and_smooth():
    rng = np.random.default_rng(0)
    noise = smooth_noise(rng, (40, 40, 40), 1.0, 10.0)
    assert noise.mean() == pytest.approx(0, abs=1e-3)
    assert noise.std() == pytest.approx(1, abs=1e-3)
    assert np.abs(np.diff(noise, axis=0)).max() < 0.8
    rough = smooth_noise(np.random.default_rng(0), (40, 40, 40), 1.0, 3.0)
    assert np.abs(np.diff(rough, axis=0)).mean() > 2 * np.abs(np.diff(noise, axis=0)).mean()


def test_step_by_hand():
    assert step(np.zeros(1), 1.0) == pytest.approx(0.5)
    assert step(np.array([1.0]), 2.0) == pytest.approx(1 / (1 + np.exp(-1)))
    assert step(np.array([1.0]), 2.0, below=True) == pytest.approx(1 / (1 + np.e))
