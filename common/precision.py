"""Arithmetic whose digits count."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Float32 means float32: no autocast and no TF32 inside, whatever the training around it has chosen."""
    switches = [(torch.backends.cuda.matmul, "allow_tf32", False)]
    if hasattr(
        torch.backends.cuda.matmul, "fp32_precision"
    ):  # since torch 2.9; it must not be mixed with the older one
        switches = [
            (backend.matmul, "fp32_precision", "ieee") for backend in (torch.backends.cuda, torch.backends.mkldnn)
        ]
    before = [getattr(where, name) for where, name, _ in switches]
    with torch.autocast(device.type, enabled=False):
        try:
            for where, name, value in switches:
                setattr(where, name, value)
            yield
        finally:
            for (where, name, _), value in zip(switches, before, strict=True):
                setattr(where, name, value)
