"""What a network makes of images besides its outputs, and the network inside of wrappers."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor
from torch.nn.parallel import DistributedDataParallel


class Seen(NamedTuple):
    """What a network makes of a batch of images.

    Attributes:
        outputs: logits ``B C H W [D]``.
        features: those of the penultimate layer, ``B d H W [D]``; None of a network that does not give them.
        bottleneck: features of the deepest level, ``B d H/16 W/16 [D/16]``, or None.
    """

    outputs: Tensor
    features: Tensor | None = None
    bottleneck: Tensor | None = None


def unwrapped(item: Any) -> Any:
    """The network inside the wrappers for distributed training and for ``torch.compile``."""
    while isinstance(item, DistributedDataParallel) or hasattr(item, "_orig_mod"):
        item = item.module if isinstance(item, DistributedDataParallel) else item._orig_mod
    return item
