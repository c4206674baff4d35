"""What became of a batch of images, so that the same can become of their labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.draws import on_device

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


class Moved(Change):
    """A movement of each image: affine, or affine and elastic.

    The pixel y of the moved image is the original one's at M y + u(y), counted in pixels from the image's centre.

    Args:
        matrix: M, ``B n+1 n+1``, homogeneous, float64, on the host; n is 2 or 3.
        displacement: u, ``B n H W [D]`` in pixels along each axis, float32 on the images' device; None for 0.
    """

    def __init__(self, matrix: np.ndarray, displacement: Tensor | None = None) -> None:
        self.matrix, self.displacement = np.asarray(matrix, dtype=np.float64), displacement

    def of_image(self, image: Tensor) -> Tensor:
        """The moved images; beyond the border they go on with the value at the border."""
        return sampled(image, self.matrix, self.displacement, "bilinear", "border")

    def of_label(self, label: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Each pixel gets the values of the one nearest to where it came from; from outside it has the weight 0.

        Without weights the label goes on beyond the border, as the image does.
        """
        if weight is None:
            return sampled(label.float(), self.matrix, self.displacement, "nearest", "border"), None
        both = torch.cat([label.float(), weight.float()], dim=1)
        moved = sampled(both, self.matrix, self.displacement, "nearest", "zeros")
        return moved[:, : label.shape[1]], moved[:, label.shape[1] :]

    def undo(self, maps: Tensor) -> Tensor:
        """Interpolated; 0 from outside."""
        if self.displacement is not None:
            raise ValueError("an elastic deformation cannot be undone: take a view that turns, scales or shifts.")
        return sampled(maps, np.linalg.inv(self.matrix), None, "bilinear", "zeros")


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

    def of_image(self, image: Tensor) -> Tensor:
        return image.masked_fill(inside(self.box, image), self.fill)

    def of_label(self, label: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor | None]:
        cut, background = inside(self.box, label), self.label == BACKGROUND
        if weight is None and not background:
            weight = torch.ones_like(label[:, :1], dtype=torch.float32)
        cut_out = label.masked_fill(cut, 0)
        if self.labels is not None and self.labels.is_soft(label):
            cut_out = torch.cat([label[:, :1].masked_fill(cut, 1), cut_out[:, 1:]], dim=1)
        return cut_out, None if weight is None else weight.masked_fill(cut, float(background))


class Mixed(Change):
    """A box of each image that was filled with the same box of another image of the batch (Yun et al. 2019).

    Args:
        box: as for :class:`Cut`.
        partner: index of each image's partner, ``B`` on the host.
    """

    def __init__(self, box: np.ndarray, partner: np.ndarray) -> None:
        self.box, self.partner = box, partner

    def of_image(self, image: Tensor) -> Tensor:
        return torch.where(inside(self.box, image), image[on_device(self.partner, image)], image)

    def of_label(self, label: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return self.of_image(label), None if weight is None else self.of_image(weight)


def inside(box: np.ndarray, maps: Tensor) -> Tensor:
    """Boxes ``B n 2`` as masks ``B 1 H W [D]`` beside the maps."""
    size, edges = maps.shape[2:], on_device(box, maps)
    mask = None
    for axis, number in enumerate(size):
        first, last = (edges[:, axis, end].view(-1, 1, *[1] * len(size)) for end in (0, 1))
        place = torch.arange(number, device=maps.device).view(-1, *[1] * (len(size) - axis - 1))
        within = (place >= first) & (place < last)
        mask = within if mask is None else mask & within
    return mask


def sampled(maps: Tensor, matrix: np.ndarray, displacement: Tensor | None, mode: str, padding: str) -> Tensor:
    """Maps ``B C H W [D]`` at the places M y + u(y), see :class:`Moved`; in float32, or float64 where the maps are."""
    maps = maps if maps.dtype == torch.float64 else maps.float()
    if displacement is None and keeps_pixels(matrix, maps.shape[2:]):  # grid_sample would round, and a 0 be none
        return torch.stack([turned(*one) for one in zip(maps, matrix, strict=True)])
    size = np.array(maps.shape[2:], dtype=np.float64)
    n = len(size)
    # torch counts from -1 to 1 between the outer faces of the outer pixels, and the last axis first
    theta = np.concatenate(
        [matrix[:, :n, :n] * (size / size[:, None]), (matrix[:, :n, n] * 2 / size)[..., None]], axis=2
    )
    theta = np.concatenate([theta[:, ::-1, n - 1 :: -1], theta[:, ::-1, n:]], axis=2)
    with torch.autocast(maps.device.type, enabled=False):  # half precision would move pixels to neighbouring places
        theta = torch.from_numpy(theta.copy()).to(maps.dtype).to(maps.device, non_blocking=True)
        grid = affine_grid(theta, maps.shape[2:])
        if displacement is not None:
            scale = on_device(2 / size, displacement).view(-1, *[1] * n)
            grid = grid + (displacement * scale).flip(1).movedim(1, -1).to(grid.dtype)
        return F.grid_sample(maps, grid, mode=mode, padding_mode=padding, align_corners=False)


def keeps_pixels(matrix: np.ndarray, size: Sequence[int]) -> bool:
    """Whether flips and quarter turns of images of a size are all that matrices ``B n+1 n+1`` do."""
    whole = np.rint(matrix)
    steps = np.abs(whole[:, :-1, :-1])
    return (
        np.allclose(matrix, whole, rtol=0, atol=1e-9)
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
    rows = []
    for row in theta.flip(1).unbind(1):  # in torch's order, the place along the last axis comes first
        place = row[:, -1].view(-1, *[1] * len(size))
        for axis, number in enumerate(size):
            centres = (2 * torch.arange(number, device=theta.device, dtype=theta.dtype) + 1) / number - 1
            factor = row[:, len(size) - 1 - axis].view(-1, *[1] * len(size))
            place = place + factor * centres.view(-1, *[1] * (len(size) - axis - 1))
        rows.append(place)
    return torch.stack(rows[::-1], dim=-1)
