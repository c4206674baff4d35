"""The search of ``search.py`` for a CUDA device, in two Triton kernels and without a wait of the host in between.

Each program goes through a share of the references for a block of queries, a tile at a time, and keeps a few numbers
per query: no similarity ever reaches memory. The first kernel finds each class's best similarity and the nearest
reference, the second one counts how many references are strictly above a few of those bests.
"""

from __future__ import annotations

import logging
import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from common.sources.nearest.tiles import EPSILON, norms, padded

try:
    import triton
    import triton.language as tl
except ImportError:  # torch for CPUs alone comes without
    triton = None

logger = logging.getLogger(__name__)

# The sum of two float16 keeps a float32 but for its last bit or two, and a product of two float16 is exact in float32:
# three such products make a float32 product, on the fastest tensor cores. Unit vectors times this fill float16's range,
# so that the low half keeps its bits too; a power of two changes no digit.
SCALE = 2.0**14

FEATURES = 64  # of a query held on chip; more are read in pieces of this many, again for each tile
LIMITS = 15  # counted against at once; another pass over the references costs as much as some ten limits
NORMS_AT_ONCE = 2**23  # features held in float64


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


def jit(function):
    return function if triton is None else triton.jit(function)


@lru_cache(maxsize=16)
def available(device: torch.device | str) -> bool:
    """Whether the kernels can run there: Triton works, and the GPU has shared memory enough for their tiles."""
    device = torch.device(device)
    if triton is None or device.type != "cuda" or torch.version.cuda is None:
        return False
    if torch.cuda.get_device_capability(device) not in {(8, 0), (9, 0), (10, 0)}:  # A100, H100 and H200, B200
        return False
    try:
        features = torch.ones(2, FEATURES, device=device)
        search_on_device(features, features, torch.ones(1, 2, dtype=torch.bool, device=device), 1)
    except Exception as error:  # Triton needs a C compiler, and raises what its parts raise
        reason = " ".join(str(error).split())[:200]
        logger.warning(f"Triton cannot compile for {device}, so that reference labels take longer: {reason}")
        return False
    return True


@torch.no_grad()
def search_on_device(
    queries: Tensor, references: Tensor, members: Tensor, k: int, blocks: Blocks | None = None
) -> tuple[Tensor, Tensor]:
    """Which reference is nearest, and each class's similarity where it is among the k nearest.

    A query with a NaN or infinite feature has NaN similarities, and all queries have them if a reference is so: this
    shows in the loss, while looking for it here would make the host wait.

    Args:
        queries: features ``(Q, d)`` of any floating type, plain tensors without a subclass's metadata.
        references: features ``(R, d)``.
        members: ``(c, R)``, bool or 0/1: which references belong to a class. One may be in several classes or in none.
        k: number of neighbours; R or more are all.
        blocks: sizes of tiles, to measure others than the default.

    Returns:
        nearest: position ``(Q,)`` of the most similar reference, the first of equals, 0 where none is above 0.
        similarity: ``(c, Q)`` in float32, the highest of each class if fewer than k references are strictly above it,
        else 0, and 0 instead of negative ones.
    """
    blocks = blocks or Blocks()
    number = queries.shape[0]
    with torch.cuda.device_of(queries):
        tiles = Tiles(queries, references, members, blocks)
        best, nearest, top = tiles.best_of_classes()
        similarity = best * SCALE**-2
        if k < references.shape[0] and len(best) <= LIMITS:
            similarity = torch.where(tiles.count_above(best) < k, similarity, 0)
        elif k < references.shape[0]:
            similarity = torch.where(best >= last_among_nearest(tiles, best, top, k), similarity, 0)
    return nearest[:number], similarity[:, :number] + tiles.not_finite


def last_among_nearest(tiles: Tiles, best: Tensor, top: Tensor, k: int) -> Tensor:
    """The lowest similarity ``(Q,)``, of each class's best and the top one, that fewer than k references are above.

    The more similar, the fewer are above it: among the sorted ones a search in a fixed number of steps finds the last.
    The top one comes first, as a reference without a class may be the nearest; none is above it.
    """
    steps = torch.cat([top.unsqueeze(0), best.sort(dim=0, descending=True).values])
    passes = next(n for n in range(1, 64) if (LIMITS + 1) ** n >= len(steps))
    limits = next(n for n in range(1, LIMITS + 1) if (n + 1) ** passes >= len(steps))
    parts = torch.arange(limits + 2, device=top.device).unsqueeze(1)
    near, far = torch.zeros_like(top, dtype=torch.long), torch.full_like(top, len(steps), dtype=torch.long)
    for _ in range(passes):
        places = near + (far - near) * parts // (limits + 1)  # from near to far, both included
        inside = (tiles.count_above(steps.gather(0, places[1:-1])) < k).sum(0, keepdim=True)
        near, far = places.gather(0, inside).squeeze(0), places.gather(0, inside + 1).squeeze(0)
    return steps.gather(0, near.unsqueeze(0)).squeeze(0)


