"""What reports say of classes that some cases lack, against numbers worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from html import unescape
from pathlib import Path

import pandas as pd
import pytest
from test_volume_page import page_of, text_of

from common.report import collect, load_run
from common.report.presence_tables import presence_of_run, presence_of_runs

WriteRun = Callable[..., Path]
CLASSES = ("irf", "ped")
TRUTH = {"irf": [0.5, 0.25, 0, 0], "ped": [1, 2, 3, 4]}
GOOD = {"irf": [0.5, 0.125, 0, 0.0625], "ped": [1, 2, 3, 4.25]}
BAD = {"irf": [0.5, 0, 0, 0.0625], "ped": [0, 2, 3, 4]}


@pytest.fixture
def write_fluids(tmp_path: Path, write_run: WriteRun) -> Callable[..., Path]:
    """Writes a run with these sizes, a row for each of four cases and each class."""

    def write(name: str, predicted: dict, truth: dict = TRUTH, unit: str = "mm3", **description: object) -> Path:
        run = write_run(tmp_path / name, parts=(), classes=CLASSES, **description)
        rows = [
            {"case": f"eye{case}", "class": label, "iou": 0.5, "dice": 0.6, "unit": unit}
            | {"truth_size": truth[label][case], "predicted_size": predicted[label][case]}
            for case in range(4)
            for label in CLASSES
        ]
        pd.DataFrame(rows).to_csv(run / "test.csv", index=False, float_format="%.6g")
        return run

    return write


def test_a_run_of_which_some_cases_lack_a_class(write_fluids: Callable[..., Path]) -> None:
    run = write_fluids("run", GOOD)
    found = presence_of_run(collect([load_run(run)]))
    assert found["heads"][1:] == [
        "cases with it", "without it", "sensitivity", "specificity", "ROC AUC", "|size error|, mm³", "size error, mm³",
    ]  # fmt: skip
    # irf: errors 0, -0.125, 0 and 0.0625; detected in one of the two cases that lack it, less than in those with it
    assert found["rows"] == [
        ("irf", ["2", "2", "1.000", "0.500", "1.000", "0.047", "−0.016"]),
        ("ped", ["4", "0", "1.000", "–", "–", "0.062", "+0.062"]),
    ]
    text = text_of(page_of(run))
    assert "Presence of classes Some test cases lack a class. A class is detected in a case if any of it is" in text
    assert "in which it is not. ROC AUC: of all pairs" in text
    assert "irf 2 2 1.000 0.500 1.000 0.047 −0.016 ped 4 0" in text
    assert text.index("Presence of classes") < text.index("Every case, lowest mean Dice first")
    assert "|size error|, mm³ 0.055 ± 0.074 0.031" in text  # of the further scores, by case 0, 0.0625, 0, 0.15625
    assert "nan" not in text.lower() and "mm3" not in text


@pytest.mark.parametrize("change", [{"truth_size": 1.0}, {"truth_size": float("nan")}, {}])
def test_nothing_is_told_where_all_cases_have_all_classes(write_fluids: Callable[..., Path], change: dict) -> None:
    run = write_fluids("run", GOOD)
    table = pd.read_csv(run / "test.csv")
    table = table.assign(**change) if change else table.drop(columns=["truth_size", "predicted_size"])
    table.to_csv(run / "test.csv", index=False)
    scores = collect([load_run(run)])
    assert presence_of_run(scores) is None and presence_of_runs(scores) is None
    assert "Presence of classes" not in page_of(run)


def test_a_comparison_of_single_runs(write_fluids: Callable[..., Path], tmp_path: Path) -> None:
    write_fluids("a", BAD, method="Supervised")
    write_fluids("b", GOOD)
    source = page_of(tmp_path)
    text = text_of(source)
    assert text.count("Presence of classes") == 1 and "A class is detected" not in text
    # ped is in every case and has no AUC; 0.5 is over both others, 0 ties with one of them
    assert "ROC AUC mean irf Supervised 0.625 0.625 RPG 1.000 1.000 |size error|" in text
    assert "|size error|, mm³ mean irf ped Supervised 0.164 0.078 0.250 RPG 0.055 0.047 0.062 The same cases" in text
    part = unescape(source[source.index("Presence of classes") :])
    assert [part.count(f'<td class="best">{value}</td>') for value in ("1.000", "0.055", "0.625", "0.164")] == [
        2,
        1,
        0,
        0,
    ]


def test_a_comparison_over_splits(write_fluids: Callable[..., Path], tmp_path: Path) -> None:
    """A draw in which every case has the class has no AUC, and is left out of its mean."""
    everywhere = {"irf": [1, 1, 1, 1], "ped": [1, 2, 3, 4]}
    for split, truth in enumerate((TRUTH, TRUTH, everywhere)):
        write_fluids(f"a{split}", BAD if split else GOOD, truth, split=split)
    found = presence_of_runs(collect([load_run(tmp_path / f"a{split}") for split in range(3)]))
    assert found["over"] == "mean ± standard deviation over 3 splits"
    auc, error = found["tables"]
    assert auc["heads"] == ["ROC AUC", "mean", "irf"]
    assert auc["rows"] == [("RPG", [("0.812 ± 0.265", False)] * 2, [])]  # 1 and 0.625
    assert error["heads"] == ["|size error|, mm³", "mean", "irf", "ped"]
    # irf: 0.046875, 0.140625 + 0.25 of 4 cases, and the misses of truths of 1
    irf = pd.Series([0.046875, (0.25 + 0.0625) / 4, (0.5 + 1 + 1 + 0.9375) / 4])
    assert error["rows"][0][1][1] == (f"{irf.mean():.3f} ± {irf.std():.3f}", False)
    assert "Each run has its own; the tables hold the mean ± standard deviation over 3 splits" in page_of(tmp_path)


def test_sizes_in_several_units_are_said_not_to_compare(write_fluids: Callable[..., Path], tmp_path: Path) -> None:
    write_fluids("a", GOOD, method="Supervised")
    write_fluids("b", GOOD)
    assert "do not compare" not in text_of(page_of(tmp_path))
    write_fluids("b", GOOD, unit="ml")
    assert "Sizes are in mm³ or ml, as each run was evaluated, and do not compare" in text_of(page_of(tmp_path))
