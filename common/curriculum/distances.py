"""Euclidean distances of latents that are right to the last digits, and the errors of latents that are not."""

from __future__ import annotations

import torch
from torch import Tensor

ELEMENTS = 2**22  # of the latents that are copied at a time: 16 MB
LARGEST = 1e18  # norm of a latent: a few times its square still is a float32
ROUNDING = 2.0**-24  # float32's unit of rounding


def candidates(rows: Tensor, new: Tensor, farthest: Tensor, neighbors: int) -> Tensor:
    """Which pairs ``(m, n)`` of centred latents may be nearer than what the rows have: never too few.

    ||a - b||^2 = ||a||^2 + ||b||^2 - 2 ab, in float32, is off by at most (2 d + 32) roundings of ||a||^2 + ||b||^2:
    those of the three sums of d products, and of the centring, the additions and ``farthest`` itself.

    Args:
        rows: unlabelled images ``(m, d)``.
        new: training images ``(n, d)``.
        farthest: distances ``(m,)`` of the rows' p-th nearest so far, infinite where they have fewer.
        neighbors: p.
    """
    row_squares, new_squares = (torch.linalg.vector_norm(a, dim=1).square() for a in (rows, new))
    share = (2 * rows.shape[1] + 32) * ROUNDING
    lowest = torch.addmm((1 - share) * new_squares, rows, new.T, alpha=-2).add_((1 - share) * row_squares[:, None])
    limits = farthest.square()
    if len(new) > neighbors:  # p of the new ones are surely no farther than this
        near = lowest.topk(neighbors, dim=1, largest=False, sorted=False).values.amax(1)
        limits = limits.minimum(near + 2 * share * (row_squares + new_squares.amax()))
    vanished = 8 * rows.shape[1] * torch.finfo(rows.dtype).tiny  # products too small for a float32
    return lowest <= (limits + vanished)[:, None]


def pair_distances(rows: Tensor, new: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Euclidean distances ``(n,)`` of the pairs rows[row], new[column]."""
    distances = rows.new_empty(len(row))
    step = max(1, ELEMENTS // 4 // rows.shape[1])
    for first in range(0, len(row), step):
        part = slice(first, first + step)
        difference = rows[row[part]].sub_(new[column[part]])
        distances[part] = torch.linalg.vector_norm(difference, dim=1, dtype=torch.float64)
    return distances


def check_latents(unlabeled: Tensor, training: Tensor) -> None:
    for name, latents in (("unlabeled", unlabeled), ("training", training)):
        if latents.ndim != 2 or latents.dtype is not torch.float32:
            raise ValueError(
                f"{name} must be float32 latents of shape (images, features), got {latents.dtype} of shape "
                f"{tuple(latents.shape)}. Give one vector per image, .float()."
            )
    if unlabeled.shape[1] != training.shape[1] or unlabeled.shape[1] == 0:
        raise ValueError(
            f"unlabeled and training must have the same number of features, at least one, got {unlabeled.shape[1]} "
            f"and {training.shape[1]}. Take both from the same layer of the same network."
        )
    if len(training) == 0:
        raise ValueError("training must hold at least one image, got none. Give the latents of the labelled images.")
    if unlabeled.device != training.device:
        raise ValueError(
            f"unlabeled and training must be on one device, got {unlabeled.device} and {training.device}. Move one."
        )


def sum_of_finite(name: str, latents: Tensor) -> Tensor:
    """The sum of the latents ``(d,)`` in float64, once all of them are known to be numbers of a sensible size."""
    parts = latents.split(max(1, ELEMENTS // latents.shape[1]))
    norms = [torch.linalg.vector_norm(part, dim=1, dtype=torch.float64) for part in parts]
    bad = (~(torch.cat(norms) < LARGEST)).nonzero().squeeze(1).tolist()
    if bad:
        more = ", ..." if len(bad) > 10 else "."
        raise ValueError(
            f"{name} must be finite latents of a norm below {LARGEST:g}, {len(bad)} of {len(latents)} are not: rows "
            f"{', '.join(map(str, bad[:10]))}{more} Look at these images and at the network's training."
        )
    return sum(part.sum(0, dtype=torch.float64) for part in parts)
