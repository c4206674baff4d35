"""Scores of all runs in one table, the comparison of two methods, and both as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .runs import BASELINE, Run
from .statistics import Difference, difference
from .text import count, number

MEAN = "mean"
NAMES = {MEAN: "mean over classes"}
SIGNIFICANT = 0.05
BY_UNIT = None  # digits of a size or distance
METRIC = ("ml", "mm²", "mm³")


@dataclass(frozen=True)
class Score:
    """How a column of test.csv is shown; `best` is max or min, or None where neither is better.

    Sizes and distances have the digits that `digits_of` tells.
    """

    title: str
    digits: int | None = 3
    best: str | None = "max"


# Sizes and distances have units, which differ between data sets: their titles are completed by `title_of`.
SCORES = {
    "iou": Score("IoU"),
    "dice": Score("Dice"),
    "hausdorff95": Score("Hausdorff 95 %, {distance}", BY_UNIT, "min"),
    "surface_dice": Score("surface Dice"),
    "precision": Score("precision"),
    "sensitivity": Score("sensitivity"),
    "slice_dice": Score("Dice of a slice with truth"),
    "slice_sensitivity": Score("sensitivity of a slice with truth"),
    "false_positive_area": Score("false-positive area of a slice without truth, {area}", BY_UNIT, "min"),
    "lesion_f1": Score("lesion F1"),
    "lesion_precision": Score("lesion precision"),
    "lesion_sensitivity": Score("lesion sensitivity"),
    "size_error": Score("size error, {size}", BY_UNIT, None),
    "absolute_size_error": Score("|size error|, {size}", BY_UNIT, "min"),
}
OVERLAPS = ("iou", "dice")


@dataclass(frozen=True)
class Comparison:
    """A method against a baseline; `pairs` has the columns method and baseline, its index is split, seed and case."""

    name: str
    baseline: str
    pairs: pd.DataFrame
    difference: Difference


def collect(runs: Sequence[Run], part: str = "test") -> pd.DataFrame:
    """Scores of all runs, one row per name, split, seed, case and class; runs without scores are left out.

    Part "validation" takes each run's best epoch instead, of which only the means over the cases are known.

    Raises:
        FileNotFoundError: if no run was evaluated.
    """
    tables = []
    for run in runs:
        if part == "test" and run.test is not None:
            table = run.test.drop(columns=["truth", "prediction"], errors="ignore")
        elif part == "validation" and run.best is not None:
            cells = {score: [run.best.get(f"{score}_{name}", np.nan) for name in run.classes] for score in OVERLAPS}
            table = pd.DataFrame({"case": "all", "class": run.classes} | cells)
        else:
            continue
        tables.append(
            pd.concat(
                [pd.DataFrame({"name": run.name, "split": run.split, "seed": run.seed}, table.index), table], axis=1
            )
        )
    if not tables:
        folders = ", ".join(str(run.folder) for run in runs)
        raise FileNotFoundError(f"one run of {folders} must hold {part}.csv, got none: evaluate the runs first")
    return pd.concat(tables, ignore_index=True)


def scores_in(table: pd.DataFrame) -> list[str]:
    """The scores that the table holds numbers of."""
    return [name for name in SCORES if name in OVERLAPS or (name in table and table[name].notna().any())]


def title_of(score: str, table: pd.DataFrame) -> str:
    """The title of a score, or a title as those of `SCORES`, with its unit; of areas and volumes in mm², mm³ and ml
    distances are in mm."""
    units = units_of(table) or ["unit unknown"]
    distances = dict.fromkeys("mm" if unit in METRIC else unit for unit in units)
    areas = dict.fromkeys("mm²" if unit in METRIC else unit.replace("voxels", "pixels") for unit in units)
    size = " or ".join(units)
    title = SCORES[score].title if score in SCORES else score
    return title.format(size=size, distance=" or ".join(distances), area=" or ".join(areas))


def units_of(table: pd.DataFrame) -> list[str]:
    """The units of the table's sizes as a reader sees them; none where it tells none."""
    found = table.get("unit", pd.Series(dtype=str)).dropna().unique()
    return [unit.replace("mm2", "mm²").replace("mm3", "mm³") for unit in found if unit]


def digits_of(digits: int | None, table: pd.DataFrame) -> int:
    """Digits behind the point: those given; where the unit decides, three with volumes in mm³, small ones, else two."""
    return digits if digits is not None else 3 if "mm³" in units_of(table) else 2


def summary_of(table: pd.DataFrame) -> pd.DataFrame:
    """Mean scores of what `collect` gives: one row per name, split, seed and class; "mean" is the mean over classes.

    A class's score is the mean over the cases in which it is defined; a class that has none is out of the mean.
    """
    draw, scores, found = ["name", "split", "seed"], scores_in(table), {}
    for key, own in table.groupby(draw, sort=False):
        found[key] = own.groupby("class", sort=False)[scores].mean()
        found[key].loc[MEAN] = found[key].mean()
    return pd.concat(found, names=[*draw, "class"]).reset_index()


def pairing(names: Sequence[str], baselines: Mapping[str, str] | None = None) -> dict[str, str]:
    """Which name is compared with which: by default every other one with Supervised, or else with the first."""
    names = list(dict.fromkeys(names))
    if baselines is None:
        baseline = BASELINE if BASELINE in names else names[0]
        return {name: baseline for name in names if name != baseline}
    unknown = [name for name in (*baselines, *baselines.values()) if name not in names]
    if unknown:
        raise ValueError(f"baselines must pair names of runs ({', '.join(names)}), got {', '.join(unknown)}")
    return dict(baselines)


