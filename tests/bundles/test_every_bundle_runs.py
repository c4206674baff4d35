"""Every bundle from the command line, in its demonstration's settings: trained, evaluated, verified, used."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bundle_runs import ROOT, configs, run_in_fork
from PIL import Image

from common.annotation import open_order
from common.data import find_datalist
from common.portable import verify

BUNDLES = sorted(path.parents[1].name for path in ROOT.glob("bundles/*/configs/train.json"))
SHORT = {"epochs": 1, "iterations": 2, "val_interval": 1, "num_workers": 1}


def short(bundle: str, data: Path, folder: Path) -> dict:
    """Settings of a run of two steps, at half of the demonstration's size."""
    demo = json.loads((ROOT / configs("demo", bundle=bundle)[0]).read_text())
    sizes = {key: [n // 2 for n in demo[key]] for key in ("image_size",) if key in demo}
    stages = {key: 2 for key in demo if key.endswith("#iterations")}
    features = {"network_def#features": [4, 4, 4, 4, 8, 6]}
    places = {"dataset_dir": data, "output_dir": folder, "ckpt_dir": folder, "cache_dir": folder / "cache"}
    places = {key: str(path) for key, path in places.items()}
    return {"bundle_root": f"bundles/{bundle}", **places, **sizes, **stages, **features, **SHORT}


@pytest.mark.parametrize("bundle", BUNDLES)
def test_training_evaluating_verifying_and_inferring(bundle, data_of, tmp_path, capsys):
    data, folder, log = data_of(bundle), tmp_path / "run", tmp_path / "log.txt"
    settings = short(bundle, data, folder)
    for run_id, files in (("training", ["train", "demo"]), ("evaluating", ["train", "demo", "evaluate"])):
        code = run_in_fork(run_id, configs(*files, bundle=bundle), settings, log, typed=True)
        assert code == 0, log.read_text()[-3000:]
    test = find_datalist(data)["test"]
    scores = pd.read_csv(folder / "test.csv")
    assert scores.groupby("class").size().eq(scores["case"].nunique()).all() and scores["dice"].between(0, 1).any()
    assert "<html" in (folder / "report.html").read_text()
    assert not list(folder.rglob(".*part*"))

    verify(folder)
    assert ", 0 errors" in capsys.readouterr().out

    places = open_order(folder).places()
    assert {row for place in places for row in place.rows} == set(range(len(places)))

    image = Path(test[0]["image"])
    if image.suffix == ".IMG":  # raw pixels, which the data set's own reader alone reads
        image = tmp_path / "images" / "new.png"
        image.parent.mkdir()
        Image.fromarray(np.eye(48, dtype=np.uint8) * 200).save(image)
    places = {"bundle_root": folder, "dataset_dir": image.parent, "output_dir": tmp_path / "masks"}
    places = {key: str(path) for key, path in places.items()}
    code = run_in_fork("inferring", [f"{folder}/configs/inference.json"], places, log, typed=True)
    assert code == 0, log.read_text()[-3000:]
    assert [path for path in (tmp_path / "masks").rglob("*") if path.name.startswith(image.name.split(".")[0])]
