"""What became of a batch of images, so that the same can become of their labels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, reduce
from operator import and_
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.draws import on_device
from common.precision import without_autocast

if TYPE_CHECKING:
    from common.label_space import LabelSpace

IGNORE, BACKGROUND = "ignore", "background"


class Change:
    """What a view did to the images of a batch."""

    def of_image(self, image: Tensor) -> Tensor:
        """Images ``B C H W [D]`` changed in this way."""
        raise NotImplementedError

    def of_label(self, label: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Label ``B C H W [D]`` and weight of any number of channels or None, changed as the images were."""
        raise NotImplementedError

    def undo(self, maps: Tensor) -> Tensor:
        """Maps ``B C H W [D]`` of the changed images (a network's probabilities, say) back in the images' places."""
        raise ValueError(f"{type(self).__name__} cannot be undone: take a view that only moves images.")


class Changes(Change):
    """Changes one after the other; none at all leaves everything as it is."""

    def __init__(self, changes: Sequence[Change] = ()) -> None:
        self.changes = tuple(changes)

    def of_image(self, image: Tensor) -> Tensor:
        for change in self.changes:
            image = change.of_image(image)
        return image

    def of_label(self, label: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor | None]:
        for change in self.changes:
            label, weight = change.of_label(label, weight)
        return label, weight

    def undo(self, maps: Tensor) -> Tensor:
        for change in reversed(self.changes):
            maps = change.undo(maps)
        return maps


class Copies(Change):
    """Changes side by side: of each one all images, one batch after the other."""

    def __init__(self, changes: Sequence[Change]) -> None:
        self.changes = tuple(changes)

    def of_image(self, image: Tensor) -> Tensor:
        return torch.cat([change.of_image(image) for change in self.changes])

    def of_label(self, label: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor | None]:
        labels, weights = zip(*(change.of_label(label, weight) for change in self.changes), strict=True)
        if all(each is None for each in weights):
            return torch.cat(labels), None
        ones = torch.ones_like(label[:, :1], dtype=torch.float32)
        return torch.cat(labels), torch.cat([ones if each is None else each for each in weights])


