"""Distances to classes from as large a share of each class's own references, whatever its size."""

from __future__ import annotations

import torch
from torch import Tensor

from common.precision import full_precision
from common.sources.nearest.labels import (
    ReferenceLabels,
    check_task,
    number_of_neighbors,
    plain_tensor,
    reference_labels,
)
from common.sources.nearest.search import class_members
from common.sources.nearest.tiles import EPSILON, TILE, norms, unit


@torch.no_grad()
def labels_by_class(
    queries: Tensor,
    references: Tensor,
    labels: Tensor,
    k: int | float | None,
    *,
    num_classes: int | None = None,
    background: bool = True,
    votes: bool = False,
    check: bool = True,
) -> ReferenceLabels:
    """Mean distances to the nearest references of each class, and the nearest reference's label or that of their votes.

    With D = 1 - max(cos, 0) (eq. 3 of Seibold et al. 2022), the distance to class j is the mean of the k_j smallest D
    to its references, 1 for a class without any. Memory is bounded as in
    :func:`~common.sources.nearest.reference_labels`, apart from a copy of one class's references.

    Args: as for :func:`~common.sources.nearest.reference_labels`, but for
        k: how many of each class's references: a share of them in (0, 1], of which k_j is the whole number next to it
            and at least 1; a number, at most all of them; or ``None`` for all.
        votes: each label that references have, of overlapping classes each combination, is a candidate: its
            references vote by 1 - D, the nearest k of them, and the one with the highest mean vote is taken; of
            equals, up to rounding, the first in ascending order, background before all. Else the label is the nearest
            reference's (eq. 4).

    Returns:
        labels of the form and type given, distances in float32 between 0 and 1.

    Raises:
        ValueError: if shapes, devices, values or k do not fit; it says what was found and what to do.
    """
    tensors = tuple(plain_tensor(values) for values in (queries, references, labels))
    queries, references, labels = tensors
    multilabel, classes = check_task(*tensors, num_classes, background, check)
    members = class_members(labels, classes, multilabel, background)
    if not votes:
        options = {"num_classes": num_classes, "background": background, "check": False}
        nearest = reference_labels(queries, references, labels, None, **options).labels
        return ReferenceLabels(nearest, distances_to(queries, references, members, k))
    candidates, which = labels.unique(dim=0, return_inverse=True)
    voters = which == torch.arange(len(candidates), device=labels.device).unsqueeze(1)
    # most candidates are a class on its own, whose distance is asked once
    groups, places = torch.cat([members, voters]).unique(dim=0, return_inverse=True)
    distances = distances_to(queries, references, groups, k)[:, places]
    return ReferenceLabels(candidates[distances[:, len(members) :].argmin(1)], distances[:, : len(members)])


def distances_to(queries: Tensor, references: Tensor, groups: Tensor, k: int | float | None) -> Tensor:
    """Mean distance of each query to the nearest k of each group's references, ``(Q, g)``; 1 where there are none.

    Args:
        queries: features ``(Q, d)``.
        references: features ``(R, d)``.
        groups: which references are of which group, booleans ``(g, R)``. To count them, the host waits for a GPU.
        k: see :func:`labels_by_class`.
    """
    found = queries.new_ones(len(queries), len(groups), dtype=torch.float32)
    rows, columns = TILE["cpu" if queries.device.type == "cpu" else "cuda"]
    with full_precision(queries.device):
        for column, group in zip(found.unbind(1), groups, strict=True):
            own = references[group]
            number = number_of_neighbors(k, len(own)) if len(own) else 0
            lengths = norms(own)
            units = unit(own, lengths)
            share = max(1, rows * columns // max(1, len(own)))
            for start in range(0, len(queries) if number else 0, share):
                part = slice(start, start + share)
                column[part] = 1 - mean_of_largest(similarities(queries[part], units, lengths), number).clamp(0, 1)
    return found


def similarities(queries: Tensor, units: Tensor, lengths: Tensor) -> Tensor:
    """max(cos, 0) of eq. 3, ``(Q, n)``, with references as unit vectors ``(n, d)`` and their norms ``(n,)``."""
    own = norms(queries)
    tile = unit(queries, own) @ units.T
    return tile.div_(1 + EPSILON / torch.outer(own, lengths)).clamp_(min=0)  # a zero vector: 0 / inf = 0


def mean_of_largest(values: Tensor, number: int) -> Tensor:
    """Mean of each row's ``number`` largest values ``(Q, n)``, whose order may change."""
    rest = values.shape[1] - number
    if rest and values.device.type == "cpu":
        values.numpy().partition(rest, axis=1)  # two or three times as fast as torch's topk on a CPU
        values = values[:, rest:]
    elif rest:
        values = values.topk(number, sorted=False).values
    return values.mean(1)
