"""The table of results against numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.report import format_table, summarize, write_results
from common.report.results import Comparison, compare, describe, with_spread

WriteRun = Callable[..., Path]


def test_summarize_takes_nan_means_over_cases_then_over_classes(tmp_path: Path, write_run: WriteRun) -> None:
    run = write_run(tmp_path / "run", classes=("a", "b", "c"))
    (run / "test.csv").write_text(
        "case,label,iou,dice\n1,a,0.5,0.6\n1,b,,\n1,c,,\n2,a,0.7,0.8\n2,b,0.2,0.4\n2,c,,\n", encoding="utf-8"
    )
    results = summarize(run)
    assert list(results.columns) == ["method", "split", "label", "iou", "dice"]
    assert results["label"].tolist() == ["a", "b", "c", "mean"]
    assert results["iou"].tolist() == pytest.approx([0.6, 0.2, np.nan, 0.4], nan_ok=True)
    assert results["dice"].tolist() == pytest.approx([0.7, 0.4, np.nan, 0.55], nan_ok=True)


def test_summarize_orders_the_baseline_first_and_covers_every_run(comparison: Path) -> None:
    results = summarize(comparison)
    assert results["method"].drop_duplicates().tolist() == ["Supervised", "RPG"]
    assert len(results) == 2 * 3 * 6
    raw = pd.read_csv(comparison / "RPG_split1" / "test.csv")
    ours = results.query("method == 'RPG' and split == 1").set_index("label")["iou"]
    assert ours["heart"] == pytest.approx(np.nanmean(raw["iou"][raw["label"] == "heart"]))
    by_class = [np.nanmean(raw["iou"][raw["label"] == name]) for name in ours.index[:-1]]
    assert ours["mean"] == pytest.approx(np.mean(by_class))


def test_results_file_has_exactly_the_columns_and_reads_back(comparison: Path, tmp_path: Path) -> None:
    results = summarize(comparison)
    path = write_results(results, tmp_path / "new" / "results.csv")
    assert path.read_text().splitlines()[0] == "method,split,label,iou,dice"
    pd.testing.assert_frame_equal(pd.read_csv(path), results, check_dtype=False)
    assert [entry.name for entry in path.parent.iterdir()] == ["results.csv"]


def test_write_results_names_missing_columns(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dice"):
        write_results(pd.DataFrame(columns=["method", "split", "label", "iou"]), tmp_path / "results.csv")
    assert not list(tmp_path.iterdir())


def test_summarize_without_any_test_scores(tmp_path: Path, write_run: WriteRun) -> None:
    write_run(tmp_path / "run", parts=("train", "validation"))
    with pytest.raises(FileNotFoundError, match=r"test\.csv.*evaluate"):
        summarize(tmp_path)


def small_results(rpg: tuple[float, ...], supervised: tuple[float, ...]) -> pd.DataFrame:
    rows = [("RPG", split, "mean", value, value) for split, value in enumerate(rpg)]
    rows += [("Supervised", split, "mean", value, value) for split, value in enumerate(supervised)]
    return pd.DataFrame(rows, columns=["method", "split", "label", "iou", "dice"])


@pytest.mark.parametrize(
    ("rpg", "supervised", "expected"),
    [
        (
            (0.6, 0.7, 0.8),
            (0.5, 0.6, 0.7),
            "RPG 0.700 ± 0.100 against Supervised 0.600 ± 0.100 mean IoU over 3 splits; "
            "better in 3 of 3, by 0.100 on average.",
        ),
        (
            (0.5, 0.6, 0.71),
            (0.6, 0.7, 0.7),
            "RPG 0.603 ± 0.105 against Supervised 0.667 ± 0.058 mean IoU over 3 splits; "
            "worse in 2 of 3, by 0.063 on average.",
        ),
        (
            (0.61, 0.71, 0.4),
            (0.6, 0.7, 0.7),
            "RPG 0.573 ± 0.158 against Supervised 0.667 ± 0.058 mean IoU over 3 splits; "
            "better in 2 of 3, yet 0.093 lower on average.",
        ),
        (
            (0.59, 0.69, 1.0),
            (0.6, 0.7, 0.7),
            "RPG 0.760 ± 0.214 against Supervised 0.667 ± 0.058 mean IoU over 3 splits; "
            "better in 1 of 3, yet 0.093 higher on average.",
        ),
        (
            (0.6, 0.7),
            (0.6, 0.7),
            "RPG 0.650 ± 0.071 against Supervised 0.650 ± 0.071 mean IoU over 2 splits; "
            "better in 0 of 2, no difference on average.",
        ),
        ((0.5,), (0.6,), "RPG 0.500 against Supervised 0.600 mean IoU in a single split: worse by 0.100."),
        ((0.5, np.nan), (np.nan, 0.6), "RPG and Supervised have no split in common and cannot be compared."),
    ],
)
def test_the_sentence_says_who_won(rpg: tuple[float, ...], supervised: tuple[float, ...], expected: str) -> None:
    assert describe(compare(small_results(rpg, supervised), "RPG", "Supervised")) == expected


def test_comparison_pairs_by_split_and_not_by_position() -> None:
    results = small_results((0.9, 0.5), (0.8, 0.4)).sample(frac=1, random_state=1)
    results = results[~((results["method"] == "RPG") & (results["split"] == 0))]
    pairs = compare(results, "RPG", "Supervised")
    assert pairs.splits == [1]
    assert pairs.difference == pytest.approx([0.1])
    assert isinstance(pairs, Comparison)


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


def test_printed_table_holds_the_hand_computed_numbers() -> None:
    text = format_table(small_results((0.6, 0.8), (0.5, 0.6)))
    lines = text.splitlines()
    assert lines[0] == "IoU, mean ± standard deviation over 2 splits"
    assert lines[3].split() == ["Supervised", "0.550", "±", "0.071"]
    assert lines[4].split() == ["RPG", "0.700", "±", "0.141"]
    assert lines[6].split() == ["RPG", "−", "Supervised", "+0.150", "±", "0.071"]
    assert len({len(line) for line in (lines[1], lines[2], lines[3], lines[4], lines[6])}) == 1
