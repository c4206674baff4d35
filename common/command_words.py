"""The words after a command of ``python -m common``: what it does not take is refused, the rest spelled for fire."""

from __future__ import annotations

import ast
import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from common.command_line import suggestion

BOOLEANS = {"true", "false"}
TEXTS = {"str", "str | None", "str | Path", "str | Path | None"}  # annotations


class Word(NamedTuple):
    """An argument as typed: its place among the words, its parameter, the option's name with ``--``, empty where the
    order alone tells, and its value, None where there is none; `joined` says whether they are one word."""

    place: int
    parameter: inspect.Parameter | None
    option: str
    value: str | None
    joined: bool = False


def words(function: Callable, arguments: Sequence[str]) -> Iterator[Word]:
    """The arguments of a function, up to ``--``: what follows that is fire's own."""
    parameters = inspect.signature(function).parameters
    named = {parameter_name(argument) for argument in arguments if argument.startswith("--")}
    positions = iter([parameter for name, parameter in parameters.items() if name not in named])
    place = 0
    while place < len(arguments) and arguments[place] != "--":
        option, equals, value = arguments[place].partition("=")
        parameter = parameters.get(parameter_name(option))
        after = arguments[place + 1] if place + 1 < len(arguments) else "--"
        true_or_false = parameter is not None and isinstance(parameter.default, bool)
        if not option.startswith("--"):
            yield Word(place, next(positions, None), "", arguments[place])
        elif equals:
            yield Word(place, parameter, option, value, joined=True)
        elif parameter is None or (after.startswith("--") and not true_or_false):
            yield Word(place, parameter, option, None)
        elif true_or_false and after.lower() not in BOOLEANS:
            yield Word(place, parameter, option, "True", joined=True)
        else:
            yield Word(place, parameter, option, after)
            place += 1
        place += 1


def parameter_name(argument: str) -> str:
    """What the parameter of an option is called."""
    return argument.removeprefix("--").partition("=")[0].replace("-", "_")


def refuse_unfit(name: str, function: Callable, arguments: Sequence[str]) -> None:
    """Refuses what a command does not take, before it does anything.

    Raises:
        ValueError: naming the command and an option that it does not have, one that is given twice, that needs a value
            or gets another kind of it, an argument too many or one that is missing.
    """
    parameters = inspect.signature(function).parameters
    given: list[str] = []
    for word in words(function, arguments):
        option = word.option or (word.value if re.match("-[A-Za-z]", word.value) else "")
        if option and (word.parameter is None or not word.option):
            _refuse_unknown(name, option, parameters)
        elif word.parameter is None:
            raise ValueError(f"{name} takes {len(parameters)} arguments, got one more: {word.value}.")
        else:
            given.append(word.parameter.name)
            if given.count(word.parameter.name) > 1:
                raise ValueError(f"{name} takes --{word.parameter.name} once, got it twice: give one value.")
            expected = misfit(word.parameter, word.value)
            if expected:
                found = "none" if word.value is None else repr(word.value)
                raise ValueError(f"{name}: --{word.parameter.name} must be {expected}, got {found}.")
    missing = [p.name.upper() for p in parameters.values() if p.default is p.empty and p.name not in given]
    if missing:
        raise ValueError(f"{name} needs {' and '.join(missing)}, got none: {name} --help explains it.")


def _refuse_unknown(name: str, option: str, parameters: Mapping[str, inspect.Parameter]) -> None:
    word = parameter_name(option)
    turned_off = parameters.get(word.removeprefix("no"))  # fire's way to say false
    if option.startswith("--") and turned_off is not None and isinstance(turned_off.default, bool):
        return
    options = ", ".join(f"--{parameter}" for parameter in parameters)
    option = f"--{word}" if option.startswith("--") else option
    raise ValueError(f"{name} has the options {options}, got {option}{suggestion(word, parameters, '--')}.")


def misfit(parameter: inspect.Parameter, text: str | None) -> str | None:
    """What the value of an option must be, where it is not; None where it is."""
    from fire.parser import DefaultParseValue

    kinds = set(str(parameter.annotation).split(" | "))
    value = None if text is None else DefaultParseValue(text)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if text is None or (not text.strip() and parameter.default != ""):
        return "given with a value"
    if isinstance(value, dict) and len(ast.parse(text.strip(), mode="eval").body.keys) != len(value):
        return "a mapping with each name once"
    if value is None and "None" in kinds:
        return None
    if kinds <= {"int", "None"}:
        return None if number and isinstance(value, int) else "a whole number"
    if kinds <= {"float", "None"}:
        return None if number and math.isfinite(value) else "a number"
    if kinds == {"bool"}:
        return None if text.lower() in BOOLEANS else "true or false"
    if kinds & {"list", "Sequence[str]"}:
        return None if isinstance(value, (list, tuple, str)) else "a list, as [a, b]"
    if {"str", "int"} <= kinds:
        return None if isinstance(value, str) or (number and isinstance(value, int)) else "a folder or a whole number"
    return None


def spelled(function: Callable, arguments: Sequence[str]) -> list[str]:
    """Arguments spelled such that fire hands on what was meant.

    It takes ``false`` for a word, which would count as true, and what follows a bare ``--resume`` for its value:
    options that are true or false get their value as in Python. And it takes a folder called 2024 for a number, and one
    with a comma for two: where text or a path is expected, such words are quoted.
    """
    found = list(arguments)
    for word in words(function, arguments):
        if word.value is None:
            continue
        value = spelling(word.parameter, word.value)
        if word.joined:
            found[word.place] = f"{word.option}={value}"
        else:
            found[word.place + bool(word.option)] = value
    return found


def spelling(parameter: inspect.Parameter | None, word: str) -> str:
    """The value of a parameter as it is meant."""
    if parameter is not None and isinstance(parameter.default, bool) and word.lower() in BOOLEANS:
        return word.capitalize()
    if parameter is None:
        return word
    if str(parameter.annotation) in TEXTS or any(not isinstance(part, str) for part in _paths(parameter, word)):
        return quoted(word)
    return word


def _paths(parameter: inspect.Parameter, word: str) -> list[Any]:
    """The folders of a mapping of classes to folders, as fire reads them: one called 1e3 as a number."""
    from fire.parser import DefaultParseValue

    value = DefaultParseValue(word) if re.search("dict|Mapping", str(parameter.annotation)) else None
    return list(value.values()) if isinstance(value, dict) else []


def quoted(text: str) -> str:
    """A text as it is typed so that fire reads it as text: in quotes where it would be a number, a list, say."""
    from fire.parser import DefaultParseValue

    return text if DefaultParseValue(text) == text else repr(text)
