"""The papers' own protocols: what paper.json says reaches what is built, and it trains."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pydoc import locate
from typing import Any

import numpy as np
import pandas as pd
import pytest
from bundle_runs import ROOT, configs, options, run_here

from common.grid.settings import configuration, own_method
from common.settings import keywords

BUNDLES = sorted(path.parents[1].name for path in ROOT.glob("bundles/*/configs/paper.json"))
TINY = {"network_def#features": [4, 4, 4, 4, 8, 6], "epochs": 2, "iterations": 1, "val_interval": 2}
VOLUMES = {"spacing": [2.0, 2.0, 2.0], "patch_size": [32, 32, 32], "labeled_batch": 2, "supervised_epochs": 1}
DETECTOR = {"image_size": [32, 32], "train#detector#iterations": 2, "train#detector#min_size": 4}
SIZES = {"ms_popcorn": VOLUMES, "acdc_rank_weighting": DETECTOR}


def overlay(bundle: str) -> dict[str, Any]:
    return json.loads((ROOT / configs("paper", bundle=bundle)[0]).read_text())


def unknown(given: dict[str, Any], known: dict[str, Any]) -> Iterator[str]:
    """Ids that name no value of a configuration, and no keyword of a class in it: MONAI passes over such."""
    for key in given:
        *parents, last = key.split("#")
        inside = known
        for name in parents:
            inside = inside.get(name, {}) if isinstance(inside, dict) else {}
        target = locate(inside["_target_"]) if "_target_" in inside else None
        if last not in inside and (target is None or last not in keywords(target)):
            yield key


@pytest.mark.parametrize("bundle", BUNDLES)
def test_no_key_is_passed_over(bundle):
    train = json.loads((ROOT / configs("train", bundle=bundle)[0]).read_text())
    assert list(unknown(overlay(bundle), train)) == []
    wrong = {"learnin_rate": 1, "network_def#featurs": [], "lr_scheduler#powers": 0, "train#weak#view": []}
    assert list(unknown(wrong, train)) == list(wrong)


@pytest.mark.parametrize("bundle", BUNDLES)
def test_it_trains(bundle, data_of, tmp_path):
    size = SIZES.get(bundle, {"image_size": [32, 32]})
    settings = options(tmp_path, data_of(bundle), bundle, TINY, **size)
    run_here("training", configs("train", "paper", bundle=bundle), settings)
    assert np.isfinite(pd.read_csv(tmp_path / "train.csv")["loss"]).all()
    assert (tmp_path / "models" / "model.pt").is_file()


def test_the_baseline_of_the_protocol_trains(phantom, tmp_path):
    """A method that lacks keywords of the paper's is given as a whole, as pages say and grids do."""
    own = own_method("Supervised", configuration(ROOT / "bundles" / "jsrt_rpg", "train.json,paper.json"))
    assert own["method"].keys() == {"_target_", "labels", "seed", "joint"}
    run_here("training", configs("train", "paper"), options(tmp_path, phantom, tiny=TINY, image_size=[32, 32], **own))
    assert json.loads((tmp_path / "run.json").read_text())["method"] == "Supervised"


@pytest.mark.parametrize("bundle", BUNDLES)
def test_the_bundle_s_page_says_where_it_is_explained(bundle):
    text = (ROOT / "bundles" / bundle / "docs" / "README.md").read_text()
    pages = set(re.findall(r"docs/methods/([\w-]+)\.md#the-papers-protocol", text))
    assert "paper.json" in text and pages
    for page in pages:
        assert "`paper.json`" in (ROOT / "docs" / "methods" / f"{page}.md").read_text()
