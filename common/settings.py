"""What an object was made with: its settings by name, for the record of a run and for comparing two runs."""

from __future__ import annotations

import inspect
import types
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

_PLAIN = (bool, int, float, str, type(None))


def keywords(kind: type) -> dict[str, inspect.Parameter]:
    """The keywords of a class, those that it passes on to its base by ``**options`` among them."""
    found: dict[str, inspect.Parameter] = {}
    for base in kind.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = list(inspect.signature(base.__init__).parameters.values())[1:]
        found |= {
            p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in found
        }
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            break
    return found


def described(thing: Any) -> Any:
    """An object's class and settings as plain Python: numbers, words, lists and dictionaries.

    An object says itself what there is to say in ``settings()``, or keeps each keyword of its class under its own name;
    of what it keeps under no such name nothing is known.
    """
    if isinstance(thing, _PLAIN):
        return thing
    if isinstance(thing, Enum):
        return str(thing.value)
    if isinstance(thing, Path):
        return str(thing)
    if callable(getattr(thing, "settings", None)):
        return _of_class(thing, thing.settings())
    if hasattr(thing, "_asdict"):
        return described(thing._asdict())
    if callable(getattr(thing, "items", None)):  # dictionaries, torch's among them
        return {str(key): described(value) for key, value in thing.items()}
    if isinstance(thing, (set, frozenset)):
        return sorted(map(str, thing))
    if hasattr(thing, "tolist"):
        return thing.tolist()
    if hasattr(thing, "__iter__"):
        return [described(part) for part in thing]
    if isinstance(thing, (type, types.FunctionType, types.BuiltinFunctionType)):
        return thing.__qualname__
    return _of_class(thing, {name: getattr(thing, name) for name in keywords(type(thing)) if hasattr(thing, name)})


def _of_class(thing: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"class": type(thing).__qualname__, **{name: described(value) for name, value in settings.items()}}


def differences(mine: Any, theirs: Any, name: str = "") -> list[str]:
    """What differs between two descriptions: name, the other's value and mine."""
    if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
        found = []
        for key in dict.fromkeys([*mine, *theirs]):
            path = f"{name}#{key}" if name else str(key)
            if key in mine and key in theirs:
                found += differences(mine[key], theirs[key], path)
            else:
                found.append(f"{path} {theirs.get(key, 'not set')!r}, got {mine.get(key, 'not set')!r}")
        return found
    if isinstance(mine, list) and isinstance(theirs, list) and len(mine) == len(theirs):
        return [
            line for i, pair in enumerate(zip(mine, theirs, strict=True)) for line in differences(*pair, f"{name}#{i}")
        ]
    if mine == theirs and type(mine) is type(theirs):  # 1 neighbour is not a share of 1.0
        return []
    return [f"{name} {theirs!r}, got {mine!r}"]
