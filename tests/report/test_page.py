"""Reports as a reader gets them: complete, self-contained, and honest about what is missing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.metrics.pseudo_label import COUNTS_ABOVE
from common.report import find_runs, load_run, render, render_runs

TABLES = ("train", "validation", "test")
WriteRun = Callable[..., Path]


class Page(HTMLParser):
    """Collects addresses, visible text and unclosed tags of a page."""

    VOID = frozenset({"meta", "img", "br", "link"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(self.source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)


def page_of(folder: Path) -> Page:
    page = Page(render(folder))
    assert not page.open
    return page


def assert_self_contained(page: Page) -> None:
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", page.source)
    assert "url(" not in page.source
    assert "@import" not in page.source


def test_a_run_becomes_one_self_contained_page(one_run: Path, classes: tuple[str, ...]) -> None:
    page = page_of(one_run)
    assert_self_contained(page)
    assert "RPG on phantom, split 0, seed 0" in page.text
    assert "trained for 12 min 34 s and 600 iterations, on 31 January 2026, 12:05." in page.text
    for name in classes:
        assert name.replace("_", " ") in page.text
        assert f'data-class="{name}"' in page.source
    for title in (
        "Validation",
        "Training loss",
        "Learning rate",
        "Pseudo-label accuracy",
        "Pixels that count",
        "Weight",
    ):
        assert title in page.text
    assert page.text.index("JPCLN012 test case of split 0; hardest") < page.text.index(
        "JPCLN044 test case of split 0; median"
    )
    # 2 cases with 5 panels each, and 7 charts in 2 colour schemes each.
    assert len(page.addresses) == 2 * 5 + 7 * 2
    assert [path.name for path in one_run.iterdir() if "report" in path.name] == ["report.html"]


def test_the_caption_names_the_weight_above_which_pixels_count(one_run: Path) -> None:
    assert f"with a weight over {COUNTS_ABOVE}" in page_of(one_run).text


def test_the_class_table_holds_means_over_cases(one_run: Path, classes: tuple[str, ...]) -> None:
    scores = pd.read_csv(one_run / "test.csv")
    page = page_of(one_run)
    means = []
    for name in classes:
        iou = scores.loc[scores["class"] == name, "iou"].to_numpy()
        means.append(np.nanmean(iou))
        row = re.search(rf"{name.replace('_', ' ')} (0\.\d+) 0\.\d+ (0\.\d+) (0\.\d+) (\d+) ", page.text).groups()
        expected = [means[-1], np.nanstd(iou, ddof=1), np.nanmin(iou)]
        assert list(row) == [*(f"{value:.3f}" for value in expected), str(int((~np.isnan(iou)).sum()))]
    assert f"Mean IoU {np.mean(means):.3f}, Dice 0." in page.text


def test_supervised_has_no_pseudo_labels_and_says_so(tmp_path: Path, write_run: WriteRun) -> None:
    page = page_of(write_run(tmp_path / "run", "Supervised"))
    assert "Supervised learns from the labelled images alone" in page.text
    assert "Pseudo-label accuracy" not in page.text
    assert "weight 0" not in page.text


def test_a_run_without_test_scores_shows_its_best_validation_epoch(tmp_path: Path, write_run: WriteRun) -> None:
    run = write_run(tmp_path / "run", parts=("train", "validation"), iterations=300)
    validation = pd.read_csv(run / "validation.csv")
    validation.loc[:, "iou_mean"] = [0.1, 0.2, 0.9, 0.3, 0.2, np.nan]
    validation.to_csv(run / "validation.csv", index=False)
    page = page_of(run)
    assert "has not been evaluated on its test part" in page.text
    assert "best validation epoch (3)" in page.text
    assert "its state after epoch 6 of 12" in page.text
    assert f"{validation.loc[2, 'iou_heart']:.3f}" in page.text
    assert "No pictures of cases were saved" in page.text


def test_a_run_stopped_at_once_still_renders(tmp_path: Path, write_run: WriteRun, classes: tuple[str, ...]) -> None:
    run = write_run(tmp_path / "run", parts=())
    (run / "train.csv").write_text("\n")
    (run / "validation.csv").write_text(
        "epoch,iteration,iou_mean," + ",".join(f"iou_{name}" for name in classes) + "\n"
    )
    page = page_of(run)
    assert "There are no scores yet" in page.text
    assert page.addresses == []


def test_a_class_absent_from_truth_and_prediction(tmp_path: Path, write_run: WriteRun) -> None:
    run = write_run(tmp_path / "run")
    scores = pd.read_csv(run / "test.csv")
    scores.loc[scores["class"] == "left_clavicle", ["iou", "dice"]] = np.nan
    scores.to_csv(run / "test.csv", index=False)
    for path in (run / "cases" / "test").iterdir():
        arrays = dict(np.load(path))
        arrays["truth"][4] = arrays["prediction"][4] = 0
        np.savez(path, **arrays)
    page = page_of(run)
    assert re.search(r"left clavicle – – – – 0 mean over classes", page.text)
    assert re.search(r"RPG 0\.\d{3}( 0\.\d{3}){4} absent", page.text)
    assert "nan" not in page.text.lower()


def test_names_are_escaped(tmp_path: Path, write_run: WriteRun) -> None:
    run = write_run(tmp_path / "run <1> & 'co'", method="<script>alert(1)</script>", classes=("<b>", 'quo"te'))
    for path in (run / "cases" / "test").iterdir():
        path.unlink()
    page = page_of(run)
    assert "script" not in page.tags
    assert "b" not in page.tags
    assert "<script>alert(1)</script> on phantom" in page.text
    assert "run <1> & 'co'" in page.text


def test_a_comparison_starts_with_its_outcome(comparison: Path) -> None:
    page = page_of(comparison)
    assert_self_contained(page)
    outcome = re.search(r"RPG (0\.\d{3}) ± 0\.\d{3} against Supervised (0\.\d{3}) ± 0\.\d{3} mean IoU over 3 splits: "
                        r"(0\.\d{3}) better \(95 % interval 0\.\d{3} to 0\.\d{3}, Wilcoxon p < 0\.001 over 20 cases\), "
                        r"better in 3 of 3 splits\.", page.text)  # fmt: skip
    rpg, supervised, better = map(float, outcome.groups())
    assert rpg - supervised == pytest.approx(better, abs=0.0011)
    assert outcome.start() < page.text.index("Every case on its own") < page.text.index("JPCLN012 test case")
    assert "RPG − Supervised" in page.text
    # 6 rows of cases with 6 panels, and 3 charts in 2 colour schemes each.
    assert len(page.addresses) == 6 * 6 + 3 * 2


def test_a_comparison_says_when_the_method_loses(tmp_path: Path, write_run: WriteRun) -> None:
    for split in range(2):
        write_run(tmp_path / f"a{split}", "RPG", split, 0.5, parts=("test",))
        write_run(tmp_path / f"b{split}", "Supervised", split, 0.7, parts=("test",))
    page = page_of(tmp_path)
    assert re.search(r"0\.\d{3} worse \(95 % interval .*, better in 0 of 2 splits\.", page.text)
    bold = re.findall(r'<td class="best">([^<]*)</td>', page.source)
    supervised = page.source.split("</span>Supervised</th>")[1].split("</tr>")[0]
    assert len(bold) == 12
    assert all(cell in supervised for cell in bold[:6])


def test_a_comparison_with_gaps(tmp_path: Path, write_run: WriteRun) -> None:
    write_run(tmp_path / "a", "RPG", 0, parts=("test", "validation", "cases"))
    write_run(tmp_path / "b", "Supervised", 0)
    write_run(tmp_path / "c", "Supervised", 1, parts=("train",))
    write_run(tmp_path / "d", "FixMatch", 1, parts=("test",))
    next((tmp_path / "a" / "cases" / "test").glob("median*")).unlink()
    page = page_of(tmp_path)
    assert "Left out of tables, with no test scores yet: Supervised split 1, seed 0." in page.text
    assert "not run on the same splits and seeds" in page.text
    assert "FixMatch and Supervised have no case of the same split in common" in page.text
    assert "over 20 cases of one split" in page.text
    assert "not saved" in page.text


def test_a_comparison_of_runs_in_memory(tmp_path: Path, write_run: WriteRun) -> None:
    """Names, their order, the headline and what is compared with what are the caller's."""
    runs = []
    for name in ("b, 3 labelled", "a, 3 labelled", "b, 9 labelled", "a, 9 labelled"):
        folder = write_run(tmp_path / "cells" / name, parts=("test",), quality=0.6 + 0.1 * (name[0] == "a"))
        runs.append(load_run(folder, name))
    pairs = {"a, 3 labelled": "b, 3 labelled", "a, 9 labelled": "b, 9 labelled"}
    page = Page(render_runs(runs, tmp_path / "page.html", "Number of labels", pairs))
    assert page.text.startswith("Number of labels Comparison of 4 runs")
    table = page.text[page.text.index("best in bold") :]
    rows = [table.index(f"{name} 0.") for name in ("b, 3 labelled", "a, 3 labelled", "b, 9 labelled")]
    assert rows == sorted(rows)
    assert "a, 9 labelled − b, 9 labelled +0." in page.text
    assert "a, 9 labelled − b, 3 labelled" not in page.text
    with pytest.raises(ValueError, match=r"baselines must pair names of runs .*, got nobody"):
        render_runs(runs, tmp_path / "page.html", baselines={"a, 3 labelled": "nobody"})
    with pytest.raises(ValueError, match="must have runs"):
        render_runs([], tmp_path / "page.html")


