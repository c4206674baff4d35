"""Label of pixels from their nearest labelled pixels, and distances to the classes, without listing the neighbours."""

from __future__ import annotations

from numbers import Integral, Real
from typing import NamedTuple

import torch
from torch import Tensor

from common.precision import full_precision
from common.sources.nearest import kernels
from common.sources.nearest.search import LabelSets, class_members, search
from common.sources.nearest.tiles import GRANULE, TILE, SimilarityTiles, norms

QUERIES_AT_ONCE = 16384  # what is kept per query (its features, a number per label set) is bounded by this


class ReferenceLabels(NamedTuple):
    """For each query its label ``(Q,)`` or ``(Q, C)``, and distances to the classes ``(Q, c)``."""

    labels: Tensor
    distances: Tensor


@torch.no_grad()
def reference_labels(
    queries: Tensor,
    references: Tensor,
    labels: Tensor,
    k: int | float | None = 7000,
    *,
    num_classes: int | None = None,
    background: bool = True,
    chunk_size: int | tuple[int, int] | None = None,
    check: bool = True,
) -> ReferenceLabels:
    """RPG's pseudo-label and class distances (Seibold et al. 2022, eq. 3-5), exact, in little memory.

    With D = 1 - max(cos, 0) (eq. 3), a query takes the label of its nearest reference (eq. 4). delta_j is its distance
    to the nearest reference of class j among the k nearest (eq. 5), 1 for a class that is not among them. The k nearest
    are never listed: a class is among them exactly if fewer than k references are strictly closer than its best one. So
    one best similarity per class and a few counts are enough. On a CPU the memory is the same for any number of
    references, apart from some 50 bytes each for their label sets, norms and order; on a GPU with Triton features are
    copied.

    The k nearest are all references at least as similar as the k-th, ties included. Of equally near references the
    first in the given order gives the label. A query without any similarity above 0 is at distance 1 from them all,
    and so takes the label of the very first.

    Args:
        queries: features ``(Q, d)`` of any floating type; computed in float32.
        references: features ``(R, d)`` on the same device.
        labels: class indices ``(R,)`` (multi-class, background is class 0) or 0/1 vectors ``(R, C)`` (multi-label).
        k: number of neighbours (more than R: all), a float in (0, 1] as a share of R, or ``None`` for all.
        num_classes: number of classes with background (multi-class; default: highest label + 1) or C (multi-label).
        background: multi-label only: the all-zero label is a class of its own, the first of c = C + 1. ``False`` is the
            literal formula, c = C, in which a query with background neighbours alone is at distance 1 from all classes.
        chunk_size: queries, or queries and references, in a tile; rounded up to multiples of 16. Default by device;
            with Triton tiles have a size of their own.
        check: look at the values and refuse what is not finite or no label, which waits for a GPU. Without it a query
            or reference that is not finite has distances that are not either.

    Returns:
        labels of the form and type given, distances in float32 between 0 and 1.

    Raises:
        ValueError: if shapes, devices, values or k do not fit; it says what was found and what to do.
    """
    tensors = tuple(plain_tensor(values) for values in (queries, references, labels))
    queries, references, labels = tensors
    multilabel, classes = check_task(*tensors, num_classes, background, check)
    k = number_of_neighbors(k, references.shape[0])
    tile = tile_size(chunk_size, queries)
    with full_precision(queries.device):
        if len(queries) and kernels.available(queries.device):
            nearest, similarity = kernels.search_on_device(
                queries, references, class_members(labels, classes, multilabel, background), k
            )
            return ReferenceLabels(labels[nearest], (1 - similarity.clamp(0, 1)).T)
        reference_norms = norms(references)
        pool = LabelSets(labels, classes, multilabel, background)
        found = ReferenceLabels(
            labels.new_empty(queries.shape[:1] + labels.shape[1:]),
            queries.new_empty(queries.shape[0], pool.members.shape[0], dtype=torch.float32),
        )
        share = max(tile[0], min(QUERIES_AT_ONCE, 2**21 // (queries.shape[1] + pool.members.numel())))
        for start in range(0, queries.shape[0], share):
            part = slice(start, start + share)
            tiles = SimilarityTiles(queries[part], references, pool.order, reference_norms, tile)
            nearest, similarity = search(tiles, pool, queries[part].shape[0], k)
            found.labels[part] = labels[nearest]
            found.distances[part] = (1 - similarity.clamp(0, 1)).T
    return found


def number_of_neighbors(k: int | float | None, references: int) -> int:
    """k as a count of at most all references."""
    if k is None:
        return references
    if isinstance(k, Integral) and not isinstance(k, bool) and k > 0:
        return min(int(k), references)
    if isinstance(k, Real) and not isinstance(k, Integral) and 0 < k <= 1:
        return max(1, round(float(k) * references))
    raise ValueError(
        f"k must be a positive whole number of neighbours or a share of the references in (0, 1], got {k!r}. "
        "Use None for all references."
    )


def tile_size(chunk_size: int | tuple[int, int] | None, queries: Tensor) -> tuple[int, int]:
    """Queries and references in a tile; fewer references where features are long: a block of them stays small."""
    rows, columns = TILE["cpu" if queries.device.type == "cpu" else "cuda"]
    columns = max(GRANULE, min(columns, 2**22 // queries.shape[1]))
    if chunk_size is not None:
        rows, columns = (chunk_size, columns) if isinstance(chunk_size, int) else chunk_size
    if min(rows, columns) < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}. Leave it out for the device's default.")
    return rows, columns


def check_task(
    queries: Tensor, references: Tensor, labels: Tensor, num_classes: int | None, background: bool, check: bool
) -> tuple[bool, int]:
    """Whether labels are multi-label, and the number of classes, of a task that fits together; its values by ``check``.

    Raises:
        ValueError: where it does not.
    """
    check_features(queries, references)
    found = check_labels(labels, references, num_classes, background, check)
    if check:
        check_finite(norms(queries), "queries")
        check_finite(norms(references), "references")
    return found


def plain_tensor(values: Tensor) -> Tensor:
    """A tensor without gradients, and without the metadata that a MetaTensor carries through every operation."""
    return values.detach().as_subclass(Tensor)


def check_features(queries: Tensor, references: Tensor) -> None:
    for name, features in (("queries", queries), ("references", references)):
        if features.ndim != 2 or not features.is_floating_point():
            raise ValueError(
                f"{name} must be a floating-point tensor of shape (number, features), got {features.dtype} of shape "
                f"{tuple(features.shape)}. Flatten the pixels of feature maps into rows first."
            )
    if queries.shape[1] != references.shape[1] or queries.shape[1] == 0:
        raise ValueError(
            f"queries and references must have the same number of features, at least one, got {queries.shape[1]} and "
            f"{references.shape[1]}. Take both from the same layer of the same network."
        )
    if references.shape[0] == 0:
        raise ValueError("references must hold at least one pixel, got none. Draw at least one labelled image.")
    if queries.device != references.device:
        raise ValueError(
            f"queries and references must be on one device, got {queries.device} and {references.device}. "
            "Move one of them."
        )


def check_finite(vector_norms: Tensor, name: str) -> None:
    bad = ~vector_norms.isfinite()
    if bad.any():
        raise ValueError(
            f"{name} must be finite, got NaN or infinite values in {int(bad.sum())} of {bad.numel()} rows, first in "
            f"row {int(bad.nonzero()[0])}. Look at the network's features and the learning rate."
        )


def check_labels(
    labels: Tensor, references: Tensor, num_classes: int | None, background: bool, values: bool
) -> tuple[bool, int]:
    """Whether labels are multi-label, and the number of classes (without background, where multi-label)."""
    same_device = labels.device == references.device
    if labels.ndim not in (1, 2) or labels.shape[0] != references.shape[0] or not same_device:
        raise ValueError(
            f"labels must be class indices (R,) or 0/1 vectors (R, C) for the R = {references.shape[0]} references on "
            f"{references.device}, got shape {tuple(labels.shape)} on {labels.device}. Give one label per reference."
        )
    multilabel = labels.ndim == 2
    if multilabel:
        classes = labels.shape[1]
        if num_classes not in (None, classes):
            raise ValueError(f"num_classes must be {classes}, as many as labels have columns, got {num_classes}.")
        allowed = "0 or 1 in multi-label tasks"
    else:
        if labels.is_floating_point() or labels.is_complex() or labels.dtype is torch.bool:
            raise ValueError(f"labels must be whole numbers as class indices, got {labels.dtype}. Use .long().")
        classes = int(labels.max()) + 1 if num_classes is None else num_classes
        allowed = f"0 to {classes - 1}, below num_classes"
    if values:
        valid = (labels == 0) | (labels == 1) if multilabel else (labels >= 0) & (labels < classes)
        if not valid.all():
            raise ValueError(f"labels must be {allowed}, got {labels[~valid][0].item()}. Check the label files.")
    if classes + (multilabel and background) < 2:
        raise ValueError(
            f"There must be two or more classes to compare, got {classes}. Give num_classes of at least 2, or "
            "background=True for a single class of a multi-label task."
        )
    return multilabel, classes
