"""Values, means and differences of tables against values computed by hand, and how they are written."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pandas as pd
import pytest
import yaml

from common.grid.cells import Grid, expand
from common.grid.chart import _settled, mean_curve, write_chart, write_curves
from common.grid.grid_file import read_grid
from common.grid.scores import Scores, write_results
from common.grid.tables import fill, write_csv
from common.grid.text import render
from common.report.results import MEAN

CLASSES = ["organ", "bone"]
VALUES = {"Supervised": 0.5, "NearestNeighbor": 0.61, "RPG": 0.72}


@pytest.fixture
def grid(spread_out, tiny) -> Grid:
    tiny["tables"]["classes"] = {"baseline": "Supervised", "columns": "classes", "labeled": [3]}
    tiny["tables"]["classes"]["rows"] = tiny["tables"]["methods"]["rows"][::2]
    return spread_out(tiny)


@pytest.fixture
def scores(grid) -> Scores:
    """Scores that rise with the number of labelled images and, for RPG more than for others, with the split."""
    tables = {}
    for cell in grid.cells.values():
        mean = VALUES[cell.method] + 0.01 * cell.labeled + (0.03 if cell.method == "RPG" else 0.01) * cell.split
        rows = [
            {"case": case, "class": name, "iou": mean + sign * 0.1 + shift}
            for case, shift in (("a", -0.02), ("b", 0.0), ("c", 0.02))
            for name, sign in (("organ", 1), ("bone", -1))
        ]
        tables[cell.name] = pd.DataFrame(rows).assign(dice=0.5)
    return Scores(tables, {name: 10.0 for name in tables}, [])


def test_means_and_standard_deviations(grid, scores):
    content = fill(grid.tables[0], scores, CLASSES)
    entry = content.entries["RPG", 4]
    assert entry.mean == pytest.approx((0.76 + 0.79) / 2)
    assert entry.deviation == pytest.approx(statistics.stdev([0.76, 0.79]))
    assert content.seconds["RPG"] == 10.0


def test_rows_are_paired_with_the_baseline_by_column_and_over_all(grid, scores):
    content = fill(grid.tables[0], scores, CLASSES)
    column, everything = content.differences["RPG", 3], content.differences["RPG", "all"]
    assert (column.cases, everything.cases, column.draws, everything.draws) == (
        3,
        3,
        2,
        2,
    )  # columns of one split are no draws
    assert column.mean == pytest.approx((0.22 + 0.24) / 2) == everything.mean
    assert column.low <= column.mean <= column.high and column.high - column.low == pytest.approx(0.02)
    assert column.p == everything.p == pytest.approx(0.25)  # three cases of one sign
    assert not any(name == "Supervised" for name, _ in content.differences)


def test_columns_by_class_and_by_another_setting(grid, scores):
    classes = fill(grid.tables[2], scores, CLASSES)
    assert classes.columns == ["organ", "bone", MEAN]
    assert classes.entries["Supervised", "organ"].mean == pytest.approx(0.5 + 0.03 + 0.005 + 0.1)
    assert ("RPG", "all") not in classes.differences
    shares = fill(grid.tables[1], scores, CLASSES)
    assert shares.heads == ["k = 50 %", "k = 100 %"]
    assert shares.differences["RPG, p = 2", "all"].draws == 2


def test_csv_of_a_table(grid, scores, tmp_path):
    table = pd.read_csv(write_csv(fill(grid.tables[0], scores, CLASSES), tmp_path / "methods.csv"))
    row = table[(table["row"] == "RPG") & (table["column"] == "all")].iloc[0]
    assert (row["baseline"], row["cases"], row["draws"], row["wilcoxon_p"]) == ("Supervised", 3, 2, 0.25)
    assert (row["better_draws"], row["wilcoxon_p_draws"]) == (2, 0.5)
    assert len(table) == 3 * 2 + 2
    assert table["mean"].iloc[0] == pytest.approx(0.535)


def test_results_have_a_row_for_each_cell_case_and_class(grid, scores, tmp_path):
    table = pd.read_csv(write_results(grid, scores, tmp_path / "results.csv"))
    assert len(table) == len(grid.cells) * 3 * 2
    assert {
        "cell",
        "method",
        "neighbors",
        "labeled_batch",
        "labeled",
        "split",
        "seed",
        "case",
        "class",
        "iou",
        "dice",
    } <= {*table.columns}
    assert table.loc[table["method"] == "Supervised", "neighbors"].isna().all()
    # given in one table alone: the cell that it shares with another, and all others, have the default
    assert set(table["labeled_batch"]) == {2, 3}
    assert (table.loc[table["method"] != "RPG", "labeled_batch"] == 3).all()


def test_results_say_what_the_bundle_gives_its_method(tmp_path):
    content = {
        "bundle": "acdc_unimatch",
        "data": {"phantom": "acdc"},
        "splits": [0],
        "labeled": 3,
        "tables": {
            "losses": {
                "baseline": "Dice",
                "rows": [
                    {"name": "Dice", "method": "UniMatch"},
                    {"name": "cross-entropy", "method": "UniMatch", "unsupervised_loss": None},
                ],
            }
        },
    }
    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump(content))
    grid = expand(read_grid(file), lambda labeled, split: (labeled, split))
    scores = {name: pd.DataFrame({"case": ["a"], "class": ["heart"], "iou": [0.5]}) for name in grid.cells}
    path = write_results(grid, Scores(scores, dict.fromkeys(grid.cells, 1.0), []), tmp_path / "results.csv")
    loss = pd.read_csv(path).set_index("cell")["unsupervised_loss"]
    own, cross_entropy = grid.cells
    assert "common.losses.Dice" in loss[own] and pd.isna(loss[cross_entropy])


def without(scores: Scores, lost: list[str], failed: list[str]) -> Scores:
    tables = {name: table for name, table in scores.cases.items() if name not in lost}
    return Scores(tables, {name: scores.seconds[name] for name in tables}, failed)


def test_text_with_failed_and_missing_cells(grid, scores, tmp_path):
    nearest, rpg = grid.tables[0].rows[1], grid.tables[0].rows[2]
    failed = [nearest.cells[3, (0, 0)], nearest.cells[3, (1, 0)], rpg.cells[3, (1, 0)]]
    left = without(scores, [*failed, nearest.cells[4, (0, 0)], nearest.cells[4, (1, 0)]], failed)
    contents = [fill(table, left, CLASSES) for table in grid.tables]
    text = render(grid, contents, left, tmp_path)
    assert "13 of 18 cells have finished, 3 failed." in text
    nearest_line = next(line for line in text.splitlines() if line.startswith("| Nearest"))
    assert [part.strip() for part in nearest_line.split("|")[2:6]] == ["failed", "not run", "-", "2"]
    assert "**0.750** (1 of 2)" in text
    assert "**0.775 ± 0.021**" in text
    assert "+0.220 [+0.220, +0.220], p = 0.25, n = 3 |" in text  # of a single split
    assert "n = 3; 2 of 2 better, p = 0.5 |" in text
    assert f"`{failed[0]}`: see" in text
    assert "95 % bootstrap interval" in text


def test_a_cell_that_cannot_exist_is_a_dash(spread_out, tiny, tmp_path):
    tiny["tables"]["methods"]["rows"][2] = {"method": "RPG", "labeled_batch": 4}
    grid = spread_out(tiny)
    empty = Scores({}, {}, [])
    contents = [fill(table, empty, CLASSES) for table in grid.tables]
    assert math.isnan(contents[0].entries["RPG", 3].mean)
    line = next(line for line in render(grid, contents, empty, tmp_path).splitlines() if line.startswith("| RPG "))
    assert [part.strip() for part in line.split("|")[2:4]] == ["-", "not run"]


def test_figure_of_a_table_over_numbers_of_labelled_images(grid, scores, tmp_path):
    png, svg = write_chart(fill(grid.tables[0], scores, CLASSES), tmp_path)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert {"Supervised", "Nearest", "RPG", "mean IoU"} <= {part.split("<")[0] for part in svg.read_text().split(">")}
    assert write_chart(fill(grid.tables[1], scores, CLASSES), tmp_path) == []
    assert sorted(file.name for file in tmp_path.glob("methods.[ps]*")) == ["methods.png", "methods.svg"]


@pytest.fixture
def drawn(spread_out, tiny):
    tiny["tables"]["methods"]["curves"] = ["pixel_share", "auc_weight", "no_such"]
    return spread_out(tiny)


def test_curves_are_means_of_what_trainings_have_logged(drawn, tmp_path, capsys):
    nearest = drawn.tables[0].rows[1]
    table = pd.DataFrame({"iteration": [10, 20], "loss": 1.0, "pixel_share": [0.2, 0.4]})
    trainings = {
        nearest.cells[3, (0, 0)]: table,
        nearest.cells[3, (1, 0)]: table.assign(pixel_share=[0.4, 0.8]),
        nearest.cells[4, (0, 0)]: table.assign(auc_weight=[0.5, 0.6]),
    }
    mean = mean_curve(nearest, 3, "pixel_share", trainings)
    assert mean.to_dict() == pytest.approx({10: 0.3, 20: 0.6})
    longer = {**trainings, nearest.cells[3, (0, 0)]: pd.DataFrame({"iteration": [20, 30], "pixel_share": [0.2, 0.5]})}
    assert mean_curve(nearest, 3, "pixel_share", longer).to_dict() == pytest.approx({10: 0.4, 20: 0.5, 30: 0.5})
    assert mean_curve(nearest, 3, "iteration", trainings).to_dict() == {10: 10, 20: 20}
    content = fill(drawn.tables[0], Scores({}, {}, []), CLASSES)
    png, svg = write_curves(content, trainings, tmp_path)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert png.name == "methods_curves.png"
    words = {part.split("<")[0] for part in svg.read_text().split(">")}
    assert {"pixel share", "auc weight", "3 labelled", "4 labelled", "Nearest", "iteration"} <= words
    assert "RPG" not in words  # has logged none of them
    assert "no such" not in words
    assert capsys.readouterr().out == "methods: no training has logged 'no_such', which is one of its curves.\n"
    assert write_curves(content, {}, tmp_path) == []
    assert list(tmp_path.glob("methods_curves.*")) == []


def test_curves_of_one_column_leave_room_for_what_comes_after_the_start(spread_out, tiny, tmp_path):
    tiny["tables"]["methods"] |= {"curves": ["pixel_share", "auc_weight", "loss"], "labeled": 3}
    grid = spread_out(tiny)
    table = pd.DataFrame({"iteration": range(1, 101), "pixel_share": [0.0] * 9 + [0.8] * 90 + [0.9], "loss": 1.0})
    trainings = {grid.tables[0].rows[1].cells[3, (0, 0)]: table.assign(auc_weight=0.5)}
    assert _settled([table.set_index("iteration")["pixel_share"]]) == pytest.approx((0.791, 0.909))
    assert _settled([pd.Series([0.5, 0.5], [10, 20])]) == pytest.approx((0.495, 0.505))
    assert _settled([pd.Series([1.0, np.inf, 3.0], [10, 20, 30])]) == pytest.approx((0.9, 3.1))
    assert _settled([pd.Series([np.inf], [10])]) is None
    png, svg = write_curves(fill(grid.tables[0], Scores({}, {}, []), CLASSES), trainings, tmp_path)
    assert png.read_bytes().startswith(b"\x89PNG")
    words = [part.split("<")[0] for part in svg.read_text().split(">")]
    assert all(words.count(word) == 1 for word in ("pixel share", "auc weight", "loss", "3 labelled", "Nearest"))
    assert words.count("iteration") == 2  # below the last panel of each column


def test_a_table_without_curves_has_no_such_figure(grid, tmp_path, capsys):
    trainings = {name: pd.DataFrame({"iteration": [10], "loss": [1.0]}) for name in grid.cells}
    assert write_curves(fill(grid.tables[0], Scores({}, {}, []), CLASSES), trainings, tmp_path) == []
    assert capsys.readouterr().out == ""


def test_an_earlier_figure_goes_where_there_is_nothing_to_draw(grid, scores, tmp_path):
    write_chart(fill(grid.tables[0], scores, CLASSES), tmp_path)
    assert write_chart(fill(grid.tables[0], Scores({}, {}, []), CLASSES), tmp_path) == []
    assert list(tmp_path.glob("methods.[ps]*")) == []
