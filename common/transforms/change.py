"""What became of a batch of images, so that the same can become of their labels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from monai.networks.layers import AffineTransform
from torch import Tensor

IGNORE, BACKGROUND = "ignore", "background"


class Change(NamedTuple):
    """An affine movement and a box that was cut out, for each image of a batch.

    Attributes:
        matrix: where each pixel of the changed image lies in the original one, ``B n+1 n+1`` in pixels from the
            image's centre, homogeneous, in float64; n is 2 or 3.
        box: first pixel and the one behind the last along each axis, ``B n 2``; empty for no box.
        cutout_label: what a label becomes in the box, ``"background"`` or ``"ignore"``.
    """

    matrix: Tensor
    box: Tensor
    cutout_label: str = BACKGROUND

    def of_image(self, image: Tensor) -> Tensor:
        """The moved image ``B C H W [D]``; beyond the border it goes on with the value at the border."""
        return moved(image, self.matrix, "bilinear", "border")

    def of_label(self, label: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Label ``B C H W [D]`` and weight of any number of channels, changed as the image was.

        Each pixel gets the values of the one nearest to where it came from. What came from outside the image has the
        weight 0. In the box the label is background with weight 1, or has the weight 0.
        """
        label, weight = (moved(maps.float(), self.matrix, "nearest", "zeros") for maps in (label, weight))
        cut = self.cut(label.shape[2:])
        return label.masked_fill(cut, 0), weight.masked_fill(cut, float(self.cutout_label == BACKGROUND))

    def undo(self, maps: Tensor) -> Tensor:
        """Maps ``B C H W [D]`` of the changed images (a network's probabilities, say) moved back; 0 from outside."""
        return moved(maps, torch.linalg.inv(self.matrix), "bilinear", "zeros")

    def cut(self, size: torch.Size | tuple[int, ...]) -> Tensor:
        """The boxes as masks, ``B 1 H W [D]``."""
        dimensions = len(size)
        mask = torch.ones((), dtype=torch.bool, device=self.box.device)
        for axis, number in enumerate(size):
            first, last = (self.box[:, axis, end].view(-1, 1, *[1] * dimensions) for end in (0, 1))
            place = torch.arange(number, device=self.box.device).view(-1, *[1] * (dimensions - axis - 1))
            mask = mask & (place >= first) & (place < last)
        return mask


def moved(maps: Tensor, matrix: Tensor, mode: str, padding: str) -> Tensor:
    """Maps ``B C H W [D]`` at the places that the matrices say, in pixels from the centre; at least in float32."""
    centre = torch.eye(matrix.shape[-1], dtype=torch.float64, device=matrix.device)
    centre[:-1, -1] = torch.tensor(maps.shape[2:], dtype=torch.float64, device=matrix.device).sub(1).div(2)
    transform = AffineTransform(mode=mode, padding_mode=padding, align_corners=False)
    with torch.autocast(maps.device.type, enabled=False):  # half precision would move pixels to neighbouring places
        maps = maps if maps.dtype == torch.float64 else maps.float()
        # Not MONAI's `zero_centered`: it takes the image to be a pixel larger or smaller, and so moves too far.
        matrix = centre @ matrix @ torch.linalg.inv(centre)
        return transform(maps, matrix.to(maps))
