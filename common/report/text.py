"""Numbers and names as a reader wants them."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any


def plain(name: str) -> str:
    """A column's or class's name with spaces."""
    return str(name).replace("_", " ")


def number(value: float, digits: int = 3, signed: bool = False) -> str:
    """A number with a typographic minus, as wide as a plus; a rounded zero has no sign, NaN is a dash."""
    if math.isnan(value):
        return "–"
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    return text[1:] if text[0] in "+-" and float(text) == 0 else text.replace("-", "−")


def duration(seconds: float | None) -> str:
    """Seconds in words: "45 s", "12 min 34 s", "2 h 5 min"."""
    if seconds is None:
        return "unknown time"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def moment(value: datetime) -> str:
    """Day and time: "31 January 2026, 12:05"."""
    return f"{value.day} {value:%B %Y, %H:%M}"


def setting(value: Any) -> str:
    """A setting's value: short floats, no quotes, yes and no."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(setting, value)) or "none"
    return str(value)


def count(number: float, singular: str) -> str:
    """A counted noun: "1 split", "3 splits"."""
    return f"{number:,.0f} {singular}" + ("" if number == 1 else "s")
