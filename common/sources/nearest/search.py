"""The nearest label set and the classes among the k nearest references, from one best per set and a few counts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from common.sources.nearest.tiles import Block, SimilarityTiles

# References that tell roughly how similar the k-th neighbour is: at least so many, and one of so many. A larger sample
# costs time itself, and saves some of the second pass over what it leaves in doubt, the more the larger the pool.
SAMPLE, ONE_OF = 512, 80


class LabelSets:
    """The references sorted by what they are labelled with: the best of a set is then a reduction over a slice.

    ``order`` ``(R,)`` sorts them, each set in its given order. ``sizes`` and ``starts`` are the sets' (lists), largest
    set first; ``members`` ``(c, sets)`` tells which sets a class of the weight consists of.
    """

    def __init__(self, labels: Tensor, classes: int, multilabel: bool, background: bool) -> None:
        codes = torch.zeros(labels.shape[0], dtype=torch.long, device=labels.device)
        for column in labels.T if multilabel else [labels]:
            codes = torch.unique(codes * (2 if multilabel else classes) + column.long(), return_inverse=True)[1]
        sizes, by_size = torch.bincount(codes).sort(descending=True, stable=True)
        rank = torch.empty_like(by_size)
        rank[by_size] = torch.arange(len(by_size), device=labels.device)
        self.order = rank[codes].argsort(stable=True)
        self.first = sizes.cumsum(0) - sizes
        self.sizes, self.starts = sizes.tolist(), self.first.tolist()
        examples = labels[self.order[self.first]]
        self.members = class_members(examples, classes, multilabel, background)

    def slices(self, block: Block) -> list[tuple[int, int, int]]:
        """The sets in a block of sorted references: set, first and last column."""
        found = []
        for s, (start, size) in enumerate(zip(self.starts, self.sizes, strict=True)):
            first, last = max(0, start - block.start), min(block.size, start + size - block.start)
            if first < last:
                found.append((s, first, last))
        return found


def class_members(labels: Tensor, classes: int, multilabel: bool, background: bool) -> Tensor:
    """Which references are of which class of the weight, ``(c, R)``."""
    if not multilabel:
        return labels == torch.arange(classes, device=labels.device).unsqueeze(1)
    members = labels.T > 0
    return torch.cat([~members.any(0, keepdim=True), members]) if background else members


def search(tiles: SimilarityTiles, pool: LabelSets, queries: int, k: int) -> tuple[Tensor, Tensor]:
    """Which reference gives the label ``(Q,)``; each class's similarity ``(c, Q)`` among the k nearest, else 0."""
    everyone = k >= tiles.order.numel()
    limits = tiles.buffer.new_empty(0, queries) if everyone else around_kth(tiles, queries, k)
    best, above = best_of_sets(tiles, pool, limits)
    absent = best.new_zeros(1, queries)
    similarity = torch.stack([torch.cat([best[members], absent]).amax(0) for members in pool.members])
    if not everyone:
        similarity *= among_nearest(tiles, pool, best, similarity, limits, above, k)
    top, nearest_set = best.max(0)
    nearest = tiles.order[pool.first[nearest_set]]
    tied = ((best == top).sum(0) > 1) & (top > 0)
    if tied.any():
        rows = tied.nonzero().squeeze(1)
        nearest[rows] = first_of_ties(tiles, rows, top[rows])
    nearest[top <= 0] = 0  # all at distance 1: the very first reference
    return nearest, similarity


def around_kth(tiles: SimilarityTiles, queries: int, k: int) -> Tensor:
    """Two limits ``(2, Q)`` between which the similarity of the k-th neighbour probably lies, from a sample.

    Counting the references above both on the way decides nearly all classes later; a wrong guess costs time alone.
    """
    limits = tiles.buffer.new_empty(2, queries)
    references = tiles.order.numel()
    sample = tiles.sample(max(SAMPLE, references // ONE_OF))
    share = k / references
    margin = 1.3 * math.sqrt(sample.size * share * (1 - share)) + 1
    farther = [sample.size * (1 - share) - margin, sample.size * (1 - share) + margin]
    places = [min(max(round(place), 0), sample.size - 1) for place in farther]
    for start, stop, tile in tiles.chunks(None, sample, queries):
        if tile.device.type == "cpu":
            tile.numpy().sort(axis=1)  # many times as fast as torch's on a CPU
        else:
            tile = tile.sort(dim=1).values
        limits[:, start:stop] = tile[:, places].T
    return limits


def best_of_sets(tiles: SimilarityTiles, pool: LabelSets, limits: Tensor) -> tuple[Tensor, Tensor]:
    """Highest similarity to each label set ``(sets, Q)``, and the number of references above each limit."""
    queries = limits.shape[1]
    best = tiles.buffer.new_full((len(pool.sizes), queries), -2.0)
    above = torch.zeros_like(limits, dtype=torch.long)
    for block in tiles.blocks():
        slices = pool.slices(block)
        for start, stop, tile in tiles.chunks(None, block, queries):
            for s, first, last in slices:
                so_far = best[s, start:stop]
                torch.maximum(so_far, tile[:, first:last].amax(1), out=so_far)
            for limit, number in zip(limits, above, strict=True):
                number[start:stop] += tiles.count_above(tile, limit[start:stop]).long()
    return best, above


def among_nearest(
    tiles: SimilarityTiles, pool: LabelSets, best: Tensor, similarity: Tensor, limits: Tensor, above: Tensor, k: int
) -> Tensor:
    """Whether each class is among the k nearest ``(c, Q)``: fewer than k references are closer than its best one.

    The counts above the limits decide most of it. For the pairs of a class and a query that are left, ``least`` and
    ``most`` enclose the number of closer references, and those of all sets that have a closer one are counted, block
    by block until k is no longer between the two.
    """
    absent = (similarity <= 0) | ((similarity <= limits[0]) & (above[0] >= k))
    present = (similarity >= limits[1]) & (above[1] < k) & ~absent
    classes, rows = (~absent & ~present).nonzero(as_tuple=True)
    limit = similarity[classes, rows]
    most = torch.zeros_like(rows)
    for s, size in enumerate(pool.sizes):
        most += size * (best[s, rows] > limit)
    least = torch.zeros_like(most)
    for block in tiles.blocks():
        slices = pool.slices(block)
        closest = best[[s for s, _, _ in slices]].amax(0)
        doubtful = ((least < k) & (most >= k) & (limit < closest[rows])).nonzero().squeeze(1)
        counts = torch.zeros_like(doubtful)
        for start, stop, tile in tiles.chunks(rows[doubtful], block, doubtful.numel()):
            counts[start:stop] = tiles.count_above(tile, limit[doubtful[start:stop]]).long()
        least[doubtful] += counts
        for s, first, last in slices:
            counts -= (last - first) * (best[s, rows[doubtful]] > limit[doubtful])
        most[doubtful] += counts
    present[classes, rows] = most < k
    return present


def first_of_ties(tiles: SimilarityTiles, rows: Tensor, top: Tensor) -> Tensor:
    """First reference in the given order that is as near as the nearest."""
    last = torch.iinfo(torch.long).max
    first = torch.full_like(rows, last)
    for block in tiles.blocks():
        positions = tiles.order[block.start : block.start + block.size]
        for start, stop, tile in tiles.chunks(rows, block, rows.numel()):
            found = torch.where(tile == top[start:stop].unsqueeze(1), positions, last).amin(1)
            first[start:stop] = torch.minimum(first[start:stop], found)
    return first
