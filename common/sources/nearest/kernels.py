"""The search of ``search.py`` for a CUDA device, in a few Triton kernels and without a wait of the host in between.

First features and classes are brought into whole tiles. Then each program goes through a share of the references for a
block of queries, a tile at a time, and keeps a few numbers per query: no similarity ever reaches memory. One such
kernel finds each class's best similarity and the nearest reference, the next one counts how many references are
strictly above those bests. The host is slower to start an operation than the GPU to run most of them: they are few.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from common.sources.nearest.tiles import EPSILON, padded

try:
    import triton
    import triton.language as tl
except ImportError:  # torch for CPUs alone comes without
    triton = None

# The sum of two float16 keeps a float32 but for its last bit or two, and a product of two float16 is exact in float32:
# three such products make a float32 product, on the fastest tensor cores. Unit vectors times this fill float16's range,
# so that the low half keeps its bits too; a power of two changes no digit.
SCALE = 2.0**14

FEATURES = 64  # of a query held on chip; more are read in pieces of this many, again for each tile
LIMITS = 15  # counted against at once; another pass over the references costs as much as some ten limits


class Blocks(NamedTuple):
    """Sizes of the kernels' tiles and how they run, for an H100: two programs on each of its 132 processors.

    While one of the two reduces a tile, the other one's products run. So each may have half of the shared memory (a
    third stage would need more) and of the registers.
    """

    queries: int = 128  # the more queries in a tile, the less often references are read
    references: int = 128
    programs: int = 1024  # about four rounds of them
    warps: int = 8
    stages: int = 2  # tiles on chip at a time, the next one on its way
    registers: int = 128  # of a thread


class Sizes(NamedTuple):
    """What a kernel is compiled for."""

    queries: int
    references: int
    depth: int  # features, and zeros up to whole pieces
    piece: int
    scale: float = SCALE
    epsilon: float = EPSILON


class Matrix(NamedTuple):
    """A tensor in any layout, as a kernel gets it."""

    start: Tensor
    stride: int
    step: int
    rows: int
    columns: int


class Halves(NamedTuple):
    """Unit vectors ``(n, d)`` as a high and a low half in float16, and the reciprocals of their norms ``(n,)``.

    All of it is zero for a vector that is not finite, so that the search need not care.
    """

    high: Tensor
    low: Tensor
    reciprocals: Tensor


def jit(function):
    return function if triton is None else triton.jit(function)


def available(device: torch.device | str) -> bool:
    """Whether the kernels can run there: Triton is installed and the GPU has shared memory enough for their tiles."""
    device = torch.device(device)
    if triton is None or device.type != "cuda" or torch.version.cuda is None:
        return False
    return torch.cuda.get_device_capability(device) in {(8, 0), (9, 0), (10, 0)}  # A100, H100 and H200, B200


@torch.no_grad()
def search_on_device(
    queries: Tensor, references: Tensor, labels: Tensor, classes: int, k: int, blocks: Blocks | None = None
) -> tuple[Tensor, Tensor]:
    """Which reference is nearest, and the distance to each class that is among the k nearest.

    A query with a NaN or infinite feature has NaN distances, and all queries have them if a reference is so: this shows
    in the loss, while looking for it here would make the host wait.

    Args:
        queries: features ``(Q, d)`` of any floating type, plain tensors without a subclass's metadata.
        references: features ``(R, d)``.
        labels: class indices ``(R,)``, or vectors ``(R, C)`` of 0 and 1.
        classes: number of classes c. Where it is C + 1, the references without a label are the first class.
        k: number of neighbours; R or more are all.
        blocks: sizes of tiles, to measure others than the default.

    Returns:
        nearest: position ``(Q,)`` of the most similar reference, the first of equals, 0 where none is above 0.
        distances: ``(Q, c)`` in float32, 1 minus the highest similarity of each class if it is above 0 and fewer than
            k references are strictly above it, else 1.
    """
    with torch.cuda.device_of(queries):
        tiles = Tiles(queries, references, labels, classes, blocks or Blocks())
        best = tiles.best_of_classes()
        above = count_above_best(tiles, best, k) if k < len(references) else torch.zeros_like(best, dtype=torch.int32)
        return tiles.distances(best, above, k)


def count_above_best(tiles: Tiles, best: Tensor, k: int) -> Tensor:
    """How many references are above each class's best ``(c, Q)``; of many classes only whether k are.

    The more similar, the fewer are above it: among the sorted ones a search in a fixed number of steps finds the last
    one that fewer than k are above. Infinity comes first, as there may be none.
    """
    if len(best) <= LIMITS:
        return tiles.count_above(best)
    steps = F.pad(best.sort(dim=0, descending=True).values, (0, 0, 1, 0), value=torch.inf)
    passes = next(n for n in range(1, 64) if (LIMITS + 1) ** n >= len(steps))
    limits = next(n for n in range(1, LIMITS + 1) if (n + 1) ** passes >= len(steps))
    parts = torch.arange(limits + 2, device=best.device).unsqueeze(1)
    near, far = torch.zeros_like(best[:1], dtype=torch.long), torch.full_like(best[:1], len(steps), dtype=torch.long)
    for _ in range(passes):
        places = near + (far - near) * parts // (limits + 1)  # from near to far, both included
        inside = (tiles.count_above(steps.gather(0, places[1:-1])) < k).sum(0, keepdim=True)
        near, far = places.gather(0, inside), places.gather(0, inside + 1)
    return (best < steps.gather(0, near)).int() * k


class Tiles:
    """Queries, references and classes as the kernels read them, in whole tiles.

    References with the same classes lie side by side, so that most tiles are all of one class or of the same few: its
    best is then the tile's. Similarities are in units of 1 / ``SCALE**2``. Rows that fill up the last tile are zero:
    similar to nothing, they are above no limit and not the best.
    """

    def __init__(self, queries: Tensor, references: Tensor, labels: Tensor, classes: int, blocks: Blocks) -> None:
        self.blocks, self.shape = blocks, (len(queries), classes)
        self.programs, self.tiles = max(1, -(-len(queries) // blocks.queries)), -(-len(references) // blocks.references)
        rows, columns = self.programs * blocks.queries, self.tiles * blocks.references
        features = queries.shape[1]
        depth = padded(features, FEATURES) if features > FEATURES else 2 ** max(4, (features - 1).bit_length())
        self.sizes = Sizes(blocks.queries, blocks.references, depth, min(depth, FEATURES))
        zeros = torch.zeros(classes + 3, rows, dtype=torch.int32, device=queries.device)
        self.top, self.best, largest = zeros.split([2, classes, 1])
        self.largest = largest.view(torch.float32)
        self.queries, self.references = (
            Halves(*zeros.new_empty(2, n, depth, dtype=torch.float16), zeros.new_empty(n, dtype=torch.float32))
            for n in (rows, columns)
        )
        self.members, self.listed = (
            zeros.new_empty(classes, columns, dtype=torch.uint8),
            zeros.new_empty(self.tiles, classes + 1),
        )
        vectors = [Matrix(matrix, *matrix.stride(), *matrix.shape) for matrix in (queries, references)]
        keys, columns = labels, None
        if labels.ndim == 2:
            columns = Matrix(labels, *labels.stride(), *labels.shape)
            keys = zeros.new_empty(len(labels))
            keys_kernel[(self.tiles,)](columns, keys, self.sizes)
        keys, self.order = keys.sort()
        halves = self.queries, self.references
        self.classes = self.members, self.listed, classes
        prepare_kernel[(self.tiles + self.programs,)](
            *vectors,
            *halves,
            largest,
            self.order,
            keys,
            columns,
            *self.classes,
            self.tiles,
            self.sizes,
            num_warps=blocks.warps,
        )

    def best_of_classes(self) -> Tensor:
        """Highest similarity to each class ``(c, Q)``."""
        self.launch(best_kernel, self.order, len(self.order), *self.classes, self.best, self.top.view(torch.int64))
        return self.best.view(torch.float32)

    def count_above(self, limits: Tensor) -> Tensor:
        """How many references are more similar than each of the limits ``(m, Q)``, none of them below 0."""
        counts = torch.zeros_like(limits, dtype=torch.int32)
        self.launch(count_kernel, limits, counts, len(limits), triton.next_power_of_2(max(len(limits), 2)))
        return counts

    def launch(self, kernel, *arguments) -> None:
        blocks = self.blocks
        kernel[(self.programs, max(1, min(self.tiles, blocks.programs // self.programs)))](
            self.queries,
            self.references,
            self.largest,
            self.tiles,
            *arguments,
            self.sizes,
            num_warps=blocks.warps,
            num_stages=blocks.stages,
            maxnreg=blocks.registers,
            enable_fp_fusion=False,  # both kernels must round alike
        )

    def distances(self, best: Tensor, above: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The nearest reference and each class's distance, from its best and how many are above it."""
        nearest, distances = best.new_empty(self.shape[0], dtype=torch.int64), best.new_empty(self.shape)
        found = best, above, self.top.view(torch.int64), self.queries.reciprocals, self.largest
        distances_kernel[(self.programs,)](*found, *self.shape, k, nearest, distances, self.sizes)
        return nearest, distances


