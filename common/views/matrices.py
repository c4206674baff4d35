"""Matrices of movements, one for each image: homogeneous, ``B n+1 n+1`` in 2D and 3D, in the conventions of MONAI."""

from __future__ import annotations

import numpy as np


def identity(number: int, n: int) -> np.ndarray:
    """Matrices that move nothing."""
    return np.tile(np.eye(n + 1), (number, 1, 1))


def rotation(angles: np.ndarray) -> np.ndarray:
    """Turns by angles in radians: ``B 1`` in the plane, ``B 3`` about the first, second and third axis in space."""
    if angles.shape[1] == 1:
        return turned_in_plane(2, 0, 1, angles[:, 0])
    first, second, third = (turned_in_plane(3, *plane, angle) for plane, angle in zip(PLANES, angles.T, strict=True))
    return first @ second @ third


PLANES = ((1, 2), (2, 0), (0, 1))  # in which a turn about each axis turns


def turned_in_plane(n: int, one: int, other: int, angles: np.ndarray) -> np.ndarray:
    """Turns from one axis to another."""
    matrices = identity(len(angles), n)
    matrices[:, one, one] = matrices[:, other, other] = np.cos(angles)
    matrices[:, other, one] = np.sin(angles)
    matrices[:, one, other] = -matrices[:, other, one]
    return matrices


def shear(coefficients: np.ndarray) -> np.ndarray:
    """Shears ``B n (n - 1)`` one after the other, row by row of what lies off the diagonal; they keep volumes."""
    n = 2 if coefficients.shape[1] == 2 else 3
    matrices = identity(len(coefficients), n)
    for (row, column), amounts in zip(np.argwhere(~np.eye(n, dtype=bool)), coefficients.T, strict=True):
        matrices[:, row] += amounts[:, None] * matrices[:, column]
    return matrices


def translation(shifts: np.ndarray) -> np.ndarray:
    """Shifts ``B n`` in pixels."""
    matrices = identity(*shifts.shape)
    matrices[:, :-1, -1] = shifts
    return matrices


def scaling(factors: np.ndarray) -> np.ndarray:
    """Factors ``B n`` along each axis."""
    matrices = identity(*factors.shape)
    diagonal = np.arange(factors.shape[1])
    matrices[:, diagonal, diagonal] = factors
    return matrices
