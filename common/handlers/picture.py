"""Images and masks as a picture's rows and columns."""

from __future__ import annotations

import numpy as np
from torch import Tensor


def picture(maps: Tensor) -> np.ndarray:
    """The first image of ``B C W H [D]`` as ``C H W``: a volume's middle slice, axes swapped to rows and columns."""
    first = maps[0].float().cpu()
    if first.ndim == 4:
        first = first[..., first.shape[-1] // 2]
    return first.transpose(1, 2).numpy()
