"""The processes of a distributed run: which one writes files, and what they must have in common."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from torch import Tensor, nn


def is_distributed() -> bool:
    """Whether several processes train together."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if is_distributed() else 1


def is_first_rank() -> bool:
    """True in the one process that writes files: the only one, or rank 0."""
    return rank() == 0


def gathered_order(number: int) -> list[int]:
    """Indices of ``number`` items in the order in which metrics gather them.

    A ``DistributedSampler`` without shuffling deals the items out to the ranks in turn, and a metric strings together
    what the ranks had.
    """
    step = world_size()
    return [index for first in range(step) for index in range(first, number, step)]


def share_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Gives all processes the mean of their gradients, for parameters that no wrapper of a network looks after."""
    if not is_distributed():
        return
    for parameter in parameters:
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= world_size()


def total(mine: Tensor) -> Tensor:
    """The sum of a tensor over all processes."""
    if is_distributed():
        dist.all_reduce(mine)
    return mine


def average(tensors: list[Tensor]) -> None:
    """Gives all processes the mean of some tensors, in one exchange."""
    if not is_distributed() or not tensors:
        return
    whole = total(torch.cat([tensor.flatten().float() for tensor in tensors])) / world_size()
    for tensor, part in zip(tensors, whole.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def gathered(mine: Tensor) -> Tensor:
    """The tensors of all processes, which have one shape, one after the other along a new first axis."""
    if not is_distributed():
        return mine[None]
    others = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(others, mine.contiguous())
    return torch.stack(others)


def barrier() -> None:
    """Waits until all processes are here."""
    if is_distributed():
        dist.barrier()


def gathered_rows(mine: Tensor | None, number: int) -> Tensor:
    """All ``number`` rows from the share of each process, which has every ``world_size``-th from its rank on.

    Args:
        mine: rows of this process ``n d``; None where it has none.
        number: number of rows in all.
    """
    if not is_distributed():
        return mine
    shares: list[Tensor | None] = [None] * world_size()
    dist.all_gather_object(shares, mine)
    first = next(share for share in shares if share is not None)
    rows = first.new_empty(number, first.shape[1])
    for place, share in enumerate(shares):
        if share is not None:
            rows[place :: world_size()] = share
    return rows


class SameBuffers:
    """Gives all processes the first one's buffers (batch norm's running statistics) when an evaluation starts.

    Each process has its own running statistics, and it is the first one's that are saved: what the others evaluate must
    be that same network.

    Args:
        network: the network that is evaluated.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        if is_distributed():
            for buffer in self.network.buffers():
                dist.broadcast(buffer, src=0)
