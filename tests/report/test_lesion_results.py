"""Tables over volumes against numbers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata

from common.report import format_lesion_table, lesion_results, write_lesion_results
from common.report.lesion_results import compare_volumes, outcome, p_text, volume_means, wilcoxon_p

HEAD = "case,image,label,prediction,dice,precision,sensitivity,lesion_f1,load_error_ml\n"


def write(folder: Path, method: str, seed: int, rows: list[str], name: str | None = None) -> Path:
    folder.mkdir(parents=True)
    settings = {"seed": seed, "spatial dims": 3} | ({"name": name} if name else {})
    (folder / "run.json").write_text(json.dumps({"method": method, "classes": ["lesion"], "settings": settings}))
    if rows:
        (folder / "volumes.csv").write_text(HEAD + "\n".join(rows) + "\n")
    return folder


def row(case: str, dice: str, rest: str = "0.5,0.5,0.5,-1") -> str:
    return f"{case},/i.nii.gz,/l.nii.gz,p.nii.gz,{dice},{rest}"


def table(scores: dict[str, list[list[float]]]) -> pd.DataFrame:
    """Dice of each method as seeds x volumes; the other scores the same."""
    rows = [
        {"method": method, "seed": seed, "volume": f"v{volume}", "dice": dice, "load_error": 1.0}
        for method, seeds in scores.items()
        for seed, volumes in enumerate(seeds)
        for volume, dice in enumerate(volumes)
    ]
    return pd.DataFrame(rows).assign(**{n: lambda t: t["dice"] for n in ("precision", "sensitivity", "lesion_f1")})


def exact_p(difference: np.ndarray) -> float:
    """Two-sided p of the signed-rank test by counting all 2^n signs; no ties, no zeros."""
    ranks = rankdata(np.abs(difference))
    signs = np.array(np.meshgrid(*[[0, 1]] * len(ranks))).reshape(len(ranks), -1)
    sums, found = ranks @ signs, ranks[difference > 0].sum()
    return float(min(1, 2 * min((sums >= found).mean(), (sums <= found).mean())))


def test_one_row_for_each_run_and_volume(tmp_path: Path) -> None:
    write(tmp_path / "a", "Popcorn", 1, [row("x", "0.5", "0.4,,0.6,-2"), row("y", "", ",0,0,3")], name="POPCORN")
    write(tmp_path / "b", "Supervised", 0, [row("x", "0.25")])
    write(tmp_path / "c", "Supervised", 1, [])
    results = lesion_results(tmp_path)
    assert list(results) == ["method", "seed", "volume", "dice", "precision", "sensitivity", "lesion_f1"]
    expected = [
        ["Supervised", 0, "x", 0.25, 0.5, 0.5, 0.5],
        ["POPCORN", 1, "x", 0.5, 0.4, np.nan, 0.6],
        ["POPCORN", 1, "y", np.nan, np.nan, 0, 0],
    ]
    order = results.sort_values(["method", "volume"], ascending=[False, True], ignore_index=True)
    pd.testing.assert_frame_equal(order, pd.DataFrame(expected, columns=list(results)), check_dtype=False)
    path = write_lesion_results(tmp_path)
    assert path == tmp_path / "results.csv"
    pd.testing.assert_frame_equal(pd.read_csv(path), results, check_dtype=False)


def test_without_any_evaluation(tmp_path: Path) -> None:
    write(tmp_path / "a", "Popcorn", 0, [])
    with pytest.raises(FileNotFoundError, match=r"run with volumes\.csv"):
        lesion_results(tmp_path)


def test_a_volume_counts_once_however_many_seeds() -> None:
    results = table({"Supervised": [[0.2, 0.4], [0.4, np.nan]], "POPCORN": [[0.5, 0.6], [0.7, 0.2]]})
    means = volume_means(results, "dice")
    assert list(means) == ["Supervised", "POPCORN"]
    np.testing.assert_allclose(means, [[0.3, 0.6], [0.4, 0.4]])
    comparison = compare_volumes(results, "POPCORN")
    np.testing.assert_allclose(comparison.difference, [0.3, 0])
    assert comparison.splits == ["v0", "v1"]


def test_volumes_without_a_score_of_both_are_left_out() -> None:
    results = table({"Supervised": [[0.2, np.nan, 0.3]], "POPCORN": [[0.5, 0.6, np.nan]]})
    assert compare_volumes(results, "POPCORN").splits == ["v0"]


@pytest.mark.parametrize("seed", range(3))
def test_wilcoxon_counts_all_signs(seed: int) -> None:
    difference = np.random.default_rng(seed).normal(0.3, 1, 9)
    assert wilcoxon_p(difference) == pytest.approx(exact_p(difference))


def test_a_difference_in_the_last_bit_is_none() -> None:
    assert np.isnan(wilcoxon_p(np.array([0.1 + 0.2 - 0.3, 0.0])))
    assert [p_text(p) for p in (np.nan, 0.00049, 0.0214)] == ["", "p < 0.001", "p = 0.021"]


@pytest.mark.parametrize(
    ("volumes", "shift", "expected"),
    [
        (8, 0.1, "better in 8 of 8, by 0.100 on average (Wilcoxon p = 0.008)."),
        (8, -0.1, "worse in 8 of 8, by 0.100 on average (Wilcoxon p = 0.008)."),
        (5, 0.1, "(Wilcoxon p = 0.062; 5 volumes are too few for p < 0.05 whatever the scores)."),
        (1, 0.1, "in a single volume: better by 0.100."),
    ],
)
def test_the_sentence_says_what_the_test_can(volumes: int, shift: float, expected: str) -> None:
    base = np.linspace(0.3, 0.6, volumes)
    # Different sizes with the mean `shift`: the exact test knows no ties.
    change = shift * (1 + 0.1 * (np.arange(volumes) - (volumes - 1) / 2))
    assert outcome(table({"Supervised": [base], "POPCORN": [base + change]}), "POPCORN").endswith(expected)


def test_the_sentence_when_it_may_be_chance() -> None:
    base = np.full(7, 0.5)
    change = np.array([0.1, -0.09, 0.08, -0.07, 0.06, -0.05, 0.04])
    text = outcome(table({"Supervised": [base], "POPCORN": [base + change]}), "POPCORN")
    assert text.endswith(f"(Wilcoxon {p_text(exact_p(change))}, not significant).")
    assert "better in 4 of 7, by 0.010 on average" in text


def test_the_printed_table_holds_the_hand_computed_numbers() -> None:
    results = table({"POPCORN": [[0.5, 0.7], [0.7, 0.7]], "Supervised": [[0.4, 0.5], [0.4, 0.5]]})
    lines = format_lesion_table(results).splitlines()
    assert lines[0].startswith("mean ± standard deviation over 2 volumes, each the mean over 2 seeds; p of")
    assert lines[1].split() == ["Dice", "precision", "sensitivity", "lesion", "F1"]
    # POPCORN: 0.6 and 0.7; Supervised: 0.4 and 0.5; differences 0.2 and 0.2.
    assert lines[3].split()[:4] == ["Supervised", "0.450", "±", "0.071"]
    assert lines[4].split()[:4] == ["POPCORN", "0.650", "±", "0.071"]
    assert lines[6].split()[:6] == ["POPCORN", "−", "Supervised", "+0.200", "±", "0.000,"]
    alone = format_lesion_table(results[results["method"] == "POPCORN"])
    assert "Supervised" not in alone
    assert "Wilcoxon" not in alone
