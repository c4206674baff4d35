"""Seeds, and whether speed may cost repeatability."""

from __future__ import annotations

import torch
from monai.utils import set_determinism

from common.flags import flag
from common.precision import allow_tf32


def set_up(seed: int, deterministic: bool | str = True) -> None:
    """Seeds all generators. Unless ``deterministic``, a GPU may take faster ways that differ in the last digits.

    These are cuDNN's choice of the fastest algorithm, and TF32 in matrix products; of convolutions, TF32 is torch's
    default.

    Args:
        seed: the seed.
        deterministic: the same run twice gives the same weights, as far as the device's operations do.
    """
    set_determinism(seed)
    if not flag(deterministic, "deterministic"):
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True
        allow_tf32()
