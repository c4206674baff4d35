"""What ``python -m common`` does before a command runs: finds it and explains it."""

from __future__ import annotations

import difflib
import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

PROGRAM = "python -m common"
HELP = {"-h", "--help"}


def find(commands: Mapping[str, Any], words: Sequence[str]) -> tuple[str, Any, list[str]]:
    """The command that the first words name, or the group of commands, with its name and the words that are left.

    Raises:
        ValueError: when there is no such command.
    """
    name, found, rest = PROGRAM, commands, list(words)
    while isinstance(found, Mapping) and rest and not rest[0].startswith("-"):
        word = rest.pop(0)
        if word not in found:
            raise ValueError(f"{name} has the commands {', '.join(found)}, got {word}{suggestion(word, found)}.")
        name, found = f"{name} {word}", found[word]
    return name, found, rest


def overview(name: str, commands: Mapping[str, Any]) -> str:
    """Each command of a group with the first sentence about it."""
    rows = [(" ".join([*path, word]), summary(value)) for path, word, value in leaves(commands)]
    width = max(len(command) for command, _ in rows)
    lines = [f"  {command:{width}}  {text}" for command, text in rows]
    return "\n".join([f"usage: {name} COMMAND ...", "", *lines, "", f"{name} COMMAND --help explains a command."])


def leaves(commands: Mapping[str, Any], path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], str, Callable]]:
    """All commands, those within groups with the groups' names."""
    found = []
    for word, value in commands.items():
        found += leaves(value, (*path, word)) if isinstance(value, Mapping) else [(path, word, value)]
    return found


def summary(function: Callable) -> str:
    """The first sentence of a function's docstring."""
    text = " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())
    return text.replace("``", "").split(": ")[0].split(". ")[0].rstrip(".") + "."


def explanation(name: str, function: Callable) -> str:
    """How a command is called, and what there is to say about it."""
    words = []
    for parameter in inspect.signature(function).parameters.values():
        flag = f"--{parameter.name}"
        if parameter.kind is parameter.VAR_KEYWORD:
            words.append("[--SETTING VALUE ...]")
        elif parameter.kind is parameter.VAR_POSITIONAL:
            words.append(f"[{parameter.name.upper()} ...]")
        elif parameter.default is parameter.empty:
            words.append(parameter.name.upper())
        elif isinstance(parameter.default, bool):
            words.append(f"[{flag} {str(not parameter.default).lower()}]")
        else:
            words.append(f"[{flag} {'VALUE' if parameter.default is None else parameter.default}]")
    usage = textwrap.fill(f"usage: {name} {' '.join(words)}", 100, subsequent_indent=8 * " ", break_long_words=False)
    return f"{usage}\n\n{inspect.getdoc(function)}".replace("``", "")


def suggestion(word: str, known: Sequence[str] | Mapping[str, Any], prefix: str = "") -> str:
    """What was probably meant."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f": perhaps {prefix}{close[0]} is meant" if close else ""
