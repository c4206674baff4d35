"""What was tried in a campaign of faults, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

REFUSED, SAME, ACCEPTED = "refused", "without effect", "wrongly accepted"


@dataclass(frozen=True)
class Tried:
    """One fault.

    Args:
        kind: the class of faults it belongs to, a row of the table.
        verdict: refused; without effect, where the result is that of the whole thing; or wrongly accepted.
        detail: what it was, for those that were wrongly accepted.
    """

    kind: str
    verdict: str
    detail: str = ""


@dataclass(frozen=True)
class Setting:
    """What a campaign works with: an empty folder, its own draws, how often each fault is tried."""

    folder: Path
    rng: np.random.Generator
    times: int


Campaign = Callable[[Setting], Iterator[Tried]]


def refusal(action: Callable[[], object], *said: str) -> str | None:
    """What an action was refused with in one sentence that has all that is to be said; None where it was not.

    Raises:
        AssertionError: when it was refused, but not with what is to be said.
    """
    try:
        action()
    except (OSError, ValueError, RuntimeError, SystemExit) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # what wraps it is a library's
            cause = cause.__cause__
        text = f"{error} {cause}"
        missing = [part for part in said if part not in text]
        assert not missing, f"{missing[0]!r} is not in {text!r}"
        return text
    return None


def verdict(action: Callable[[], object], *said: str) -> str:
    return ACCEPTED if refusal(action, *said) is None else REFUSED


def table(tried: list[Tried]) -> str:
    """Counts by class, in Markdown."""
    frame = pd.DataFrame([(one.kind, one.verdict) for one in tried], columns=["fault", "verdict"])
    counts = pd.crosstab(frame.fault, frame.verdict).reindex(frame.fault.unique())
    counts = counts.reindex(columns=[REFUSED, SAME, ACCEPTED], fill_value=0)
    counts.insert(0, "tried", counts.sum(axis=1))
    counts.loc["all"] = counts.sum()
    rows = [["fault", *counts.columns], ["---"] * 5, *([name, *map(str, row)] for name, row in counts.iterrows())]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