@jit
def keys_kernel(labels, keys, SIZES: tl.constexpr):
    """A bit for each label: the key is 0 for none. Labels beyond its bits share one, which costs time alone."""
    places = tl.program_id(0) * SIZES.references + tl.arange(0, SIZES.references)
    starts = labels.start + tl.cast(places, tl.int64) * labels.stride
    key = tl.zeros([SIZES.references], tl.int32)
    for column in range(0, labels.columns):
        label = tl.load(starts + column * labels.step, mask=places < labels.rows, other=0)
        key |= (label.to(tl.float32) > 0).to(tl.int32) << (column % 31)
    tl.store(keys + places, key, mask=places < labels.rows)


@jit
def prepare_kernel(
    queries, references, near, far, largest, order, keys, labels, members, listed, classes, tiles, SIZES: tl.constexpr
):
    """A tile of references in the given order with the classes in it, or a block of queries."""
    tile = tl.program_id(0)
    if tile < tiles:
        places = tile * SIZES.references + tl.arange(0, SIZES.references)
        inside = places < references.rows
        rows = tl.load(order + places, mask=inside, other=0)
        key = tl.load(keys + places, mask=inside, other=0)
        list_classes(labels, rows, key, inside, members + places, listed + tile * (classes + 1), classes, tiles)
        store_halves(references, rows, inside, far, places, largest + 1, SIZES)
    else:
        rows = (tile - tiles) * SIZES.queries + tl.arange(0, SIZES.queries)
        store_halves(queries, tl.cast(rows, tl.int64), rows < queries.rows, near, rows, largest, SIZES)


