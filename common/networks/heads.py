"""Heads beside the network's own, which parts of a method train."""

from __future__ import annotations

import torch
from torch import nn


def pixelwise_head(like: nn.Module, width: int, outputs: int, draw: torch.Generator) -> nn.Module:
    """A 1 x 1 convolution from so many channels to so many, of the kind and on the device of another convolution.

    Its weights are Xavier's from ``draw``, a generator on the host, so that all processes get the same ones.
    """
    state = torch.get_rng_state()
    head = type(like)(width, outputs, kernel_size=1)
    torch.set_rng_state(state)  # torch draws weights by itself: a run's other draws stay what they are without a head
    nn.init.xavier_uniform_(head.weight, generator=draw)
    nn.init.zeros_(head.bias)
    return head.to(like.weight.device)
