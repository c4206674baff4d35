"""Overlays, looked at pixel by pixel."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from runs_on_disk import pixels

from common.report.cases import case_rows, case_scores, draw_masks, draw_weight, load_cases, mask_iou, weight_ceiling
from common.report.runs import load_run
from common.report.style import CLASS_COLORS, class_colors


def test_a_panel_shows_rows_as_rows() -> None:
    image = np.zeros((10, 20))
    image[:5, 15:] = 1
    drawn = pixels(draw_masks(image))
    assert drawn.shape == (200, 400, 3)
    assert drawn[20, 380].tolist() == [1, 1, 1]
    assert drawn[180, 380].tolist() == [0, 0, 0]
    assert drawn[20, 20].tolist() == [0, 0, 0]


def test_overlapping_masks_both_stay_visible() -> None:
    masks = np.zeros((2, 40, 40), dtype=bool)
    masks[0, 5:35, 5:35] = True
    masks[1, 15:25, 15:25] = True
    drawn = pixels(draw_masks(np.full((40, 40), 0.5), masks, list(CLASS_COLORS[:2])))
    large, small = (np.asarray(to_rgb(color)) for color in CLASS_COLORS[:2])
    tinted = 0.7 * 0.5 + 0.3 * large
    assert drawn[100, 100] == pytest.approx(tinted, abs=0.01)
    assert drawn[200, 200] == pytest.approx(0.7 * tinted + 0.3 * small, abs=0.01)
    assert np.abs(drawn[200, 45:56] - large).sum(-1).min() < 0.05
    assert np.abs(drawn[200, 145:156] - small).sum(-1).min() < 0.05


def test_empty_and_full_masks_draw() -> None:
    masks = np.stack([np.zeros((8, 8), bool), np.ones((8, 8), bool)])
    assert pixels(draw_masks(np.zeros((8, 8)), masks, list(CLASS_COLORS[:2]))).shape == (400, 400, 3)


def test_weights_share_one_scale() -> None:
    low, high = pixels(draw_weight(np.full((4, 4), 0.2))), pixels(draw_weight(np.full((4, 4), 0.8)))
    assert high.mean() > low.mean() + 0.1
    assert pixels(draw_weight(np.full((4, 4), 7.0))) == pytest.approx(pixels(draw_weight(np.ones((4, 4)))))


def test_the_weight_scale_ends_at_a_round_number_above_all_cases(one_run: Path) -> None:
    cases = load_cases(load_run(one_run))
    assert weight_ceiling(cases) == 1.0
    assert weight_ceiling([replace(case, weight=0.13 * case.weight) for case in cases]) == 0.2
    assert weight_ceiling([cases[0], replace(cases[1], weight=0 * cases[1].weight)]) == 1.0
    assert weight_ceiling([replace(cases[0], weight=None)]) == 1.0
    assert weight_ceiling([replace(cases[0], weight=3 + cases[0].weight)]) == 1.0
    half = pixels(draw_weight(np.full((4, 4), 0.1), 0.2))
    assert half == pytest.approx(pixels(draw_weight(np.full((4, 4), 0.5))))


def test_iou_of_masks() -> None:
    truth = np.array([[1, 1, 0, 0]], dtype=bool)
    prediction = np.array([[0, 1, 1, 0]], dtype=bool)
    assert mask_iou(truth, prediction) == pytest.approx(1 / 3)
    assert np.isnan(mask_iou(truth & False, truth & False))


def test_scores_of_a_case_come_from_the_table_where_it_lists_the_case(one_run: Path) -> None:
    run = load_run(one_run)
    case = load_cases(run)[0]
    assert case.name == "JPCLN012"
    expected = run.test[run.test["case"] == "JPCLN012"]["iou"].tolist()
    assert list(case_scores(case, run).values()) == pytest.approx(expected)
    other = load_cases(run)[1]
    expected = [mask_iou(truth, drawn) for truth, drawn in zip(other.truth, other.prediction, strict=True)]
    assert list(case_scores(other, run).values()) == pytest.approx(expected)


def test_colors_are_distinct_for_many_classes() -> None:
    for count in (1, 5, 8, 9, 72):
        assert len(set(class_colors(tuple(map(str, range(count)))).values())) == count


def test_of_a_stack_the_slice_is_told(one_run: Path) -> None:
    run = load_run(one_run)
    assert [row["facts"] for row in case_rows([run])["cases"]] == [
        "test case of split 0; hardest",
        "test case of split 0; median",
    ]
    for file in (one_run / "cases" / "test").iterdir():
        arrays = dict(np.load(file))
        np.savez_compressed(file, **arrays, slice=np.array(12))
    facts = [row["facts"] for row in case_rows([run])["cases"]]
    assert facts[0] == "test case of split 0; hardest; slice 12, which holds most of the truth"
