"""Rows of POPCORN's tables, trained and compared; the demonstration in 3D."""

from __future__ import annotations

import pandas as pd
import pytest

from common import methods
from common.compare_lesions import ROWS, row_names
from common.demo_ms import demo_ms
from common.label_space import LabelSpace

TINY = {"network_def#features": [2, 2, 2, 4, 4, 2], "epochs": 3, "iterations": 2, "supervised_epochs": 1, "pairs": 1}


def test_names_of_rows():
    assert row_names("Supervised, POPCORN") == ["Supervised", "POPCORN"]
    assert row_names(("Supervised", "POPCORN")) == ["Supervised", "POPCORN"]
    assert row_names("all") == list(ROWS)
    with pytest.raises(ValueError, match=r"rows must be different ones of Supervised.*got Popcorn"):
        row_names("Popcorn")
    with pytest.raises(ValueError, match="rows must be different"):
        row_names("POPCORN,POPCORN")


@pytest.mark.parametrize("row", list(ROWS))
def test_rows_are_methods_with_these_keywords(row):
    name, settings = ROWS[row]
    keywords = {key.removeprefix("method#"): value for key, value in settings.items() if key.startswith("method#")}
    keywords = {key: 0 if value == "@seed" else value for key, value in keywords.items()}
    assert getattr(methods, name)(LabelSpace(["lesion"]), **keywords)


@pytest.mark.slow
def test_demonstration(tmp_path, capsys):
    folder = tmp_path / "demo"
    demo_ms(folder, "Supervised,POPCORN", seeds=2, size=48, unlabeled=3, test=2, settings=TINY)
    results = pd.read_csv(folder / "results.csv")
    assert results.columns.tolist() == ["method", "seed", "volume", "dice", "precision", "sensitivity", "lesion_f1"]
    assert set(results["method"]) == {"Supervised", "POPCORN"}
    assert len(results) == 2 * 2 * 2
    assert (folder / "report.html").stat().st_size > 10_000
    assert (folder / "popcorn_seed0" / "pseudo_labels" / "manifest.json").exists()
    assert not (folder / "supervised_seed0" / "pseudo_labels").exists()
    assert "POPCORN − Supervised" in capsys.readouterr().out
    before = (folder / "popcorn_seed1" / "volumes.csv").stat().st_mtime_ns
    demo_ms(folder, "Supervised,POPCORN", seeds=2, size=48, unlabeled=3, test=2, settings=TINY)
    assert (folder / "popcorn_seed1" / "volumes.csv").stat().st_mtime_ns == before, "what is done is not done again"
    with pytest.raises(ValueError, match="another folder"):
        demo_ms(folder, "Supervised,POPCORN", seeds=2, size=48, unlabeled=3, test=2, settings={**TINY, "epochs": 4})
