"""Random numbers that are a function of (seed, iteration, rank, part), so that a resumed run repeats them."""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor

from common.ranks import rank


def generator(seed: int, iteration: int, part: str) -> np.random.Generator:
    """The random numbers of one part of one iteration in this process, whatever was drawn elsewhere before."""
    return np.random.default_rng([seed, zlib.crc32(part.encode()), iteration, rank()])


def normal(shape: tuple[int, ...], draw: np.random.Generator, device: torch.device) -> Tensor:
    """Standard normal numbers, drawn on the device from a seed of ``draw``: the same ones on devices of one kind."""
    random = torch.Generator(device).manual_seed(int(draw.integers(2**63)))
    return torch.randn(shape, generator=random, device=device)


def uniform(shape: tuple[int, ...], draw: np.random.Generator, device: torch.device) -> Tensor:
    """Numbers drawn evenly from [0, 1), on the device from a seed of ``draw``."""
    random = torch.Generator(device).manual_seed(int(draw.integers(2**63)))
    return torch.rand(shape, generator=random, device=device)


def on_device(values: np.ndarray, like: Tensor) -> Tensor:
    """A few drawn numbers as a tensor beside ``like``: float32, whole or true and false, without waiting for it."""
    values = np.array(values, order="C")
    kind = {"f": torch.float32, "b": torch.bool}.get(values.dtype.kind, torch.long)
    return torch.as_tensor(values, dtype=kind).to(like.device, non_blocking=True)