class Halves(NamedTuple):
    """Unit vectors ``(n, d)`` as a high and a low half in float16, and the reciprocals of their norms ``(n,)``."""

    high: Tensor
    low: Tensor
    reciprocals: Tensor


class Tiles:
    """Queries, references and classes as the kernels read them, in whole tiles.

    References with the same classes lie side by side, so that most tiles are all of one class or of the same few: its
    best is then the tile's. Similarities are in units of 1 / ``SCALE**2``. Rows that fill up the last tile are zero:
    similar to nothing, they are above no limit and not the best.
    """

    def __init__(self, queries: Tensor, references: Tensor, members: Tensor, blocks: Blocks) -> None:
        self.blocks = blocks
        number, fill = len(queries), -len(references) % blocks.references
        # Classes beyond the bits of a key share one: this costs time alone.
        bits = place_of_bits(len(members), members.device)
        order = ((members != 0).long() << bits).sum(0).sort(stable=True).indices
        self.order = torch.cat([order, order[-1:].expand(fill)]) if fill else order
        self.members = (members != 0).index_select(1, self.order)
        self.tiles = len(self.order) // blocks.references
        # Queries and references go through the following together, and a row of zeros fills up the tiles: on a GPU an
        # operation takes longer to start than to do.
        vectors = torch.cat([queries.float(), references.float(), queries.new_zeros(1, queries.shape[1]).float()])
        lengths = norms(vectors, max(1, NORMS_AT_ONCE // vectors.shape[1]))
        every, nothing = places_and_fill(number, len(references), blocks.queries, blocks.references, order.device)
        places = torch.cat([every, order + number, nothing])
        rows = padded(number, blocks.queries), len(self.order)
        self.queries, self.references = (
            Halves(*parts)
            for parts in zip(*(part.split(rows) for part in halves(vectors, lengths, places)), strict=True)
        )
        smallest = torch.where(lengths > 0, lengths, math.inf)
        smallest = smallest[:number].amin() * smallest[number:].amin()
        self.epsilon_counts = (smallest <= EPSILON * 2**25).int()  # see tiles.epsilon_counts
        not_finite = lengths * 0  # 0 or NaN
        self.not_finite = not_finite[:number] + not_finite[number:].sum()

    def best_of_classes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Highest similarity to each class ``(c, Q)``, position of the nearest ``(Q,)`` and its similarity ``(Q,)``."""
        classes, width = self.members.shape
        sizes, listed = self.members.view(classes, self.tiles, -1).sum(2).T.sort(dim=1, descending=True)
        listed = torch.add(sizes == self.blocks.references, listed, alpha=2).int().contiguous()
        rows = len(self.queries.high)
        zeros = torch.zeros(2 + classes, rows, dtype=torch.int32, device=listed.device)
        top, best = zeros[:2].view(-1).view(torch.int64), zeros[2:]
        self.launch(
            best_kernel,
            self.order.int(),
            self.members.view(torch.uint8),
            width,
            listed,
            (sizes > 0).sum(1).int(),
            classes,
            best,
            top,
        )
        similarity = (top + 2**31) >> 32
        nearest = (similarity << 32) - top
        return best.view(torch.float32), nearest, similarity.int().view(torch.float32)

    def count_above(self, limits: Tensor) -> Tensor:
        """How many references are more similar than each of the limits ``(m, Q)``, none of them below 0."""
        number, rows = limits.shape
        slots = triton.next_power_of_2(max(number, 2))
        table = F.pad(limits.T, (0, slots - number)).contiguous()
        counts = torch.zeros(rows, slots, dtype=torch.int32, device=limits.device)
        self.launch(count_kernel, table, counts, LIMITS=number, SLOTS=slots)
        return counts[:, :number].T

    def launch(self, kernel, *arguments, **constants: int) -> None:
        blocks = self.blocks
        rows, depth = self.queries.high.shape
        programs = rows // blocks.queries
        shares = max(1, min(self.tiles, blocks.programs // programs))
        kernel[(programs, shares)](
            *self.queries,
            *self.references,
            self.epsilon_counts,
            self.tiles,
            *arguments,
            **constants,
            EPSILON=EPSILON,
            DEPTH=depth,
            PIECE=min(depth, FEATURES),
            BLOCK_Q=blocks.queries,
            BLOCK_R=blocks.references,
            num_warps=blocks.warps,
            num_stages=blocks.stages,
            maxnreg=blocks.registers,
            enable_fp_fusion=False,  # both kernels must round alike
        )


def halves(vectors: Tensor, lengths: Tensor, places: Tensor) -> Halves:
    """Unit vectors at the places, with zeros as added features; those that are not finite are zero: no kernel cares."""
    depth = vectors.shape[1]
    depth = 2 ** max(4, (depth - 1).bit_length()) if depth <= FEATURES else padded(depth, FEATURES)
    units = (vectors / lengths.unsqueeze(1)).mul_(SCALE).nan_to_num_(0, 0, 0).index_select(0, places)
    units = F.pad(units, (0, depth - vectors.shape[1])) if depth > vectors.shape[1] else units
    high = units.half()
    reciprocals = lengths.clamp(min=torch.finfo(torch.float32).tiny).reciprocal_().nan_to_num_(0)
    return Halves(high, units.sub_(high).half(), reciprocals.index_select(0, places))


@lru_cache(maxsize=16)
def place_of_bits(classes: int, device: torch.device) -> Tensor:
    """The bit of each class in a key, ``c 1``."""
    return (torch.arange(classes) % 62).unsqueeze(1).to(device)


@lru_cache(maxsize=16)
def places_and_fill(
    queries: int, references: int, query_block: int, reference_block: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Places of the queries in whole blocks, and those that fill up the references' last one.

    Added ones are at the place of the row behind all queries and references.
    """
    behind = queries + references
    every = torch.arange(padded(queries, query_block))
    every[queries:] = behind
    return every.to(device), torch.full((-references % reference_block,), behind).to(device)


@jit
def block_of(high, low, block, first, DEPTH: tl.constexpr, PIECE: tl.constexpr, BLOCK: tl.constexpr):
    """A piece of the features of a block of vectors, in halves ``(BLOCK, PIECE)``."""
    start = tl.cast(block, tl.int64) * (BLOCK * DEPTH) + first
    places = tl.arange(0, BLOCK)[:, None] * DEPTH + tl.arange(0, PIECE)[None, :]
    return tl.load(high + start + places), tl.load(low + start + places)


@jit
def similarities(
    q_high,
    q_low,
    q_reciprocals,
    r_high,
    r_low,
    r_reciprocals,
    epsilon_counts,
    near_high,
    near_low,
    tile,
    EPSILON: tl.constexpr,
    DEPTH: tl.constexpr,
    PIECE: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """Similarities of a block of queries to a tile of references, bitwise the same wherever a pair lies.

    The small products come first: a tensor core cuts off the last bits of each sum, and those of a small sum are small.
    """
    block = tl.program_id(0)
    if DEPTH == PIECE:
        far_high, far_low = block_of(r_high, r_low, tile, 0, DEPTH, PIECE, BLOCK_R)
        found = tl.dot(near_low, tl.trans(far_high))
        found = tl.dot(near_high, tl.trans(far_low), found)
        found = tl.dot(near_high, tl.trans(far_high), found)
    else:
        found = tl.zeros([BLOCK_Q, BLOCK_R], tl.float32)
        for first in range(0, DEPTH, PIECE):
            near, near_rest = block_of(q_high, q_low, block, first, DEPTH, PIECE, BLOCK_Q)
            far, far_rest = block_of(r_high, r_low, tile, first, DEPTH, PIECE, BLOCK_R)
            found = tl.dot(near_rest, tl.trans(far), found)
            found = tl.dot(near, tl.trans(far_rest), found)
        for first in range(0, DEPTH, PIECE):
            near, near_rest = block_of(q_high, q_low, block, first, DEPTH, PIECE, BLOCK_Q)
            far, far_rest = block_of(r_high, r_low, tile, first, DEPTH, PIECE, BLOCK_R)
            found = tl.dot(near, tl.trans(far), found)
    if epsilon_counts != 0:
        ours = tl.load(q_reciprocals + block * BLOCK_Q + tl.arange(0, BLOCK_Q)) * EPSILON
        theirs = tl.load(r_reciprocals + tile * BLOCK_R + tl.arange(0, BLOCK_R))
        found = found / (1 + ours[:, None] * theirs[None, :])
    return found


@jit
def best_kernel(
    q_high,
    q_low,
    q_reciprocals,
    r_high,
    r_low,
    r_reciprocals,
    epsilon_counts,
    tiles,
    order,
    members,
    width,
    listed,
    numbers,
    classes,
    best,
    top,
    EPSILON: tl.constexpr,
    DEPTH: tl.constexpr,
    PIECE: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """Each class's best similarity, and of all references the best with its position, of one share of them.

    The bits of positive floats are ordered as the floats are: an integer maximum merges the shares, in any order.
    ``top`` holds the similarity's bits in the high half, less the position: the first of equals is the highest, and 0,
    the first reference, is left where nothing is similar. ``numbers`` counts a tile's classes; ``listed`` names them,
    and its lowest bit tells whether the whole tile is of that class.
    """
    block = tl.program_id(0)
    rows = block * BLOCK_Q + tl.arange(0, BLOCK_Q)
    near_high, near_low = block_of(q_high, q_low, block, 0, DEPTH, PIECE, BLOCK_Q)
    epsilon_counts = tl.load(epsilon_counts)
    so_far = tl.zeros([BLOCK_Q], tl.int64)
    share = tl.program_id(1)
    shares = tl.num_programs(1)
    for tile in range(share * tiles // shares, (share + 1) * tiles // shares):
        found = similarities(
            q_high,
            q_low,
            q_reciprocals,
            r_high,
            r_low,
            r_reciprocals,
            epsilon_counts,
            near_high,
            near_low,
            tile,
            EPSILON,
            DEPTH,
            PIECE,
            BLOCK_Q,
            BLOCK_R,
        )
        columns = tile * BLOCK_R + tl.arange(0, BLOCK_R)
        positions = tl.load(order + columns)
        highest = tl.max(found, 1)
        first = tl.min(tl.where(found == highest[:, None], positions[None, :], 2147483647), 1)
        bits = tl.maximum(highest, 0.0).to(tl.int32, bitcast=True)
        so_far = tl.maximum(so_far, (bits.to(tl.int64) << 32) - first)
        for i in range(0, tl.load(numbers + tile)):
            entry = tl.load(listed + tile * classes + i)
            kind = tl.cast(entry >> 1, tl.int64)
            of_class = bits
            if (entry & 1) == 0:
                member = tl.load(members + kind * width + columns)
                highest = tl.max(tl.where(member[None, :] != 0, found, 0.0), 1)
                of_class = tl.maximum(highest, 0.0).to(tl.int32, bitcast=True)
            tl.atomic_max(best + kind * (tl.num_programs(0) * BLOCK_Q) + rows, of_class, sem="relaxed")
    tl.atomic_max(top + rows, so_far, sem="relaxed")


@jit
def count_kernel(
    q_high,
    q_low,
    q_reciprocals,
    r_high,
    r_low,
    r_reciprocals,
    epsilon_counts,
    tiles,
    limits,
    counts,
    LIMITS: tl.constexpr,
    SLOTS: tl.constexpr,
    EPSILON: tl.constexpr,
    DEPTH: tl.constexpr,
    PIECE: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """How many of one share of the references are strictly above each limit ``(Q, SLOTS)``."""
    block = tl.program_id(0)
    slots = tl.arange(0, SLOTS)[None, :]
    places = (block * BLOCK_Q + tl.arange(0, BLOCK_Q))[:, None] * SLOTS + slots
    near_high, near_low = block_of(q_high, q_low, block, 0, DEPTH, PIECE, BLOCK_Q)
    epsilon_counts = tl.load(epsilon_counts)
    table = tl.load(limits + places)
    above = tl.zeros([BLOCK_Q, SLOTS], tl.int32)
    share = tl.program_id(1)
    shares = tl.num_programs(1)
    for tile in range(share * tiles // shares, (share + 1) * tiles // shares):
        found = similarities(
            q_high,
            q_low,
            q_reciprocals,
            r_high,
            r_low,
            r_reciprocals,
            epsilon_counts,
            near_high,
            near_low,
            tile,
            EPSILON,
            DEPTH,
            PIECE,
            BLOCK_Q,
            BLOCK_R,
        )
        for i in tl.static_range(LIMITS):
            limit = tl.sum(tl.where(slots == i, table, 0.0), 1)
            number = tl.sum(tl.where(found > limit[:, None], 1.0, 0.0), 1)  # floats are quicker to add up
            above += tl.where(slots == i, number[:, None], 0.0).to(tl.int32)
    tl.atomic_add(counts + places, above, sem="relaxed")