@jit
def list_classes(labels, rows, key, inside, members, listed, classes, tiles):
    """Which references of a tile are of which class, and the list of the tile's classes, their number first.

    The lowest bit of an entry tells whether the whole tile is of that class.
    """
    block: tl.constexpr = rows.shape[0]
    number = 0
    for kind in range(0, classes):
        if labels is None:
            member = key == kind
        else:
            column = kind + labels.columns - classes  # -1 for those without a label
            places = rows * labels.stride + tl.maximum(column, 0) * labels.step
            label = tl.load(labels.start + places, mask=inside, other=0).to(tl.float32)
            member = tl.where(column < 0, key == 0, label > 0)
        member &= inside
        tl.store(members + tl.cast(kind, tl.int64) * (tiles * block), member.to(tl.uint8))
        size = tl.sum(member.to(tl.int32), 0)
        number += (size > 0).to(tl.int32)
        tl.store(listed + number, 2 * kind + (size == block).to(tl.int32), mask=size > 0)
    tl.store(listed, number)


@jit
def store_halves(vectors, rows, inside, halves, places, largest, SIZES: tl.constexpr):
    """A block of vectors as :class:`Halves`; lengths in float64, so that tiny and huge features keep theirs.

    ``largest`` becomes the bits of the largest reciprocal, zero vectors aside. If a vector is not finite it becomes
    NaN, whose bits are above all others.
    """
    squares = tl.zeros(rows.shape, tl.float64)
    for first in range(0, SIZES.depth, SIZES.piece):
        piece = piece_of(vectors, rows, inside, first, SIZES)
        squares += tl.sum(piece * piece, 1)
    length = tl.sqrt(squares)
    finite = length.to(tl.float32) < float("inf")
    reciprocal = tl.where(finite, 1 / tl.maximum(length, 1.2e-38), 0.0).to(tl.float32)
    tl.store(halves.reciprocals + places, reciprocal)
    counted = tl.where(finite, tl.where(length > 0, reciprocal, 0.0), float("nan"))
    tl.atomic_max(largest, tl.max(counted.to(tl.int32, bitcast=True), 0), sem="relaxed")
    scale = SIZES.scale / tl.maximum(length, 1e-60)
    for first in range(0, SIZES.depth, SIZES.piece):
        piece = piece_of(vectors, rows, inside, first, SIZES) * scale[:, None]
        piece = tl.where(finite[:, None], piece, 0.0).to(tl.float32)
        high = piece.to(tl.float16)
        targets = tl.cast(places, tl.int64)[:, None] * SIZES.depth + (first + tl.arange(0, SIZES.piece))[None, :]
        tl.store(halves.high + targets, high)
        tl.store(halves.low + targets, (piece - high.to(tl.float32)).to(tl.float16))


