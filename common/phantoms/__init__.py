"""Invented data, each in the layout that its real data set is distributed in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Phantom:
    """How a phantom is made, and how its parts are drawn."""

    make: Callable[..., Any]
    datalist: Callable[..., dict]
    classes: tuple[str, ...]
    mode: str


# the modules, each with PHANTOM; they are imported when one is asked for
KINDS = {
    "acdc": "common.phantoms.acdc",
    "jsrt": "common.phantoms.jsrt",
    "lgg": "common.phantoms.lgg",
    "ms": "common.phantoms.isbi",
    "retouch": "common.phantoms.retouch",
}


def find_phantom(kind: str) -> Phantom:
    """The phantom of this name.

    Raises:
        KeyError: when there is none.
    """
    return import_module(KINDS[kind]).PHANTOM
