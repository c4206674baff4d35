"""How alike two pictures or volumes are, of which one may be a copy written anew, resized, cropped or flipped."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from scipy.linalg import hadamard
from torch import Tensor

from common.data.laid_over import halved, laid_over, sampled, smooth, tangents

SIDES = {2: 64, 3: 32}  # of a thumbnail, by the number of axes
WIDTH = 7  # pixels of a thumbnail over which brightness and contrast are evened out
FLAT = 0.02  # share of the range of values: a contrast that counts half
EMPTY = 0.02  # share of the range of values up to which nothing is shown
OUTLINE = 0.05  # how much pixels near such ones count
INSIDE = 0.7  # likeness that copies have at least when they count so little
LEAST = 0.05  # share of a thumbnail that must show more than an empty background
LIKELY = 0.8  # likeness in half of the size below which the whole is not looked at
STEPS = 6  # of the search for what was cropped
ASKED = 64  # images that are compared with all others at a time
BATCH = {2: 256, 3: 16}  # pairs that are compared at a time


def thumbnail(image: np.ndarray) -> np.ndarray:
    """A picture ``W H`` or volume ``X Y Z`` as small values from 0 to 1, ``64 64`` or ``32 32 32`` in half precision.

    Of :class:`numpy.float16`, so that thousands need little memory; an image of one value is all 0.
    """
    order = np.argsort([-abs(stride) for stride in image.strides], kind="stable")  # as in memory, which is much faster
    small, side = torch.from_numpy(np.ascontiguousarray(image.transpose(order), dtype=np.float32)), SIDES[image.ndim]
    if {*small.shape} != {side}:
        small = (F.adaptive_avg_pool2d if image.ndim == 2 else F.adaptive_avg_pool3d)(small[None], side)[0]
    low, high = small.aminmax()
    small = (small - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
    return small.half().numpy().transpose(np.argsort(order))


def nearest(
    ones: np.ndarray, others: np.ndarray, allowed: np.ndarray, count: int = 2
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of the ``others``, those of ``ones`` that it may be a copy of, by all pairs' coarse likeness.

    A coarse picture and how it changes when it is cropped at each side span a space; what counts is how much of the
    other picture lies in it. All flips together are one matrix product: pictures are split into what stays and what
    changes its sign along each axis, and a flip only adds up their products with other signs.

    Args:
        ones, others: thumbnails ``N ...`` and ``M ...``.
        allowed: which pairs are of interest, ``N M``.
        count: how many of each.

    Returns:
        Indices into ``ones``, into ``others``, and numbers of the flip that makes them alike, all of one length.
    """
    spans, number = _spans(_coarse(ones)), min(count, len(ones))
    found = [(np.zeros(0, int),) * 3]
    for start in range(0, len(others), ASKED):
        yours = _coarse(others[start : start + ASKED])
        alike, flips = _within(spans, yours).max(dim=0)
        alike[torch.from_numpy(~allowed[:, start : start + ASKED])] = -1
        best, rows = alike.topk(number, dim=0)
        columns = torch.arange(len(yours)).expand_as(rows)[best >= 0]
        rows = rows[best >= 0]
        found.append((rows.numpy(), start + columns.numpy(), flips[rows, columns].numpy()))
    return tuple(map(np.concatenate, zip(*found, strict=True)))


def likeness(ones: np.ndarray, others: np.ndarray, flips: np.ndarray) -> np.ndarray:
    """How alike pairs of thumbnails are in their details, 1 for equal ones and about 0 for those of other things.

    The other of a pair is flipped, and the first is laid over it, sides scaled and shifted a little. Then local
    brightness and contrast are evened out in both, and what is left is correlated where they overlap. That is done in
    half of the size, and in the whole of it for pairs that are alike there; others keep what was found.

    Args:
        ones, others: thumbnails ``P ...``.
        flips: number of each pair's flip, see :func:`nearest`.
    """
    found = np.zeros(len(ones), np.float32)
    for start in range(0, len(ones), BATCH[ones.ndim - 1]):
        part = slice(start, start + BATCH[ones.ndim - 1])
        one, other = (torch.from_numpy(batch[part]).float() for batch in (ones, others))
        for number, places in enumerate(_flips(ones.ndim - 1)):
            chosen = torch.from_numpy(flips[part] == number)
            other[chosen] = other[chosen].flip(places)
        found[part] = _alike(one, other).numpy()
    return found


