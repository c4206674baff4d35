"""Lays pictures or volumes over others that show the same, of which the sides were cropped a little.

All are batches ``N ...`` with two or three axes of one length.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

FURTHEST = 0.25  # that sides may be scaled by, or shifted by, as a share of their half


def halved(images: Tensor) -> Tensor:
    """Means of two pixels along each axis; of slices, which is much faster than pooling."""
    for axis in range(1, images.ndim):
        first, second = images.unflatten(axis, (-1, 2)).unbind(axis + 1)
        images = (first + second) / 2
    return images


def smooth(images: Tensor, width: int) -> Tensor:
    """Means of boxes, along one axis after the other; at the border of what there is of them."""
    for axis in range(1, images.ndim):
        place = torch.arange(images.shape[axis])
        box = ((place[:, None] - place).abs() <= width // 2).float()
        images = (images.movedim(axis, -1) @ (box / box.sum(0))).movedim(-1, axis)
    return images


def tangents(images: Tensor) -> Tensor:
    """How images change when they are scaled and shifted along each axis, ``N 2n ...``."""
    found = []
    for axis in range(1, images.ndim):
        side = images.shape[axis]
        change = torch.gradient(images, dim=axis)[0] * side / 2
        place = _places(side).reshape([-1] + [1] * (images.ndim - 1 - axis))
        found += [change * place, change]
    return torch.stack(found, dim=1)


def laid_over(ones: Tensor, others: Tensor, place: Tensor, steps: int) -> Tensor:
    """Scale and shift along each axis ``P n 2`` that lay the first over the other, by inverse compositional steps.

    Args:
        ones, others: images ``P ...``.
        place: scales and shifts to begin with, of sides from -1 to 1.
        steps: how many.
    """
    changes = tangents(others).flatten(2)
    normal = changes @ changes.transpose(1, 2)
    normal += torch.eye(normal.shape[-1]) * (1e-3 * normal.diagonal(dim1=1, dim2=2).mean(1) + 1e-6)[:, None, None]
    for _ in range(steps):
        there, inside = sampled(ones, place)
        wrong = ((there - others) * inside).flatten(1)
        step = torch.linalg.solve(normal, changes @ wrong[..., None]).reshape(place.shape).clamp(-0.1, 0.1)
        scale = (place[..., 0] / (1 + step[..., 0])).clamp(1 - FURTHEST, 1 + FURTHEST)
        shift = (place[..., 1] - scale * step[..., 1]).clamp(-FURTHEST, FURTHEST)
        place = torch.stack([scale, shift], dim=-1)
    return place


def sampled(images: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """The images at other places, and where these are inside of them."""
    axes, side = images.ndim - 1, images.shape[-1]
    lines = [
        (_places(side) * place[:, axis, :1] + place[:, axis, 1:]).reshape(
            -1, *[side if other == axis else 1 for other in range(axes)]
        )
        for axis in range(axes)
    ]
    inside = functools.reduce(torch.mul, [(line.abs() <= 1 - 2 / side).float() for line in lines])
    # the grid's last entries are of the last axis
    grid = torch.stack([line.expand(images.shape) for line in reversed(lines)], dim=-1)
    return F.grid_sample(images[:, None], grid, padding_mode="border", align_corners=False)[:, 0], inside


def _places(side: int) -> Tensor:
    """Centres of pixels from -1 to 1, as :func:`torch.nn.functional.grid_sample` counts."""
    return (torch.arange(side) + 0.5) * 2 / side - 1