class Moved(Change):
    """A movement of each image: affine, or affine and elastic.

    The pixel y of the moved image is the original one's at M y + u(y), counted in pixels from the image's centre.

    Args:
        matrix: M, ``B n+1 n+1``, homogeneous, float64, on the host; n is 2 or 3.
        displacement: u, ``B n H W [D]`` in pixels along each axis, float32 on the images' device; None for 0.
    """

    def __init__(self, matrix: np.ndarray, displacement: Tensor | None = None) -> None:
        self.matrix, self.displacement = np.asarray(matrix, dtype=np.float64), displacement
        self.grid: Tensor | None = None  # for the label, once the image has asked for it

    def of_image(self, image: Tensor) -> Tensor:
        """The moved images; beyond the border they go on with the value at the border."""
        return self.sampled(image, "bilinear", "border")

    def of_label(self, label: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Each pixel gets the values of the one nearest to where it came from; from outside it has the weight 0.

        Without weights the label goes on beyond the border, as the image does.
        """
        if weight is None:
            return self.sampled(label.float(), "nearest", "border"), None
        moved = self.sampled(torch.cat([label.float(), weight.float()], dim=1), "nearest", "zeros")
        return moved[:, : label.shape[1]], moved[:, label.shape[1] :]

    def undo(self, maps: Tensor) -> Tensor:
        """Interpolated; 0 from outside."""
        if self.displacement is not None:
            raise ValueError("an elastic deformation cannot be undone: take a view that turns, scales or shifts.")
        return Moved(np.linalg.inv(self.matrix)).sampled(maps, "bilinear", "zeros")

    def sampled(self, maps: Tensor, mode: str, padding: str) -> Tensor:
        """Maps ``B C H W [D]`` at the places they come from; in float32, or float64 where the maps are."""
        maps = maps if maps.dtype == torch.float64 else maps.float()
        if self.displacement is None and keeps_pixels(self.matrix, maps.shape[2:]):
            # grid_sample would round, and a 0 be none
            if (self.matrix == np.eye(maps.ndim - 1)).all():
                return maps
            return torch.stack([turned(*one) for one in zip(maps, self.matrix, strict=True)])
        with without_autocast(maps.device):  # half precision would move pixels to neighbouring places
            grid = self.grid
            if (
                grid is None
                or grid.shape[1:-1] != maps.shape[2:]
                or (grid.dtype, grid.device) != (maps.dtype, maps.device)
            ):
                self.grid = grid = places(self.matrix, self.displacement, maps)
            return F.grid_sample(maps, grid, mode=mode, padding_mode=padding, align_corners=False)


class Cut(Change):
    """A box that was cut out of each image.

    Args:
        box: first pixel and the one behind the last along each axis, ``B n 2`` on the host; empty for no box.
        fill: value of the image in the box.
        label: what a label becomes in the box: ``"background"`` with weight 1, or ``"ignore"``, weight 0.
        labels: the label space, which knows a soft label's background.
    """

    def __init__(
        self, box: np.ndarray, fill: float = 0.5, label: str = BACKGROUND, labels: LabelSpace | None = None
    ) -> None:
        self.box, self.fill, self.label, self.labels = box, fill, label, labels
        self.inside = Inside(box)

    def of_image(self, image: Tensor) -> Tensor:
        return image.masked_fill(self.inside(image), self.fill)

    def of_label(self, label: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor | None]:
        cut, background = self.inside(label), self.label == BACKGROUND
        if weight is None and not background:
            weight = torch.ones_like(label[:, :1], dtype=torch.float32)
        cut_out = label.masked_fill(cut, 0)
        if self.labels is not None and self.labels.is_soft(label):
            cut_out = torch.cat([label[:, :1].masked_fill(cut, 1), cut_out[:, 1:]], dim=1)
        return cut_out, None if weight is None else weight.masked_fill(cut, float(background))


class Mixed(Change):
    """A box of each image that was filled with the same box of another image of the batch (Yun et al. 2019).

    Args:
        box: as for :class:`Cut`; None for another place than a box.
        partner: index of each image's partner, ``B`` on the host.
        inside: the place that was filled, ``B 1 H W [D]``, where it is no box.
    """

    def __init__(self, box: np.ndarray | None, partner: np.ndarray, inside: Tensor | None = None) -> None:
        self.box, self.partner = box, partner
        self.inside = Inside(box) if inside is None else lambda maps: inside

    def of_image(self, image: Tensor) -> Tensor:
        return torch.where(self.inside(image), image[on_device(self.partner, image)], image)

    def of_label(self, label: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return self.of_image(label), None if weight is None else self.of_image(weight)


class Pasted(Change):
    """A box of some images that was filled from labelled ones, whose pixels count as they do there: mostly fully.

    Args:
        box: as for :class:`Cut`.
        image, label: the labelled images and their label.
        partner: index of each image's partner among them, ``B`` on the host.
        labels: the label space, which knows soft labels.
        weight: of the labelled images' pixels, where they have one.
        happens: which images' boxes are filled, ``B`` on the images' device; all where not given.
    """

    def __init__(
        self,
        box: np.ndarray,
        image: Tensor,
        label: Tensor,
        partner: np.ndarray,
        labels: LabelSpace,
        weight: Tensor | None = None,
        happens: Tensor | None = None,
    ) -> None:
        self.box, self.image, self.label, self.partner, self.labels = box, image, label, partner, labels
        self.inside, self.weight, self.happens = Inside(box), weight, happens

    def of_image(self, image: Tensor) -> Tensor:
        return torch.where(self.place(image), self.image[on_device(self.partner, image)].to(image.dtype), image)

    def of_label(self, label: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor | None]:
        place, partner = self.place(label), on_device(self.partner, label)
        other = (self.labels.one_hot if self.labels.is_soft(label) else self.labels.hard)(self.label[partner])
        if weight is not None:
            counts = 1.0 if self.weight is None else self.weight[partner].to(weight.dtype)
            weight = torch.where(place, counts, weight)
        return torch.where(place, other.to(label.dtype), label), weight

    def place(self, maps: Tensor) -> Tensor:
        """Where pixels are a labelled image's, ``B 1 H W [D]``."""
        inside = self.inside(maps)
        return inside if self.happens is None else inside & self.happens.view(-1, *[1] * (maps.ndim - 1))


class Inside:
    """Boxes ``B n 2`` as a mask ``B 1 H W [D]``, made once for images and labels of one size."""

    def __init__(self, box: np.ndarray) -> None:
        self.box, self.mask = box, None

    def __call__(self, maps: Tensor) -> Tensor:
        size = maps.shape[2:]
        if self.mask is None or self.mask.shape[2:] != size or self.mask.device != maps.device:
            lines = [
                (np.arange(number) >= self.box[:, axis, :1]) & (np.arange(number) < self.box[:, axis, 1:])
                for axis, number in enumerate(size)
            ]
            along = on_device(np.concatenate(lines, axis=1), maps).split(size, dim=1)
            shapes = [(-1, 1, *[1] * axis, number, *[1] * (len(size) - axis - 1)) for axis, number in enumerate(size)]
            self.mask = reduce(and_, (line.reshape(shape) for line, shape in zip(along, shapes, strict=True)))
        return self.mask


def places(matrix: np.ndarray, displacement: Tensor | None, maps: Tensor) -> Tensor:
    """The places M y + u(y) of :class:`Moved` for ``F.grid_sample`` of the maps: ``B H W [D] n``, last axis first."""
    size = np.array(maps.shape[2:], dtype=np.float64)
    n = len(size)
    # torch counts from -1 to 1 between the outer faces of the outer pixels
    theta = np.concatenate(
        [matrix[:, :n, :n] * (size / size[:, None]), (matrix[:, :n, n] * 2 / size)[..., None]], axis=2
    )
    theta = np.concatenate([theta[:, ::-1, n - 1 :: -1], theta[:, ::-1, n:]], axis=2)
    grid = affine_grid(torch.from_numpy(theta).to(maps.dtype).to(maps.device, non_blocking=True), maps.shape[2:])
    if displacement is None:
        return grid
    scale = on_device(2 / size[::-1], displacement)
    return torch.addcmul(grid, displacement.flip(1).movedim(1, -1).to(grid.dtype), scale.to(grid.dtype))


def keeps_pixels(matrix: np.ndarray, size: Sequence[int]) -> bool:
    """Whether flips and quarter turns of images of a size are all that matrices ``B n+1 n+1`` do."""
    whole = np.rint(matrix)
    steps = np.abs(whole[:, :-1, :-1])
    return (
        bool((np.abs(matrix - whole) < 1e-9).all())
        and not whole[:, :-1, -1].any()
        and bool((steps.sum(1) == 1).all() and (steps @ size == size).all())
    )


def turned(maps: Tensor, matrix: np.ndarray) -> Tensor:
    """Maps ``C H W [D]`` of one image, flipped and turned by a matrix that keeps pixels."""
    linear = np.rint(matrix[:-1, :-1]).astype(int)
    axes = np.abs(linear).argmax(0)  # where each axis comes from
    flipped = [1 + axis for axis, origin in enumerate(axes) if linear[origin, axis] < 0]
    return maps.permute(0, *(1 + axes).tolist()).flip(flipped)


def affine_grid(theta: Tensor, size: Sequence[int]) -> Tensor:
    """What ``F.affine_grid`` gives with ``align_corners=False``, ``B H W [D] n``, in a fifth of its time on a CPU.

    Args:
        theta: ``B n n+1``, the last axis first.
        size: H, W, [D].
    """
    ones = [1] * len(size)
    grid = theta[:, :, -1].reshape(*theta.shape[:2], *ones)
    for axis, number in enumerate(size):
        factor = theta[:, :, len(size) - 1 - axis].reshape(*theta.shape[:2], *ones)
        grid = torch.addcmul(grid, factor, centres(number, theta.dtype, theta.device).view(-1, *ones[axis + 1 :]))
    return grid.movedim(1, -1)


@lru_cache(maxsize=64)
def centres(number: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Centres of so many pixels, where -1 and 1 are the outer faces of the outer ones."""
    return torch.from_numpy((2 * np.arange(number) + 1) / number - 1).to(dtype).to(device)
