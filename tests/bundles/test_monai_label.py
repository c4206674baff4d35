"""MONAI Label writes its own data, handlers and number of epochs into train.json before it parses it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bundle_runs import configs, options, run_here, weights
from PIL import Image

from common.phantoms.jsrt import render_patient

# what an annotator draws is one label map: a pixel has one class
VALUES = {"right_lung": 1, "left_lung": 2, "heart": 3, "right_clavicle": 4, "left_clavicle": 5}


@pytest.fixture(scope="module")
def annotated(tmp_path_factory) -> list[dict[str, str]]:
    """Images with label maps, as MONAI Label lists them: no patients, absolute paths."""
    folder = tmp_path_factory.mktemp("studies")
    pairs = []
    for patient in range(6):
        image, masks = render_patient(3, patient, 64)
        label = np.zeros((64, 64), np.uint8)
        for name, value in VALUES.items():
            label[masks[name]] = value
        pair = {"image": folder / f"image{patient}.png", "label": folder / f"label{patient}.png"}
        Image.fromarray((image * 255).astype(np.uint8)).save(pair["image"])
        Image.fromarray(label).save(pair["label"])
        pairs.append({key: str(path) for key, path in pair.items()})
    return pairs


def overwritten(folder: Path, phantom: Path, annotated: list[dict], handlers: list[dict]) -> dict:
    settings = options(folder, phantom)
    settings |= {"train#dataset#data": annotated[:4], "validate#dataset#data": annotated[4:]}
    return settings | {"train#trainer#max_epochs": 2, "train#handlers": handlers}


def test_with_stock_handlers(phantom, annotated, tmp_path):
    folder = tmp_path / "run"
    handlers = [
        {"_target_": "ValidationHandler", "validator": "@validate#evaluator", "epoch_level": True, "interval": 1},
        {
            "_target_": "CheckpointSaver",
            "save_dir": str(tmp_path / "saved"),
            "save_dict": {"model": "@network"},
            "save_interval": 1,
        },
        {"_target_": "StatsHandler", "tag_name": "train_loss", "output_transform": "$lambda output: output['loss']"},
    ]
    run_here("run", configs("train"), overwritten(folder, phantom, annotated, handlers))
    assert weights(folder)["final_conv.weight"].shape[0] == 5
    assert pd.read_csv(folder / "validation.csv")["epoch"].tolist() == [1, 2]
    assert len(list((tmp_path / "saved").glob("*.pt"))) == 2


def test_with_the_bundle_s_handlers_and_a_loaded_model(phantom, annotated, trained, tmp_path):
    """MONAI Label keeps the bundle's handlers and puts one in front that loads the model to go on from."""
    import json

    from bundle_runs import BUNDLE

    folder = tmp_path / "run"
    loader = {
        "_target_": "CheckpointLoader",
        "load_path": str(trained / "model.pt"),
        "load_dict": {"model": "@network"},
    }
    handlers = json.loads((BUNDLE / "configs" / "train.json").read_text())["train"]["handlers"]
    run_here("run", configs("train"), overwritten(folder, phantom, annotated, [loader, *handlers]))
    assert weights(folder).keys() == weights(trained).keys()
    assert json.loads((folder / "run.json").read_text())["epoch"] == 2
