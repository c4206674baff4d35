"""Yes or no from the command line."""

from __future__ import annotations


def flag(value: bool | str, name: str = "a flag") -> bool:
    """True or False from themselves and from the words ``true`` and ``false``, which the command line hands on as text.

    Raises:
        ValueError: for anything else; the text ``"false"`` would count as true.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise ValueError(f"{name} must be true or false, got {value!r}.")
