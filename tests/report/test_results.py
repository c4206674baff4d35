"""The table of results and the sentence on it against numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.report import collect, find_runs, load_run
from common.report.results import (
    BY_UNIT,
    compare,
    describe,
    digits_of,
    kind_of_draws,
    p_text,
    summary_of,
    title_of,
    with_spread,
)

WriteRun = Callable[..., Path]
FEW = "are too few for p < 0.05 whatever the scores"


def write_scores(run: Path, text: str) -> Path:
    (run / "test.csv").write_text("case,class,iou,dice\n" + text, encoding="utf-8")
    return run


def test_a_summary_takes_nan_means_over_cases_then_over_classes(tmp_path: Path, write_run: WriteRun) -> None:
    run = write_run(tmp_path / "run", classes=("a", "b", "c"), split=2, seed=1)
    write_scores(run, "1,a,0.5,0.6\n1,b,,\n1,c,,\n2,a,0.7,0.8\n2,b,0.2,0.4\n2,c,,\n")
    results = summary_of(collect([load_run(run, "mine")]))
    assert list(results.columns) == ["name", "split", "seed", "class", "iou", "dice"]
    assert results[["name", "split", "seed"]].drop_duplicates().values.tolist() == [["mine", 2, 1]]
    assert results["class"].tolist() == ["a", "b", "c", "mean"]
    assert results["iou"].tolist() == pytest.approx([0.6, 0.2, np.nan, 0.4], nan_ok=True)
    assert results["dice"].tolist() == pytest.approx([0.7, 0.4, np.nan, 0.55], nan_ok=True)


def test_a_summary_covers_every_run(comparison: Path) -> None:
    results = summary_of(collect(find_runs(comparison)[0]))
    assert results["name"].drop_duplicates().tolist() == ["Supervised", "RPG"]
    assert len(results) == 2 * 3 * 6
    raw = pd.read_csv(comparison / "RPG_split1" / "test.csv")
    ours = results.query("name == 'RPG' and split == 1").set_index("class")["iou"]
    by_class = [np.nanmean(raw["iou"][raw["class"] == name]) for name in ours.index[:-1]]
    assert ours.tolist() == pytest.approx([*by_class, np.mean(by_class)])


def test_all_scores_of_every_case_are_collected(volume_comparison: Path) -> None:
    runs, _ = find_runs(volume_comparison)
    table = collect(runs)
    assert table.columns[:7].tolist() == ["name", "split", "seed", "case", "class", "dice", "iou"]
    assert len(table) == 2 * 2 * 2
    assert not {"truth", "prediction"} & set(table)
    own = pd.read_csv(volume_comparison / "pop1" / "test.csv")
    found = table.query("name == 'POPCORN' and seed == 1").reset_index(drop=True)
    for column in ("case", "class", "iou", "dice", "precision", "hausdorff95", "truth_size", "lesion_f1", "unit"):
        assert found[column].tolist() == own[column].tolist()
    assert found["size_error"].tolist() == pytest.approx((own["predicted_size"] - own["truth_size"]).tolist())


def test_runs_without_any_test_scores(tmp_path: Path, write_run: WriteRun) -> None:
    runs = [load_run(write_run(tmp_path / "run", parts=("train", "validation")))]
    with pytest.raises(FileNotFoundError, match=r"test\.csv.*evaluate"):
        collect(runs)


def small(method: np.ndarray, baseline: np.ndarray) -> pd.DataFrame:
    """What `collect` gives, of draws x cases of a single class."""
    rows = [
        {"name": name, "split": split, "seed": 0, "case": f"c{case}", "class": "a", "iou": value, "dice": value}
        for name, values in (("RPG", method), ("Supervised", baseline))
        for split, row in enumerate(np.atleast_2d(values))
        for case, value in enumerate(row)
    ]
    return pd.DataFrame(rows)


def sentence(method: np.ndarray, baseline: np.ndarray) -> str:
    return describe(compare(small(method, baseline), "RPG", "Supervised"))


def test_the_sentence_says_by_how_much_and_how_sure() -> None:
    base = np.linspace(0.3, 0.6, 8)
    change = 0.1 + 0.01 * np.arange(8) - 0.035
    text = sentence(np.stack([base + change, base + change + 0.02]), np.stack([base, base]))
    assert text.startswith(
        "RPG 0.560 ± 0.014 against Supervised 0.450 ± 0.000 mean IoU over 2 splits: 0.110 better (95 %"
    )
    assert text.endswith(", Wilcoxon p = 0.008 over 8 cases), better in 2 of 2 splits.")
    text = sentence(base - change, base)
    assert text.startswith("RPG 0.350 ± 0.08")
    assert "mean IoU over 8 cases of one split: 0.100 worse (95 % interval −0." in text
    assert text.endswith("Wilcoxon p = 0.008 over 8 cases).")


@pytest.mark.parametrize(
    ("method", "baseline", "expected"),
    [
        ([0.5, 0.6, 0.7], [0.4, 0.49, 0.58], f"p = 0.250 over 3 cases; 3 cases {FEW})."),
        ([0.6, 0.41, 0.58, 0.43, 0.56, 0.45, 0.54], [0.5] * 7, "; the interval holds 0: no difference shown)."),
        ([0.5], [0.6], "RPG 0.500 against Supervised 0.600 mean IoU in a single case: 0.100 worse."),
        ([[0.5], [0.7]], [[0.4], [0.5]], "over 2 splits: 0.150 better, better in 2 of 2 splits."),
        ([0.5, 0.7], [0.5, 0.7], "no difference (95 % interval 0.000 to 0.000, Wilcoxon p = 1.000 over 2 cases; the "
         f"interval holds 0: no difference shown; 2 cases {FEW})."),
        ([0.5, np.nan], [np.nan, 0.6], "RPG and Supervised have no case of the same split in common and cannot be "
         "compared."),
    ],
)  # fmt: skip
def test_the_sentence_says_what_cannot_be_said(method: list, baseline: list, expected: str) -> None:
    assert sentence(np.array(method), np.array(baseline)).endswith(expected)


def test_cases_are_paired_by_draw_and_class_and_not_by_position() -> None:
    table = small([[0.9, 0.5], [0.7, 0.6]], [[0.8, 0.4], [0.3, 0.3]]).sample(frac=1, random_state=1)
    table = table[~((table["name"] == "RPG") & (table["split"] == 1) & (table["case"] == "c0"))]
    found = compare(table, "RPG", "Supervised")
    assert sorted(found.pairs.index.tolist()) == [(0, 0, "c0"), (0, 0, "c1"), (1, 0, "c1")]
    assert found.difference.mean == pytest.approx((0.1 + 0.1 + 0.3) / 3)
    # A class that one of the two lacks in a case is no part of that case's mean.
    extra = table[table["split"] == 0].assign(**{"class": "b", "iou": 0.0})
    extra.loc[(extra["name"] == "RPG") & (extra["case"] == "c0"), "iou"] = np.nan
    found = compare(pd.concat([table, extra]), "RPG", "Supervised").pairs
    assert found.loc[[(0, 0, "c0")]].to_numpy().tolist() == [[0.9, 0.8]]
    assert found.loc[[(0, 0, "c1")]].to_numpy().tolist() == [[0.25, 0.2]]


@pytest.mark.parametrize(
    ("values", "signed", "expected"),
    [
        ([0.5, 0.7], False, "0.600 ± 0.141"),
        ([0.5, np.nan], False, "0.500"),
        ([np.nan], False, "–"),
        ([-0.1, -0.2], True, "−0.150 ± 0.071"),
        ([0.1], True, "+0.100"),
        ([-0.0001], True, "0.000"),
    ],
)
def test_with_spread(values: list[float], signed: bool, expected: str) -> None:
    assert with_spread(np.array(values), signed) == expected


def test_p_values_units_and_draws_in_words() -> None:
    assert [p_text(p) for p in (np.nan, 0.00049, 0.0214)] == ["", "p < 0.001", "p = 0.021"]
    for units, size, distance, area, digits in (
        (["ml"], "ml", "mm", "mm²", 2),
        (["mm2", ""], "mm²", "mm", "mm²", 2),
        (["mm3"], "mm³", "mm", "mm²", 3),
        (["pixels"], "pixels", "pixels", "pixels", 2),
        (["voxels"], "voxels", "voxels", "pixels", 2),
    ):
        table = pd.DataFrame({"unit": units})
        assert digits_of(BY_UNIT, table) == digits and digits_of(0, table) == 0
        assert title_of("absolute_size_error", table) == f"|size error|, {size}"
        assert title_of("hausdorff95", table) == f"Hausdorff 95 %, {distance}"
        assert title_of("false_positive_area", table) == f"false-positive area of a slice without truth, {area}"
    for draws, kind in (([(0, 0), (1, 0)], "split"), ([(0, 0), (0, 1)], "seed"), ([(0, 0), (0, 1), (1, 0)], "split")):
        assert kind_of_draws(pd.DataFrame(draws, columns=["split", "seed"])) == kind
