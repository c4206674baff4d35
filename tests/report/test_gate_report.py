"""Curves and pictures of a gate in the report of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from common.report import render
from common.report.gate import gate_charts, gate_rows
from common.report.runs import load_run

WriteRun = Callable[..., Path]

TITLES = [
    "Accepted by the gate",
    "Dice of accepted and refused",
    "ROC AUC of the gate",
    "What the discriminator says",
    "Loss of the discriminator",
]
COLUMNS = {
    "accepted": 0.5,
    "dice_accepted": 0.8,
    "dice_refused": 0.4,
    "gate_auc": 0.7,
    "discriminator_real": 0.6,
    "discriminator_fake": 0.4,
    "discriminator_loss": 1.3,
}


def with_columns(folder: Path, columns: dict) -> Path:
    table = pd.read_csv(folder / "train.csv")
    table.assign(**columns).to_csv(folder / "train.csv", index=False)
    return folder


def save_examples(folder: Path, classes: int, **changes) -> None:
    draw = np.random.default_rng(0)
    arrays = {
        "image": draw.random((4, 8, 8)),
        "pseudo_label": draw.integers(0, 2, (4, classes, 8, 8)),
        "truth": draw.integers(0, 2, (4, classes, 8, 8)),
        "accepted": np.array([1.0, 0.8, 0.5, 0.0]),
        "score": np.array([0.9, 0.8, 0.4, 0.3]),
        "dice": np.array([0.91, np.nan, 0.62, np.nan]),
        "name": np.array(["a", "b", "c", "d"]),
    }
    np.savez(folder / "gate.npz", **{key: value for key, value in (arrays | changes).items() if value is not None})


def test_curves_of_what_was_logged(tmp_path: Path, write_run: WriteRun) -> None:
    folder = write_run(tmp_path / "gate", method="SegMatch", parts=("train",))
    assert gate_charts(load_run(folder)) == [] and gate_rows(load_run(folder)) == []
    charts = gate_charts(load_run(with_columns(folder, COLUMNS)))
    assert [chart.title for chart in charts] == TITLES
    assert [name for name, _ in charts[1].legend] == ["accepted", "refused"]
    without = {name: value for name, value in COLUMNS.items() if "discriminator" in name or "dice" in name}
    folder = write_run(tmp_path / "other", method="SegMatch", parts=("train",), split=1)
    found = [chart.title for chart in gate_charts(load_run(with_columns(folder, without)))]
    assert found == [TITLES[1], *TITLES[3:]]


def test_pictures_of_accepted_and_refused(tmp_path: Path, write_run: WriteRun, classes: tuple[str, ...]) -> None:
    folder = with_columns(write_run(tmp_path / "gate", method="SegMatch", parts=("train",)), COLUMNS)
    save_examples(folder, len(classes))
    accepted, refused = gate_rows(load_run(folder))
    assert (accepted["name"], accepted["facts"]) == ("Accepted", "2 of the last epoch")
    assert [panel[:2] for panel in accepted["panels"]] == [
        ("Pseudo-label", "score 0.900"),
        ("Truth", "Dice 0.910"),
        ("Pseudo-label", "score 0.800"),
    ]
    assert [panel[:2] for panel in refused["panels"]] == [
        ("Pseudo-label", "score 0.400"),
        ("Truth", "Dice 0.620"),
        ("Pseudo-label", "score 0.300"),
    ]
    assert len({panel[2] for row in (accepted, refused) for panel in row["panels"]}) == 6
    text = render(folder).read_text(encoding="utf-8")
    assert all(words in text for words in (*TITLES, "Accepted", "Refused", "that the gate accepted"))


def test_one_kind_alone(tmp_path: Path, write_run: WriteRun, classes: tuple[str, ...]) -> None:
    folder = write_run(tmp_path / "gate", method="SegMatch", parts=("train",))
    save_examples(folder, len(classes), accepted=np.zeros(4))
    (refused,) = gate_rows(load_run(folder))
    assert refused["name"] == "Refused" and refused["facts"] == "4 of the last epoch"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score": None}, "gate.npz must hold .*score"),
        ({"truth": np.zeros((4, 1, 8, 8))}, r"truth must have the shape \(4, 5, 8, 8\), got \(4, 1, 8, 8\)"),
        ({"accepted": np.zeros(3)}, r"accepted must have the shape \(4,\), got \(3,\)"),
    ],
)
def test_malformed_pictures_are_named(tmp_path, write_run: WriteRun, classes, changes, message) -> None:
    folder = write_run(tmp_path / "gate", method="SegMatch", parts=("train",))
    save_examples(folder, len(classes), **changes)
    with pytest.raises(ValueError, match=message):
        gate_rows(load_run(folder))
