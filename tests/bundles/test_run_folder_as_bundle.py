"""The folder of a run is a bundle: it trains again and is evaluated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from bundle_runs import options, run_here, same, weights
from monai.bundle import ConfigWorkflow


@pytest.fixture
def bundle(trained, tmp_path) -> Path:
    """What a bundle consists of, copied from a run's folder to another place."""
    for name in ("configs", "models", "docs", "scripts"):
        shutil.copytree(trained / name, tmp_path / "moved" / name)
    return tmp_path / "moved"


def test_metadata_tell_what_the_run_was(bundle):
    shipped = json.loads(Path("bundles/jsrt_rpg/configs/metadata.json").read_text())
    found = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert set(shipped) <= set(found) and found["run"]["validation"]["epoch"] >= 1


def test_a_training_has_all_properties(bundle, phantom, tmp_path):
    workflow = ConfigWorkflow(
        config_file=str(bundle / "configs" / "train.json"),
        workflow_type="train",
        logging_file=False,
        bundle_root=str(bundle),
        dataset_dir=str(phantom),
        output_dir=str(tmp_path / "out"),
    )
    workflow.initialize()
    assert workflow.check_properties() == []


def test_the_same_training_again_from_its_own_configuration(bundle, trained, phantom):
    """With nothing else set: what was set is in it, and it writes into its own folder."""
    config = json.loads((bundle / "configs" / "train.json").read_text())
    assert (
        config["epochs"] == 3 and config["image_size"] == [32, 32] and config["cache_dir"].startswith("$@bundle_root")
    )
    run_here("training", [str(bundle / "configs" / "train.json")], {"bundle_root": str(bundle)})
    assert same(weights(bundle / "models"), weights(trained))
    assert (bundle / "eval" / "run.json").is_file()


def test_it_is_evaluated_where_it_lies(trained, phantom, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    files = [str(folder / "configs" / f"{name}.json") for name in ("train", "evaluate")]
    settings = options(folder, phantom) | {"bundle_root": str(folder)}
    run_here("evaluating", files, settings)
    scores = json.loads((folder / "configs" / "metadata.json").read_text())["run"]["test"]
    table = pd.read_csv(folder / "test.csv")
    assert scores["cases"] == table["case"].nunique()
    mean = table.loc[table["class"] == "heart", "iou"].mean()
    assert scores["heart"]["iou"] == pytest.approx(mean, abs=1e-6)
