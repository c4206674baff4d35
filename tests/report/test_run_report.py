"""Which charts of pseudo-labels a run's report has, by the columns of its log."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd

from common.report.run_report import pseudo_label_charts

COLORS = {"lung": "series-1", "heart": "series-2"}
TERMS = {f"{name}_{term}": [0.5, 0.25] for name in ("gradient", "agreement") for term in ("supervised", "strong")}
WEIGHT = {"pseudo_accuracy": [0.5, 0.7], "accuracy_weight": [0.6, 0.8], "auc_weight": [0.5, 0.9]}
PARTS = {"accuracy_RankSimilarity": [0.7, 0.7], "auc_RankSimilarity": [0.7, 0.6]}


def titles(columns):
    train = pd.DataFrame({"iteration": [10, 20], **columns})
    return {chart.title: chart for chart in pseudo_label_charts(SimpleNamespace(train=train), COLORS)}


def test_a_weight_is_judged_beside_its_factors():
    charts = titles(WEIGHT | PARTS)
    assert list(charts) == ["Pseudo-label accuracy", "Does the weight know what is right?"]
    assert all("RankSimilarity alone" in str(chart.legend) for chart in charts.values())


def test_terms_have_a_chart_each_of_what_their_gradients_come_from():
    charts = titles(
        TERMS | {f"gradient_strong_{name}": [0.1, 0.2] for name in COLORS} | {"view_accuracy_strong": [0.9, 0.8]}
    )
    assert list(charts) == [
        "Gradient by term",
        "Gradient of strong by class",
        "Agreement with what is asked",
        "Accuracy on the view",
    ]
    assert "heart" in str(charts["Gradient of strong by class"].legend)


def test_a_single_term_and_no_log_have_none():
    assert titles({"gradient_supervised": [1, 1], "agreement_supervised": [0.5, 0.6]}) == {}
    assert pseudo_label_charts(SimpleNamespace(train=None), COLORS) == []