@jit
def piece_of(vectors, rows, inside, first, SIZES: tl.constexpr):
    """Some features of a block of vectors in float64, 0 beyond those there are."""
    columns = first + tl.arange(0, SIZES.piece)
    places = rows[:, None] * vectors.stride + (columns * vectors.step)[None, :]
    mask = inside[:, None] & (columns < vectors.columns)[None, :]
    return tl.load(vectors.start + places, mask=mask, other=0.0).to(tl.float32).to(tl.float64)


@jit
def block_of(halves, block, first, BLOCK: tl.constexpr, SIZES: tl.constexpr):
    """A piece of the features of a block of vectors, in halves ``(BLOCK, piece)``."""
    start = tl.cast(block, tl.int64) * (BLOCK * SIZES.depth) + first
    places = tl.arange(0, BLOCK)[:, None] * SIZES.depth + tl.arange(0, SIZES.piece)[None, :]
    return tl.load(halves.high + start + places), tl.load(halves.low + start + places)


@jit
def similarities(queries, references, near_high, near_low, tile, epsilon_counts, SIZES: tl.constexpr):
    """Similarities of a block of queries to a tile of references, bitwise the same wherever a pair lies.

    The small products come first: a tensor core cuts off the last bits of each sum, and those of a small sum are small.
    """
    block = tl.program_id(0)
    if SIZES.depth == SIZES.piece:
        far_high, far_low = block_of(references, tile, 0, SIZES.references, SIZES)
        found = tl.dot(near_low, tl.trans(far_high))
        found = tl.dot(near_high, tl.trans(far_low), found)
        found = tl.dot(near_high, tl.trans(far_high), found)
    else:
        found = tl.zeros([SIZES.queries, SIZES.references], tl.float32)
        for first in range(0, SIZES.depth, SIZES.piece):
            near, near_rest = block_of(queries, block, first, SIZES.queries, SIZES)
            far, far_rest = block_of(references, tile, first, SIZES.references, SIZES)
            found = tl.dot(near_rest, tl.trans(far), found)
            found = tl.dot(near, tl.trans(far_rest), found)
        for first in range(0, SIZES.depth, SIZES.piece):
            near, near_rest = block_of(queries, block, first, SIZES.queries, SIZES)
            far, far_rest = block_of(references, tile, first, SIZES.references, SIZES)
            found = tl.dot(near, tl.trans(far), found)
    if epsilon_counts:
        ours = tl.load(queries.reciprocals + block * SIZES.queries + tl.arange(0, SIZES.queries)) * SIZES.epsilon
        theirs = tl.load(references.reciprocals + tile * SIZES.references + tl.arange(0, SIZES.references))
        found = found / (1 + ours[:, None] * theirs[None, :])
    return found


@jit
def changed_by_epsilon(largest, SIZES: tl.constexpr):
    """As in tiles.epsilon_counts; also if the largest are not known for features that are not finite."""
    return (tl.load(largest) * tl.load(largest + 1) * SIZES.epsilon < 2.0**-25) == 0


