"""Inferers: how a network that was trained on images of one size looks at others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.inferers import Inferer, SliceInferer
from monai.transforms import Resize
from torch import Tensor


class ResizedSlices(Inferer):
    """Looks at a volume slice by slice, each at the network's size, and gives the outputs at the volume's own.

    Scores are of the volume as it is then, not of one that was made smaller. A bundle's inference does the same with
    MONAI's ``Resized``, ``SliceInferer`` and ``Invertd``.

    Args:
        image_size: height and width that the network was trained on.
        batch: number of slices in one pass.
    """

    def __init__(self, image_size: Sequence[int], batch: int = 8) -> None:
        self.resize = Resize((*image_size, -1), mode="trilinear", anti_aliasing=True)
        self.slices = SliceInferer(roi_size=tuple(image_size), sw_batch_size=batch, spatial_dim=2)

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Outputs ``B K H W D`` of volumes ``B C H W D``."""
        size = inputs.shape[2:]
        plain = inputs.as_subclass(Tensor)
        resized = torch.stack([self.resize(volume, dtype=torch.float32) for volume in plain]).as_subclass(Tensor)
        outputs = self.slices(resized, network, *args, **kwargs)
        return outputs if outputs.shape[2:] == size else F.interpolate(outputs.float(), size, mode="trilinear")