def test_without_supervised_the_first_is_the_baseline(tmp_path: Path, write_run: WriteRun) -> None:
    write_run(tmp_path / "a", "A", 0, parts=("test",))
    assert re.search(r"A 0\.\d{3} ± 0\.\d{3} mean IoU; there is no other method", page_of(tmp_path).text)
    write_run(tmp_path / "b", "B", 0, parts=("test",))
    assert "B against A" in page_of(tmp_path).text


def test_many_cases_are_paired_by_split_and_cut_in_the_table(tmp_path: Path, write_run: WriteRun) -> None:
    for method in ("Supervised", "RPG"):
        run = write_run(tmp_path / method, method, parts=("test",))
        scores = pd.read_csv(run / "test.csv")
        more = [scores.assign(case=scores["case"] + f"_{copy}", dice=scores["dice"] / copy) for copy in range(1, 5)]
        pd.concat(more).to_csv(run / "test.csv", index=False)
    assert "Every split on its own" in page_of(tmp_path).text
    text = page_of(tmp_path / "RPG").text
    assert "20 of 80 cases, those of the highest Dice, are left out here." in text
    assert re.search(r"Case Dice IoU Dice, right lung .* JPCLN\d{3}_4 0\.", text)
    assert not re.search(r"JPCLN\d{3}_1 ", text)