@jit
def best_kernel(
    queries, references, largest, tiles, order, number, members, listed, classes, best, top, SIZES: tl.constexpr
):
    """Each class's best similarity, and of all references the best with its position, of one share of them.

    The bits of positive floats are ordered as the floats are: an integer maximum merges the shares, in any order.
    ``top`` holds the similarity's bits in the high half, less the position: the first of equals is the highest, and 0,
    the first reference, is left where nothing is similar.
    """
    block = tl.program_id(0)
    rows = block * SIZES.queries + tl.arange(0, SIZES.queries)
    near_high, near_low = block_of(queries, block, 0, SIZES.queries, SIZES)
    epsilon_counts = changed_by_epsilon(largest, SIZES)
    so_far = tl.zeros([SIZES.queries], tl.int64)
    share = tl.program_id(1)
    shares = tl.num_programs(1)
    for tile in range(share * tiles // shares, (share + 1) * tiles // shares):
        found = similarities(queries, references, near_high, near_low, tile, epsilon_counts, SIZES)
        columns = tile * SIZES.references + tl.arange(0, SIZES.references)
        positions = tl.load(order + columns, mask=columns < number, other=0).to(tl.int32)
        highest = tl.max(found, 1)
        first = tl.min(tl.where(found == highest[:, None], positions[None, :], 2147483647), 1)
        bits = tl.maximum(highest, 0.0).to(tl.int32, bitcast=True)
        so_far = tl.maximum(so_far, (bits.to(tl.int64) << 32) - first)
        entries = listed + tile * (classes + 1)
        for i in range(0, tl.load(entries)):
            entry = tl.load(entries + 1 + i)
            kind = tl.cast(entry >> 1, tl.int64)
            of_class = bits
            if (entry & 1) == 0:
                member = tl.load(members + kind * (tiles * SIZES.references) + columns)
                highest = tl.max(tl.where(member[None, :] != 0, found, 0.0), 1)
                of_class = tl.maximum(highest, 0.0).to(tl.int32, bitcast=True)
            tl.atomic_max(best + kind * (tl.num_programs(0) * SIZES.queries) + rows, of_class, sem="relaxed")
    tl.atomic_max(top + rows, so_far, sem="relaxed")


@jit
def count_kernel(
    queries, references, largest, tiles, limits, counts, LIMITS: tl.constexpr, SLOTS: tl.constexpr, SIZES: tl.constexpr
):
    """How many of one share of the references are strictly above each limit ``(LIMITS, Q)``."""
    block = tl.program_id(0)
    slots = tl.arange(0, SLOTS)[None, :]
    rows = block * SIZES.queries + tl.arange(0, SIZES.queries)
    width = tl.num_programs(0) * SIZES.queries
    near_high, near_low = block_of(queries, block, 0, SIZES.queries, SIZES)
    epsilon_counts = changed_by_epsilon(largest, SIZES)
    above = tl.zeros([SIZES.queries, SLOTS], tl.int32)
    share = tl.program_id(1)
    shares = tl.num_programs(1)
    for tile in range(share * tiles // shares, (share + 1) * tiles // shares):
        found = similarities(queries, references, near_high, near_low, tile, epsilon_counts, SIZES)
        for i in tl.static_range(LIMITS):
            limit = tl.load(limits + i * width + rows)
            number = tl.sum(tl.where(found > limit[:, None], 1.0, 0.0), 1)  # floats are quicker to add up
            above += tl.where(slots == i, number[:, None], 0.0).to(tl.int32)
    tl.atomic_add(counts + slots * width + rows[:, None], above, mask=slots < LIMITS, sem="relaxed")


@jit
def distances_kernel(
    best, above, top, reciprocals, largest, number, classes, k, nearest, distances, SIZES: tl.constexpr
):
    """Positions out of ``top``, and distances to the classes ``(Q, c)``; NaN for what is not finite."""
    rows = tl.program_id(0) * SIZES.queries + tl.arange(0, SIZES.queries)
    inside = rows < number
    width = tl.num_programs(0) * SIZES.queries
    tl.store(nearest + rows, (-tl.load(top + rows)).to(tl.int32), mask=inside)  # the low half
    unknown = tl.where(tl.load(reciprocals + rows) == 0, float("nan"), tl.load(largest + 1) * 0)
    for kind in range(0, classes):
        places = tl.cast(kind, tl.int64) * width + rows
        similarity = tl.where(tl.load(above + places) < k, tl.load(best + places), 0.0) * SIZES.scale**-2
        targets = distances + tl.cast(rows, tl.int64) * classes + kind
        tl.store(targets, 1 - tl.minimum(similarity, 1.0) + unknown, mask=inside)