def _alike(ones: Tensor, others: Tensor) -> Tensor:
    small = [halved(images) for images in (ones, others)]
    start = torch.tensor([1.0, 0.0]).expand(len(ones), ones.ndim - 1, 2)
    place = laid_over(*map(_smooth_details, small), start, STEPS)
    found = _correlation(*small, place)
    likely = found >= LIKELY
    if likely.any():
        ones, others = ones[likely], others[likely]
        place = laid_over(_smooth_details(ones), _smooth_details(others), place[likely], STEPS // 2)
        found[likely] = _correlation(ones, others, place)
    return found


def _flips(axes: int) -> list[list[int]]:
    """The axes of a batch that each flip turns round."""
    return [[axis + 1 for axis, turned in enumerate(flip) if turned] for flip in product((False, True), repeat=axes)]


def _details(images: Tensor) -> Tensor:
    """What differs from around it, as a share of how much pixels there do."""
    rest = images - smooth(images, WIDTH)
    return rest / (smooth(rest.square(), WIDTH).sqrt() + FLAT)


def _smooth_details(images: Tensor) -> Tensor:
    return _details(smooth(images, 3))


def _coarse(thumbnails: np.ndarray) -> Tensor:
    """Thumbnails in 16 pixels along each axis."""
    parts = []
    for images in torch.from_numpy(thumbnails).split(ASKED):  # so that no large memory is asked for
        images = images.float()
        while images.shape[-1] > 16:
            images = halved(images)
        parts.append(smooth(images, 3))
    return torch.cat(parts)


def _spans(images: Tensor) -> Tensor:
    """Orthonormal vectors ``P N 2n+1 D`` in parities: an image, and how it changes when it is cropped."""
    vectors = torch.cat([images[:, None], tangents(images)], dim=1)
    flat = _normal(vectors.flatten(2))
    gram = flat @ flat.transpose(1, 2) + 1e-4 * torch.eye(flat.shape[1])
    flat = torch.linalg.solve_triangular(torch.linalg.cholesky(gram), flat, upper=False)
    return _parities(flat.reshape(-1, *images.shape[1:])).unflatten(1, vectors.shape[:2])


def _within(spans: Tensor, images: Tensor) -> Tensor:
    """The share of each image, flipped in each way, that lies in each span, ``F N M``."""
    parts = _parities(_normal(images.flatten(1)).reshape(images.shape))
    products = spans.flatten(1, 2) @ parts.transpose(1, 2)
    # flips and parities are numbered alike, a bit for each axis: what is odd along a flipped one changes its sign
    flipped = torch.tensordot(torch.from_numpy(hadamard(len(parts))).float(), products, 1)
    return flipped.square_().unflatten(1, spans.shape[1:3]).sum(2)


def _normal(vectors: Tensor) -> Tensor:
    return F.normalize(vectors - vectors.mean(-1, keepdim=True), dim=-1)


def _parities(images: Tensor) -> Tensor:
    """Parts ``P N D`` of images ``N ...`` that are even or odd along each axis; they keep the sum of squares."""
    parts = [images * 0.5 ** ((images.ndim - 1) / 2)]
    for axis in range(1, images.ndim):
        halves = [part.tensor_split(2, axis) for part in parts]
        parts = [part for one, other in halves for part in (one + other.flip(axis), one - other.flip(axis))]
    return torch.stack(parts).flatten(2)


def _correlation(ones: Tensor, others: Tensor, place: Tensor) -> Tensor:
    """Of details where both images are, unless what is not near an empty background says otherwise.

    Outlines alone make heads alike that lie in one template. Small things on nothing all are: these are no copies.
    """
    there, inside = sampled(ones, place)
    filled = [(smooth((images > EMPTY).float(), WIDTH) > 0.99).float() for images in (there, others)]
    one, other = (_details(images).flatten(1) for images in (there, others))
    whole, within = (
        _weighted(one, other, weight.flatten(1)) for weight in (inside, inside * (filled[0] * filled[1] + OUTLINE))
    )
    alike = torch.where(within < INSIDE, whole.minimum(within), whole)
    shown = (inside * filled[0] * filled[1]).flatten(1).mean(1)
    return torch.where(shown < LEAST, torch.zeros_like(alike), alike)


def _weighted(ones: Tensor, others: Tensor, weight: Tensor) -> Tensor:
    weight = weight / weight.sum(1, keepdim=True).clamp(min=1e-6)
    one, other = (values - (values * weight).sum(1, keepdim=True) for values in (ones, others))
    spread = ((one.square() * weight).sum(1) * (other.square() * weight).sum(1)).sqrt()
    return (one * other * weight).sum(1) / spread.clamp(min=1e-6)
