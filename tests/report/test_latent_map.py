"""The map of the latent space against an eigen-decomposition and points whose map is known."""

from __future__ import annotations

import numpy as np
import pytest

from common.report.latent_map import latent_chart, principal_components
from common.report.pseudo_labels import Latents


def test_components_are_the_eigenvectors_of_the_covariance() -> None:
    vectors = np.random.default_rng(0).normal(size=(30, 5)) * [5, 3, 1, 0.5, 0.1] + 7
    coordinates, shares = principal_components(vectors)
    values, directions = np.linalg.eigh(np.cov(vectors.T))
    np.testing.assert_allclose(shares, values[::-1][:2] / values.sum())
    for index in range(2):
        direction = directions[:, -1 - index]
        direction = direction * np.sign(direction[np.abs(direction).argmax()])
        np.testing.assert_allclose(coordinates[:, index], (vectors - vectors.mean(0)) @ direction)


def test_points_on_a_plane_keep_their_distances() -> None:
    points = np.array([[0, 0], [4, 0], [4, 2], [0, 2]], dtype=float)
    vectors = points @ np.array([[0.6, 0.8, 0, 0], [0, 0, 0.8, -0.6]])
    coordinates, shares = principal_components(vectors)
    np.testing.assert_allclose(coordinates, points - [2, 1], atol=1e-12)
    # Sums of squares: 4 x 4 along the first axis, 4 x 1 along the second.
    np.testing.assert_allclose(shares, [0.8, 0.2])


@pytest.mark.parametrize("vectors", [np.ones((4, 3)), np.arange(4.0)[:, None], np.ones((1, 3))])
def test_directions_that_are_not_there_are_zero(vectors: np.ndarray) -> None:
    coordinates, shares = principal_components(vectors)
    assert coordinates.shape == (len(vectors), 2)
    np.testing.assert_allclose(coordinates[:, 1], 0, atol=1e-12)
    assert shares[1] == 0
    assert shares[0] in (0, 1)


@pytest.mark.parametrize("steps", [[0, 0, 0], [-1, -1, -1], [0, 1, 1], [0, 3, -1], [5, 12, 30]])
def test_a_chart_of_any_kinds_of_images(steps: list[int]) -> None:
    chart = latent_chart(Latents(np.random.default_rng(0).normal(size=(3, 4)), np.array(steps)))
    assert set(chart.pictures) == {"light", "dark"}


def test_two_images_make_no_map() -> None:
    assert latent_chart(Latents(np.eye(2), np.array([0, 1]))) is None
