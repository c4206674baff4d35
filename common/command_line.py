"""What ``python -m common`` does before a command runs: finds it, explains it, and refuses what it does not take."""

from __future__ import annotations

import difflib
import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

PROGRAM = "python -m common"
HELP = {"-h", "--help"}
BOOLEANS = {"true", "false"}
TEXTS = {"str", "str | None", "str | Path", "str | Path | None"}  # annotations


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


def refuse_unknown(name: str, function: Callable, arguments: Sequence[str]) -> None:
    """Refuses options that a command does not have, before it does anything.

    Raises:
        ValueError: naming the option and those that there are.
    """
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for argument in arguments:
        if argument == "--":  # what follows is fire's own
            break
        if not argument.startswith("--"):
            continue
        option = argument[2:].partition("=")[0].replace("-", "_")
        turned_off = parameters.get(option.removeprefix("no"))  # fire's way to say false
        if option not in parameters and (turned_off is None or not isinstance(turned_off.default, bool)):
            options = ", ".join(f"--{parameter}" for parameter in parameters)
            raise ValueError(f"{name} has the options {options}, got --{option}{suggestion(option, parameters, '--')}.")


def spelled(function: Callable, arguments: Sequence[str]) -> list[str]:
    """Arguments spelled such that fire hands on what was meant.

    It takes ``false`` for a word, which would count as true, and what follows a bare ``--resume`` for its value:
    options that are true or false get their value as in Python. And it takes a folder called 2024 for a number, and one
    with a comma for two: where text or a path is expected, such words are quoted.
    """
    parameters, found = inspect.signature(function).parameters, list(arguments)
    positions = iter(parameters.values())
    place = 0
    while place < len(found) and found[place] != "--":  # what follows that is fire's own
        option, equals, value = found[place].partition("=")
        if not option.startswith("--"):
            found[place] = spelling(next(positions, None), found[place])
        elif parameter := parameters.get(option.removeprefix("--").replace("-", "_")):
            after = found[place + 1] if place + 1 < len(found) else "--"
            if equals:
                found[place] = f"{option}={spelling(parameter, value)}"
            elif after.lower() in BOOLEANS or not (isinstance(parameter.default, bool) or after.startswith("--")):
                place += 1
                found[place] = spelling(parameter, after)
            elif isinstance(parameter.default, bool):
                found[place] = f"{option}=True"
        place += 1
    return found


def spelling(parameter: inspect.Parameter | None, word: str) -> str:
    """The value of a parameter as it is meant."""
    if parameter is not None and isinstance(parameter.default, bool) and word.lower() in BOOLEANS:
        return word.capitalize()
    if parameter is None or str(parameter.annotation) not in TEXTS:
        return word
    return quoted(word)


def quoted(text: str) -> str:
    """A text as it is typed so that fire reads it as text: in quotes where it would be a number, a list, say."""
    from fire.parser import DefaultParseValue

    return text if DefaultParseValue(text) == text else repr(text)


def suggestion(word: str, known: Sequence[str] | Mapping[str, Any], prefix: str = "") -> str:
    """What was probably meant."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f": perhaps {prefix}{close[0]} is meant" if close else ""