def compare(table: pd.DataFrame, name: str, baseline: str, label: str = MEAN, score: str = "iou") -> Comparison:
    """Pair two names case by case; of a case, the classes count that are defined for both."""
    rows = table if label == MEAN else table[table["class"] == label]
    sides = [scores_by_case(rows[rows["name"] == side], score) for side in (name, baseline)]
    pairs = pd.concat(sides, axis=1, keys=["method", "baseline"], join="inner").dropna()
    pairs = pairs.groupby(level=["split", "seed", "case"]).mean()
    return Comparison(name, baseline, pairs, difference(*sides))


def scores_by_case(table: pd.DataFrame, score: str) -> pd.Series:
    """A score with the index split, seed, case and class; a case is known by its image's file where that is told.

    The same image has another name in a table where a namesake lies beside it.
    """
    cases = table["case"] if "image" not in table else table["image"].where(table["image"] != "", table["case"])
    return table.assign(case=cases).set_index(["split", "seed", "case", "class"])[score]


def cell_of(table: pd.DataFrame, name: str, label: str, score: str, several: bool) -> tuple[float, float]:
    """Mean and standard deviation of a name's score: over draws where there are `several`, else over cases."""
    own = table[(table["name"] == name) & ((table["class"] == label) | (label == MEAN))]
    draws = own.groupby(["split", "seed", "class"])[score].mean().groupby(level=["split", "seed"]).mean()
    values = draws if several else own.groupby("case")[score].mean()
    return float(draws.mean()), spread(values.dropna())


def spread(values: np.ndarray | pd.Series) -> float:
    """Sample standard deviation (n - 1), NaN for fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def with_spread(values: np.ndarray | pd.Series, signed: bool = False, digits: int = 3) -> str:
    """Mean ± standard deviation, e.g. "0.712 ± 0.031"; a dash where there is no value."""
    values = np.asarray(values, dtype=float)
    values = values[~np.isnan(values)]
    return plus_minus(values.mean() if len(values) else float("nan"), spread(values), signed, digits)


def plus_minus(mean: float, deviation: float, signed: bool = False, digits: int = 3) -> str:
    """The same of a mean and a deviation, which is left out where it is NaN."""
    text = number(mean, digits, signed)
    return text if np.isnan(mean) or np.isnan(deviation) else f"{text} ± {deviation:.{digits}f}"


def p_text(p: float) -> str:
    """A p-value as it is printed: "p = 0.021", "p < 0.001", nothing where there is none."""
    return "" if np.isnan(p) else "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def interval_text(found: Difference, digits: int = 3) -> str:
    """The interval as it is printed: "0.012 to 0.051", nothing where there is none."""
    return "" if np.isnan(found.low) else f"{number(found.low, digits)} to {number(found.high, digits)}"


def kind_of_draws(table: pd.DataFrame) -> str:
    """What differs from draw to draw: the split or, where there is one alone, the seed."""
    return "seed" if table["split"].nunique() == 1 and table["seed"].nunique() > 1 else "split"


def describe(comparison: Comparison, kind: str = "split") -> str:
    """The outcome in one sentence, honest when the method loses; `kind` as of `kind_of_draws`."""
    name, baseline, found = comparison.name, comparison.baseline, comparison.difference
    if not found.cases:
        return f"{name} and {baseline} have no case of the same {kind} in common and cannot be compared."
    values = comparison.pairs.groupby(level=kind).mean() if found.draws > 1 else comparison.pairs
    sides = [plus_minus(comparison.pairs[side].mean(), spread(values[side])) for side in ("method", "baseline")]
    over = f"over {count(found.draws, kind)}"
    if found.draws == 1:
        over = f"over {count(found.cases, 'case')} of one {kind}" if found.cases > 1 else "in a single case"
    size = f"{abs(found.mean):.3f}"
    verdict = "no difference" if size == "0.000" else f"{size} {'better' if found.mean > 0 else 'worse'}"
    wins = f", better in {found.better} of {found.draws} {kind}s" if found.draws > 1 else ""
    return f"{name} {sides[0]} against {baseline} {sides[1]} mean IoU {over}: {verdict}{_evidence(found)}{wins}."


def _evidence(found: Difference) -> str:
    """What interval and test say, in brackets; nothing for a single case, of which there is neither."""
    if found.cases < 2:
        return ""
    text = f"95 % interval {interval_text(found)}, Wilcoxon {p_text(found.p)} over {count(found.cases, 'case')}"
    unclear = found.low <= 0 <= found.high
    text += "; the interval holds 0: no difference shown" if unclear else ""
    # n differences of one sign give the smallest p there is, 2 / 2^n.
    if 2 ** (1 - found.cases) >= SIGNIFICANT:
        text += f"; {found.cases} cases are too few for p < {SIGNIFICANT} whatever the scores"
    elif found.p >= SIGNIFICANT and not unclear:
        text += "; not significant"
    return f" ({text})"


def labels_of(table: pd.DataFrame) -> list[str]:
    """Columns of a table of scores: the mean over classes, and every class where there are several."""
    classes = list(dict.fromkeys(table["class"]))
    return [MEAN, *classes] if len(classes) > 1 else [MEAN]


def over_text(table: pd.DataFrame) -> tuple[bool, str]:
    """Whether some method has several draws, and what tables of the runs are over, in words."""
    draws = table.groupby("name")[["split", "seed"]].apply(lambda own: len(own.drop_duplicates()))
    several, cases = bool(draws.max() > 1), table["case"].nunique()
    over = count(draws.max(), kind_of_draws(table)) if several else count(cases, "case")
    return several, f"mean ± standard deviation over {over}" if several or cases > 1 else "one case"