def test_a_comparison_before_any_evaluation(tmp_path: Path, write_run: WriteRun) -> None:
    write_run(tmp_path / "a", "RPG", 0, parts=("validation",))
    write_run(tmp_path / "b", "Supervised", 0, parts=("validation",))
    text = page_of(tmp_path).text
    assert "No run has been evaluated on its test part" in text
    assert re.search(r"RPG 0\.\d{3} against Supervised 0\.\d{3} mean IoU in a single case: ", text)


def test_the_report_goes_where_it_is_asked_to(one_run: Path, tmp_path: Path) -> None:
    path = render(one_run, tmp_path / "elsewhere" / "page.html")
    assert path == tmp_path / "elsewhere" / "page.html"
    assert path.is_file()
    assert not (one_run / "report.html").exists()


def test_runs_are_found_in_cells_and_ordered(tmp_path: Path, write_run: WriteRun) -> None:
    for name, seed in (("B", 1), ("B", 0), ("Supervised", 0), ("A", 0)):
        write_run(tmp_path / "cells" / f"{name}{seed}", "Same", parts=(), name=name, seed=seed)
    runs, several = find_runs(tmp_path)
    assert several
    found = [(run.name, run.method, run.draw) for run in runs]
    assert found == [(n, "Same", (0, s)) for n, s in (("Supervised", 0), ("A", 0), ("B", 0), ("B", 1))]


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        render(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"must hold run\.json .* or sub-folders"):
        render(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("run.json", "{", "must be valid JSON"),
        ("run.json", '{"method": "RPG"}', "must have classes"),
        ("run.json", '{"method": "RPG", "classes": ["a"], "started": "today"}', "started must be a date"),
        ("train.csv", "epoch,loss\n1,2\n", r"train\.csv must have the columns.*iteration missing"),
        ("train.csv", "iteration,loss\n1,high\n", "column loss must hold numbers"),
        ("train.csv", "iteration,loss\n1,2\n1,2,3,4\n", "equally many cells"),
        ("validation.csv", "epoch,iteration,iou_mean\n1,2,0.5\n", "iou_right_lung.*missing"),
        ("test.csv", "case,class,iou\n1,heart,0.5\n", "dice missing"),
        ("test.csv", "case,class,iou,dice\n1,liver,0.5,0.6\n", "got liver"),
        ("run.json", '{"method": "a", "classes": ["b"], "seed": "x"}', "seed must be an integer, got 'x'"),
        ("run.json", "[" * 100000, "must be valid JSON, got brackets within brackets"),
        ("run.json", '{"method": "\u00e4"}'.encode("latin-1"), "must be text in UTF-8"),
        ("run.json", '{"method": "a", "classes": 5}', "classes must be a list of different names, got 5"),
        ("run.json", '{"method": "a", "classes": ["b", "b"]}', "classes must be a list of different names"),
        ("run.json", '{"method": ["a"], "classes": ["b"]}', r"method must be a text, got \['a'\]"),
        ("run.json", '{"method": "a", "classes": ["b"], "mode": "x"}', "mode must be one of multilabel, multiclass"),
        ("run.json", '{"method": "a", "classes": ["b"], "settings": 5}', "settings must be an object, got 5"),
        ("run.json", '{"method": "a", "classes": ["b"], "seconds": "12"}', "seconds must be a number from 0, got '12'"),
        ("run.json", '{"method": "a", "classes": ["b"], "seconds": NaN}', "seconds must be a number from 0, got nan"),
        ("run.json", '{"method": "a", "classes": ["b"], "started": "0001-01-01T00:00"}', "started must be a date"),
        *[(f"{table}.csv", "", "must be a table, got an empty file: evaluate or") for table in TABLES],
        *[(f"{table}.csv", "case,class,iou".encode("utf-16"), "must be text in UTF-8, got other") for table in TABLES],
        *[(f"{table}.csv", None, "must be a table, got a folder") for table in TABLES],
        *[(f"{table}.csv", "nowhere", "must be a table, got a link to nothing") for table in TABLES],
        ("test.csv", "case,class,iou,dice\n1,heart,7,0.6\n", "column iou must hold numbers from 0 to 1, got 7 to 7"),
        ("test.csv", "case,class,iou,dice\n1,heart,0.5,inf\n", "column dice must hold numbers from 0 to 1, got inf"),
        ("train.csv", "iteration,loss\n" + "1" * 200000 + ",2\n", "column iteration must hold numbers"),
    ],
)
def test_malformed_files_are_named(one_run: Path, name: str, text: str | bytes | None, message: str) -> None:
    path = one_run / name
    if text is None or text == "nowhere":
        path.unlink()
        path.mkdir() if text is None else path.symlink_to(one_run / "nowhere")
    else:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message) as caught:
        render(one_run)
    assert str(one_run / name) in str(caught.value)
    assert not (one_run / "report.html").exists()


