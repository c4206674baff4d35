"""Cosine similarities of many queries to many references, a tile at a time in reused memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

EPSILON = 1e-8  # of the paper's eq. 3 and 6

# Queries x references of a tile. On a CPU it stays in the cache between the matrix product and the reductions over
# it; a GPU wants more work in one call. Two float32 tiles are held: 16 MB, and 128 MB on a GPU.
TILE = {"cpu": (512, 4096), "cuda": (2048, 8192)}

# Matrix products run on multiples of this many rows and columns (off the CPU, on whole tiles): the kernels for odd
# edges add up in another order, and the similarities of a reference and its duplicate would differ in the last bit.
GRANULE = 16


class Block(NamedTuple):
    """A run of sorted references: position of the first, unit vectors ``(n, d)`` and their norms ``(n,)``, padded."""

    start: int
    size: int
    units: Tensor
    norms: Tensor


class SimilarityTiles:
    """The similarities of a chunk of queries to all references (Seibold et al. 2022, eq. 3, before clipping).

    cos(r, q) = r . q / (norm(r) norm(q) + 1e-8), in float32 or, where a float32 product depends on where in the tile
    a pair lies, in float64 and rounded: equal vectors must have bitwise equal similarities for exact counts.

    Args:
        queries: features ``(Q, d)`` of the chunk. They are copied; of the references, one block at a time is.
        references: features ``(R, d)``.
        order: positions ``(R,)`` of the references in the order in which blocks go through them.
        reference_norms: Euclidean norms ``(R,)`` of the references, see :func:`norms`.
        tile: number of queries and of references in a tile.
    """

    def __init__(
        self,
        queries: Tensor,
        references: Tensor,
        order: Tensor,
        reference_norms: Tensor,
        tile: tuple[int, int],
    ) -> None:
        self.references, self.order, self.reference_norms = references, order, reference_norms
        sizes = zip(tile, (len(queries), len(references)), strict=True)
        self.rows, self.columns = (padded(min(most, size), GRANULE) for most, size in sizes)
        on_cpu = queries.device.type == "cpu"
        self.row_granule, self.column_granule = (GRANULE, GRANULE) if on_cpu else (self.rows, self.columns)
        shape = (queries.device.type, queries.device.index, self.rows, self.columns, queries.shape[1])
        self.dtype = torch.float32 if same_everywhere(*shape) else torch.float64
        query_norms = norms(queries)
        self.query_norms = fill(query_norms, self.row_granule)
        self.queries = fill(unit(queries, query_norms).to(self.dtype), self.row_granule)
        self.epsilon_counts = epsilon_counts(query_norms, reference_norms)
        self.buffer = queries.new_empty(self.rows * self.columns, dtype=torch.float32)
        self.mask = torch.empty_like(self.buffer)

    def blocks(self) -> Iterator[Block]:
        """All references in sorted order, at most a tile's width at a time."""
        for start in range(0, self.order.numel(), self.columns):
            yield self.block(self.order[start : start + self.columns], start)

    def sample(self, size: int) -> Block:
        """About this many references, evenly from all of the sorted order."""
        size = min(size, self.columns)
        return self.block(self.order[:: -(-self.order.numel() // size)], 0)

    def block(self, index: Tensor, start: int) -> Block:
        block_norms = self.reference_norms[index]
        units = unit(self.references.index_select(0, index), block_norms).to(self.dtype)
        granule = self.column_granule
        return Block(start, index.numel(), fill(units, granule), fill(block_norms, granule))

    def chunks(self, rows: Tensor | None, block: Block, count: int) -> Iterator[tuple[int, int, Tensor]]:
        """Tiles ``(m, n)`` of a block: first and last place in ``rows`` (``None``: all queries), similarities."""
        for start in range(0, count, self.rows):
            stop = min(start + self.rows, count)
            if rows is None:
                end = start + padded(stop - start, self.row_granule)
                queries, query_norms = self.queries[start:end], self.query_norms[start:end]
            else:
                index = fill(rows[start:stop], self.row_granule)
                queries, query_norms = self.queries[index], self.query_norms[index]
            yield start, stop, self.product(queries, query_norms, block)[: stop - start, : block.size]

    def product(self, queries: Tensor, query_norms: Tensor, block: Block) -> Tensor:
        tile = view(self.buffer, queries.shape[0], block.units.shape[0])
        if self.dtype is torch.float32:
            torch.mm(queries, block.units.T, out=tile)
        else:
            tile.copy_(queries @ block.units.T)
        if self.epsilon_counts:
            scale = view(self.mask, *tile.shape)
            torch.mul(query_norms.unsqueeze(1), block.norms, out=scale)
            tile.div_(scale.reciprocal_().mul_(EPSILON).add_(1))  # a zero vector: 0 / inf = 0
        return tile

    def count_above(self, tile: Tensor, limits: Tensor) -> Tensor:
        """How many similarities of each of the tile's rows are strictly above its limit ``(m,)``."""
        mask = view(self.mask, *tile.shape)
        torch.gt(tile, limits.unsqueeze(1), out=mask)  # a float mask: its sum is far quicker than a bool's
        return mask.sum(1)


def norms(vectors: Tensor, rows: int = 4096) -> Tensor:
    """Euclidean norms ``(n,)`` in float32; summed in float64, so that tiny and huge features keep theirs."""
    parts = [torch.linalg.vector_norm(part.double(), dim=1).float() for part in vectors.split(rows)]
    return torch.cat(parts) if len(parts) != 1 else parts[0]


def unit(vectors: Tensor, vector_norms: Tensor) -> Tensor:
    """Vectors divided by their norms in float32; a zero vector stays zero."""
    return vectors.float() / torch.where(vector_norms > 0, vector_norms, 1).unsqueeze(1)


def epsilon_counts(query_norms: Tensor, reference_norms: Tensor) -> bool:
    """Whether eq. 3's epsilon changes a float32 similarity; it does for products of norms below about 0.3."""
    smallest = 1.0
    for vector_norms in (query_norms, reference_norms):
        smallest *= torch.where(vector_norms > 0, vector_norms, math.inf).amin().item()
    return smallest == 0 or EPSILON / smallest >= 2**-25


@lru_cache(maxsize=64)
def same_everywhere(device: str, index: int | None, rows: int, columns: int, features: int) -> bool:
    """Whether a float32 product of two vectors is bitwise the same wherever in a tile the pair lies."""
    place = torch.device(device, index) if index is not None else torch.device(device)
    pair = torch.randn(2, 1, features, generator=torch.Generator().manual_seed(0)).to(place)
    small = (GRANULE, GRANULE) if device == "cpu" else (rows, columns)
    values = []
    for m, n in {(rows, columns), (small[0], columns), (rows, small[1]), small}:
        product = pair[0].expand(m, -1).contiguous() @ pair[1].expand(n, -1).contiguous().T
        values += [product.min().item(), product.max().item()]
    return len(set(values)) == 1


def padded(size: int, granule: int) -> int:
    return -(-size // granule) * granule


def fill(rows: Tensor, granule: int) -> Tensor:
    """Rows with zeros behind them up to a whole number of granules."""
    missing = padded(rows.shape[0], granule) - rows.shape[0]
    return torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])]) if missing else rows


def view(buffer: Tensor, rows: int, columns: int) -> Tensor:
    return buffer[: rows * columns].view(rows, columns)
