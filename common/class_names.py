"""What a class may be called: its name stands in files' names, tables and configurations."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

NOT_IN_NAMES = set('/\\:*?"<>|,')
LONGEST = 100  # characters: it is part of columns' and of files' names
# "mean" and "all" are rows and columns of tables beside the classes; the others are read as nothing from a CSV file
TAKEN = {"all", "background", "mean", "na", "nan", "none", "null", "#na", "1.#ind", "1.#qnan"}


def require_class_names(names: Any, key: str = "classes") -> None:
    """Refuses what is no list of different names, also those that differ in case alone.

    Raises:
        ValueError: naming what is wrong.
    """
    listed = isinstance(names, Sequence) and not isinstance(names, str)
    if not listed or not names:
        raise ValueError(f"{key} must be a list with at least one name, got {names!r}.")
    for name in names:
        require_class_name(name)
    plain = [unicodedata.normalize("NFC", str(name)).casefold() for name in names]
    alike = [str(name) for name, word in zip(names, plain, strict=True) if plain.count(word) > 1]
    if alike:
        raise ValueError(
            f"{key} must differ from one another, and not in case alone, got {', '.join(alike)}: name them otherwise."
        )


def require_class_name(name: Any) -> None:
    """Refuses names that a file system cannot hold, or that a table or an annotation tool takes for something else.

    Raises:
        ValueError: naming the name.
    """
    word = str(name)
    text = isinstance(name, (str, int)) and not isinstance(name, bool) and len(word) <= LONGEST
    plain = word.strip() == word and word.isprintable() and not set(word) & NOT_IN_NAMES
    if not text or not word or not plain or word[0] in ".-$@%":  # the last three mean something in a configuration
        raise ValueError(
            f"a class must have a name that can be a file's, of 1 to {LONGEST} characters, not begin with . - $ @ % "
            f"and be without {' '.join(sorted(NOT_IN_NAMES))}, got {name!r}: name it otherwise."
        )
    if word.lower() in TAKEN:
        raise ValueError(
            f"a class must not be called {', '.join(sorted(TAKEN))}, which mean something else in tables, got "
            f"{word!r}: name it otherwise."
        )