def test_a_table_that_was_cut_off_is_no_evaluation(one_run: Path) -> None:
    rows = (one_run / "test.csv").read_text().splitlines()
    (one_run / "test.csv").write_text("\n".join(rows[:-2]) + "\n")
    with pytest.raises(ValueError, match=r"test\.csv: each case must have each class, got JPCLN019 with 3 of 5"):
        render(one_run)


def test_cases_called_na_are_cases(one_run: Path) -> None:
    (one_run / "test.csv").write_text((one_run / "test.csv").read_text().replace("JPCLN000", "NA"))
    assert ">NA<" in render(one_run).read_text()


def test_a_folder_in_the_place_of_the_report(one_run: Path) -> None:
    (one_run / "report.html").mkdir()
    with pytest.raises(IsADirectoryError, match=r"report\.html must be a file to write, got a folder: remove it"):
        render(one_run)
    assert not list(one_run.glob(".report*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"truth": None}, "must hold image, truth and prediction"),
        ({"truth": np.zeros((2, 96, 96))}, r"truth must have the shape \(5, 96, 96\)"),
        ({"image": np.zeros((3, 96, 96))}, r"image must have the shape \(H, W\)"),
        ({"weight": np.zeros((9, 9))}, r"weight must have the shape \(96, 96\)"),
    ],
)
def test_malformed_cases_are_named(one_run: Path, change: dict, message: str) -> None:
    path = next((one_run / "cases" / "test").glob("hardest*"))
    arrays = {key: value for key, value in (dict(np.load(path)) | change).items() if value is not None}
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=message):
        render(one_run)
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="readable"):
        render(one_run)


def test_runs_that_cannot_be_compared(tmp_path: Path, write_run: WriteRun) -> None:
    write_run(tmp_path / "a", "RPG", 0, parts=())
    other = write_run(tmp_path / "b", "RPG", 0, parts=())
    with pytest.raises(ValueError, match="each method must have each split and seed once"):
        render(tmp_path)
    (other / "run.json").write_text(json.dumps({"method": "RPG", "split": 1, "classes": ["liver"]}))
    with pytest.raises(ValueError, match="same classes"):
        render(tmp_path)
