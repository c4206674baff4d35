"""Reads run.json, which describes a run; what is wrong with it is said in a ValueError that names it."""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path
from typing import Any

from common.label_modes import MODES

from .reading import read_json


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value) and len(set(value)) == len(value)


def _is_length(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf


# what run.json may hold
KINDS = {
    "classes": (_are_names, "a list of different names"),
    "method": (lambda value: isinstance(value, str), "a text"),
    "name": (lambda value: isinstance(value, str), "a text"),
    "mode": (lambda value: value in MODES, f"one of {', '.join(MODES)}"),
    "dataset": (lambda value: isinstance(value, str), "a text"),
    "settings": (lambda value: isinstance(value, dict), "an object"),
    "seconds": (_is_length, "a number from 0"),
}


def read_description(path: Path) -> dict[str, Any]:
    """What a run's run.json holds; method and classes have to be there.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when it is damaged, or a value is of another kind.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} must hold run.json, got none: give the folder that training wrote")
    description = read_json(path)
    missing = [key for key in ("method", "classes") if not (isinstance(description, dict) and description.get(key))]
    if missing:
        found = sorted(description) if isinstance(description, dict) else type(description).__name__
        raise ValueError(f"{path} must have {' and '.join(missing)}, got {found}: add what is missing")
    for key, (sound, expected) in KINDS.items():
        value = description.get(key)
        if value is not None and not sound(value):
            raise ValueError(f"{path}: {key} must be {expected}, got {value!r}: correct it")
    return description


def integer(path: Path, description: dict[str, Any], key: str) -> int:
    """A whole number of a description, 0 where there is none."""
    value = description.get(key, 0)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{path}: {key} must be an integer, got {value!r}: correct it")
    return value


def when_started(path: Path, description: dict[str, Any]) -> datetime:
    """When the run started, in local time; without that, when run.json was written."""
    stamp = description.get("started")
    if stamp is None:
        return datetime.fromtimestamp(path.stat().st_mtime)
    try:
        return datetime.fromisoformat(str(stamp)).astimezone().replace(tzinfo=None)
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"{path}: started must be a date like 2026-01-31T12:00:00, got {stamp!r}: correct it"
        ) from error
