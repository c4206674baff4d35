"""The tables of a grid as Markdown that also reads well in a terminal."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.grid.cells import Grid
from common.grid.grid_file import CLASSES, LABELED, SCORES
from common.grid.scores import Scores, log_of
from common.grid.tables import ALL, Contents, Entry
from common.report.results import with_spread
from common.report.statistics import Difference
from common.report.text import count

DASH = "-"
OF_DRAWS = (
    " Last, the number of splits (or seeds) in which the row is better than the baseline, and p of the same test over "
    "them, as if they were independent; they draw from the same patients."
)


def render(grid: Grid, contents: Sequence[Contents], scores: Scores, output: Path) -> str:
    """All tables with their captions, and the cells that failed."""
    finished, total = len(scores.cases), len(grid.cells)
    parts = [f"# {grid.file.path.stem}", f"    python -m common grid {shlex.join([str(grid.file.path), str(output)])}"]
    state = f"{finished} of {total} cells have finished"
    parts.append(f"{state}, {len(scores.failed)} failed." if scores.failed else f"{state}.")
    for content in contents:
        parts += [f"## {content.table.name}: {content.table.title}", *_table(content), *_differences(content)]
    if scores.failed:
        lines = [f"- `{name}`: see {log_of(grid.cells[name], output)}" for name in scores.failed]
        parts.append("\n".join(["## Failed", "", *lines]))
    return "\n\n".join(parts) + "\n"


def _table(content: Contents) -> list[str]:
    best = _best(content)
    lines = [[SCORES[content.table.score], *content.heads, "seconds", "failed"]]
    for row in content.table.rows:
        cells = [_place(content.entries[row.name, c], row.name in best.get(c, ())) for c in content.columns]
        seconds = content.seconds[row.name]
        lines.append(
            [
                row.name,
                *cells,
                f"{seconds:.0f}" if np.isfinite(seconds) else DASH,
                str(len(content.failed[row.name])),
            ]
        )
    return [markdown(lines), _caption(content)]


def _caption(content: Contents) -> str:
    table = content.table
    what = "" if table.column_key == CLASSES else ", mean over classes"
    seeds = len({seed for _, seed in table.draws})
    draws = count(len(table.draws) // seeds, "split") + (f" x {count(seeds, 'seed')}" if seeds > 1 else "")
    over = "one split" if len(table.draws) == 1 else f"mean ± standard deviation over {draws}"
    text = f"Test cases{what}: {over}; "
    if table.column_key != LABELED:
        text += f"{table.labeled[0]} labelled images; "
    text += "bold: the highest mean; seconds: of training, mean over runs."
    if table.left_out:
        text += f" {DASH}: no such run, since the labelled images of a step are at most all labelled images."
    return text


def _best(content: Contents) -> dict:
    """Names of the rows with the highest mean in each column, as rounded; none where there is nothing to compare."""
    best = {}
    for column in content.columns:
        means = {row.name: round(content.entries[row.name, column].mean, 3) for row in content.table.rows}
        means = {name: value for name, value in means.items() if np.isfinite(value)}
        if len(means) > 1:
            best[column] = [name for name, value in means.items() if value == max(means.values())]
    return best


def _place(entry: Entry, best: bool) -> str:
    if not entry.expected:
        return DASH
    if not entry.values:
        return "failed" if entry.failed else "not run"
    text = with_spread(np.array(list(entry.values.values())))
    text = f"**{text}**" if best else text
    missing = entry.expected - len(entry.values)
    return f"{text} ({len(entry.values)} of {entry.expected})" if missing else text


def _differences(content: Contents) -> list[str]:
    if not content.differences:
        return []
    pooled = any(column == ALL for _, column in content.differences)
    columns = [*content.columns, *([ALL] if pooled else [])]
    lines = [[f"against {content.table.baseline}", *content.heads, *(["all"] if pooled else [])]]
    for row in content.table.rows:
        if row.name != content.table.baseline:
            lines.append([row.name, *(_difference(content.differences[row.name, column]) for column in columns)])
    text = (
        f"Mean difference of {SCORES[content.table.score]} to {content.table.baseline} on the same test cases (each "
        "the mean over its classes), with its 95 % bootstrap interval, for which splits (or seeds) and cases are drawn "
        "anew; p of the two-sided Wilcoxon signed-rank test over n cases, each the mean over the splits: it speaks of "
        f"these trainings, the interval of others, too; {DASH}: nothing to compare."
    )
    return [markdown(lines), text + (OF_DRAWS if len(content.table.draws) > 1 else "")]


def _difference(found: Difference) -> str:
    if not found.cases:
        return DASH
    mean, *ends = (with_spread(np.array([value]), signed=True) for value in (found.mean, found.low, found.high))
    text = f"{mean} [{ends[0]}, {ends[1]}], p = {found.p:.2g}" if np.isfinite(found.p) else mean
    text += f", n = {found.cases}"
    return f"{text}; {found.better} of {found.draws} better, p = {found.draws_p:.2g}" if found.draws > 1 else text


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table, the first line its head; columns are padded to one width."""
    cells = [[str(cell).replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(3, *(len(line[column]) for line in cells)) for column in range(len(cells[0]))]
    padded = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in cells]
    return "\n".join([padded[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *padded[1:]])
