"""What a network makes of images besides its outputs, and the network inside of wrappers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.nn.parallel import DistributedDataParallel


class Seen(NamedTuple):
    """What a network makes of a batch of images.

    Attributes:
        outputs: logits ``B C H W [D]``.
        features: those of the penultimate layer, ``B d H W [D]``; None of a network that does not give them.
        bottleneck: features of the deepest level, ``B d H/16 W/16 [D/16]``, or None.
        levels: features of the decoder's levels from coarse to fine, without the last, which gives ``features``; None
            where nobody has asked for them.
    """

    outputs: Tensor
    features: Tensor | None = None
    bottleneck: Tensor | None = None
    levels: tuple[Tensor, ...] | None = None

    def split(self, sizes: Sequence[int]) -> list[Seen]:
        """What was seen of the images' first so many, the next so many and so on."""
        parts = [divided(field, sizes) for field in self]
        return [Seen(*[part[index] for part in parts]) for index in range(len(sizes))]


def divided(field: Tensor | tuple[Tensor, ...] | None, sizes: Sequence[int]) -> Sequence[Any]:
    """A field of :class:`Seen` for so many images each."""
    if field is None:
        return [None] * len(sizes)
    if isinstance(field, tuple):
        return list(zip(*[level.split(sizes) for level in field], strict=True))
    return field.split(sizes)


def unwrapped(item: Any) -> Any:
    """The network inside the wrappers for distributed training and for ``torch.compile``."""
    while isinstance(item, DistributedDataParallel) or hasattr(item, "_orig_mod"):
        item = item.module if isinstance(item, DistributedDataParallel) else item._orig_mod
    return item
