"""Arithmetic whose digits count."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch


def without_autocast(device: torch.device | str) -> AbstractContextManager:
    """No autocast inside.

    Where there is none, no context is entered: leaving the outermost one of a thread empties the cache of weights in
    half precision, which all threads share, in the middle of another one's step.
    """
    kind = torch.device(device).type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def tf32_switches() -> list[tuple[Any, str, Any, Any]]:
    """Where TF32 in matrix products is switched: the object, its attribute, its values with and without TF32."""
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # since torch 2.9; must not be mixed with the older one
        matmuls = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
        return [(matmul, "fp32_precision", "tf32", "ieee") for matmul in matmuls]
    return [(torch.backends.cuda.matmul, "allow_tf32", True, False)]


def allow_tf32() -> None:
    """Lets a GPU multiply float32 matrices with the 10 bits of TF32."""
    where, name, fast, _ = tf32_switches()[0]
    setattr(where, name, fast)


@contextmanager
def full_precision(device: torch.device | str) -> Iterator[None]:
    """Matrix products in float32 mean float32: no autocast and no TF32 inside, whatever the training has chosen."""
    switches = [(where, name, exact) for where, name, _, exact in tf32_switches()]
    before = [getattr(where, name) for where, name, _ in switches]
    with without_autocast(device):
        try:
            for where, name, value in switches:
                setattr(where, name, value)
            yield
        finally:
            for (where, name, _), value in zip(switches, before, strict=True):
                setattr(where, name, value)
