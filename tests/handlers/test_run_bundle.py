"""A run's folder is a bundle: configuration that fits the weights, metadata, weights, licence."""

from __future__ import annotations

import json
from importlib.metadata import version
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser
from monai.networks.nets import BasicUNet as StockBasicUNet
from torch import nn

from common.handlers import BundleScores, RunBundle, load_weights
from common.handlers.checkpoint import save_weights
from common.label_space import LabelSpace
from common.networks import BasicUNet

LABELS = LabelSpace(["lung", "heart"], "multiclass")
INFERENCE = {"classes": ["a"], "image_size": [512, 512], "network_def": {"_target_": "BasicUNet", "features": [32, 64]}}
METADATA = {"version": "1.0.0", "network_data_format": {"inputs": {}, "outputs": {"pred": {"num_channels": 5}}}}
SETTINGS = {"classes": ["lung", "heart"], "image_size": [64, 64], "features": [4, 8]}


@pytest.fixture
def bundle(tmp_path):
    for name, content in (("inference", INFERENCE), ("metadata", METADATA)):
        (tmp_path / "bundle" / "configs").mkdir(parents=True, exist_ok=True)
        (tmp_path / "bundle" / "configs" / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "bundle" / "LICENSE").write_text("free")
    return tmp_path / "bundle"


def finished(bundle, tmp_path, model, settings=SETTINGS):
    handler = RunBundle(bundle, tmp_path / "run", model, LABELS, settings, {"seed": 3})
    engine = Engine(lambda engine, batch: None)
    handler.attach(engine)
    engine.run([0], max_epochs=2)
    return tmp_path / "run"


def test_the_run_has_what_inference_needs(bundle, tmp_path):
    network = nn.Linear(2, 2)
    save_weights(network, tmp_path / "elsewhere" / "model.pt", 1, {"image_size": (64, 64)})
    run = finished(bundle, tmp_path, tmp_path / "elsewhere" / "model.pt")
    found = json.loads((run / "configs" / "inference.json").read_text())
    assert found == {
        "classes": ["lung", "heart"],
        "image_size": [64, 64],
        "network_def": {"_target_": "BasicUNet", "features": [4, 8]},
    }
    metadata = json.loads((run / "configs" / "metadata.json").read_text())
    assert metadata["network_data_format"]["outputs"]["pred"] == {
        "num_channels": 3,
        "channel_def": {"0": "background", "1": "lung", "2": "heart"},
    }
    assert metadata["label_classes"] == "lung, heart; multiclass"
    run_of = metadata["run"]
    assert metadata["version"] == "1.0.0" and run_of.pop("settings") == SETTINGS
    assert run_of == {"seed": 3, "mode": "multiclass", "epochs": 2, "validation": {}}
    assert metadata["monai_version"] == version("monai") and not (run / "configs" / "train.json").exists()
    assert (run / "LICENSE").read_text() == "free"
    state = torch.load(run / "models" / "model.pt", weights_only=True)
    assert torch.equal(state["weight"], network.weight)
    assert json.loads((run / "models" / "model.json").read_text()) == {"image_size": [64, 64]}
    assert json.loads((bundle / "configs" / "inference.json").read_text()) == INFERENCE  # as it was


def test_a_model_that_lies_in_the_run_is_left_there(bundle, tmp_path):
    path = tmp_path / "run" / "models" / "model.pt"
    save_weights(nn.Linear(2, 2), path, 1)
    before = path.stat().st_mtime_ns
    finished(bundle, tmp_path, path)
    assert path.stat().st_mtime_ns == before and not path.with_suffix(".json").exists()


def test_without_a_model_there_is_no_bundle(bundle, tmp_path):
    assert not finished(bundle, tmp_path, tmp_path / "none.pt").exists()


def test_what_cannot_be_written_is_said_before_the_training(bundle, tmp_path):
    with pytest.raises(ValueError, match=r"inference.json must have the setting spacing"):
        RunBundle(bundle, tmp_path, tmp_path / "model.pt", LABELS, {"spacing": [1, 1]})
    (bundle / "configs" / "metadata.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"metadata.json must be the bundle's metadata, got no such file"):
        RunBundle(bundle, tmp_path, tmp_path / "model.pt", LABELS, SETTINGS)


def test_weights_are_not_loaded_with_other_settings(tmp_path):
    network, path = nn.Linear(2, 2), tmp_path / "model.pt"
    save_weights(network, path, 1, {"image_size": [64, 64], "features": [4]})
    load_weights(path, network, settings={"image_size": (64.0, 64), "features": [4]})
    load_weights(path, network)
    with pytest.raises(ValueError, match=r"model.pt was trained with image_size#0 64.0, got 512.0; .* set what it was"):
        load_weights(path, network, settings={"image_size": [512, 512], "features": [4]})
    path.with_suffix(".json").unlink()  # weights of before
    load_weights(path, network, settings={"image_size": [512, 512]})


def test_settings_are_never_those_of_other_weights(bundle, tmp_path):
    network, path = nn.Linear(2, 2), tmp_path / "elsewhere" / "model.pt"
    save_weights(network, path, 1, {"image_size": [64, 64]})
    run = finished(bundle, tmp_path, path)
    assert (run / "models" / "model.json").exists()
    save_weights(network, path, 1)
    assert not path.with_suffix(".json").exists()
    finished(bundle, tmp_path, path)
    assert (run / "models" / "model.pt").exists() and not (run / "models" / "model.json").exists()


def test_inference_has_the_network_s_activation(bundle, tmp_path):
    """Weights of another one fit as well, and segment wrongly."""
    network = BasicUNet(2, 1, 3, (4, 4, 4, 4, 8, 4), act=("ReLU", {"inplace": True}), dropout=0.2)
    RunBundle(bundle, tmp_path, tmp_path / "model.pt", LABELS, SETTINGS, network=nn.Linear(1, 1))
    found = RunBundle(bundle, tmp_path, tmp_path / "model.pt", LABELS, SETTINGS, network=network).inference
    keywords = json.loads(json.dumps(found["network_def"]))
    assert keywords.pop("_target_") == "BasicUNet" and "dropout" not in keywords
    assert keywords == {
        "features": [4, 8],
        "act": ["ReLU", {"inplace": True}],
        "norm": "batch",
        "upsample": "nontrainable",
    }
    keywords["features"] = (4, 4, 4, 4, 8, 4)
    stock = StockBasicUNet(2, 1, 3, **keywords)
    stock.load_state_dict(network.state_dict())
    image = torch.rand(1, 1, 16, 16)
    assert torch.equal(stock.eval()(image), network.eval()(image))


@pytest.mark.parametrize(
    ("channel", "channels", "named"),
    [
        (1, 1, {"0": "FLAIR"}),
        (2, 1, {"0": "channel 2 of the picture"}),
        ("all", 2, {"0": "channel 0 of the picture", "1": "channel 1 of the picture"}),
    ],
)
def test_metadata_tell_which_channels_are_read(bundle, tmp_path, channel, channels, named):
    image = {"num_channels": 1, "channel_def": {"0": "FLAIR"}, "modality": "MR"}
    metadata = {**METADATA, "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": {}}}}
    for name, content in (("inference", {**INFERENCE, "channel": 1}), ("metadata", metadata)):
        (bundle / "configs" / f"{name}.json").write_text(json.dumps(content))
    network, model = BasicUNet(2, channels, 3, (4, 4, 4, 4, 8, 4)), tmp_path / "model.pt"
    save_weights(network, model, 1)
    settings = {**SETTINGS, "channel": channel}
    engine = Engine(lambda engine, batch: None)
    RunBundle(bundle, tmp_path / "run", model, LABELS, settings, network=network).attach(engine)
    engine.run([0])
    found = json.loads((tmp_path / "run" / "configs" / "metadata.json").read_text())
    assert found["network_data_format"]["inputs"]["image"] == {
        **image,
        "num_channels": channels,
        "channel_def": named,
    }
    assert json.loads((tmp_path / "run" / "configs" / "inference.json").read_text())["channel"] == channel


def test_the_training_s_configuration_is_kept_with_what_was_set(bundle, tmp_path):
    save_weights(nn.Linear(2, 2), tmp_path / "run" / "models" / "model.pt", 1)
    parser = ConfigParser({"imports": ["$from common.label_space import LabelSpace"]})
    parser["bundle_root"], parser["epochs"], parser["resume"] = str(bundle), 7, True
    parser["datalist"], parser["output_dir"] = "data/mine.json", str(tmp_path / "run")
    parser["labels"] = {"_target_": "common.label_space.LabelSpace", "classes": ["lung", "heart"]}
    parser["handler"] = {
        "_target_": "common.handlers.RunBundle", "bundle_root": "@bundle_root", "output_dir": "@output_dir",
        "model": "$@output_dir + '/models/model.pt'", "labels": "@labels", "settings": SETTINGS,
    }  # fmt: skip
    parser.parse()
    engine = Engine(lambda engine, batch: None)
    parser.get_parsed_content("handler").attach(engine)
    engine.run([0], max_epochs=1)
    found = json.loads((tmp_path / "run" / "configs" / "train.json").read_text())
    assert found["epochs"] == 7 and found["resume"] is False and found["bundle_root"] == "."
    assert found["output_dir"] == "$@bundle_root + '/eval'" and found["datalist"].endswith("/data/mine.json")
    assert found["datalist"].startswith("/") and found["labels"]["classes"] == ["lung", "heart"]


@pytest.mark.parametrize(("keep", "epoch"), [(True, 2), (False, 4)])
def test_validation_scores_are_those_of_the_model(bundle, tmp_path, keep, epoch):
    run = tmp_path / "run"
    save_weights(nn.Linear(2, 2), run / "models" / "model.pt", 1)
    rows = [{"epoch": 2, "iou_mean": 0.5}, {"epoch": 4, "iou_mean": 0.25}]
    pd.DataFrame(rows).to_csv(run / "validation.csv", index=False)
    best = SimpleNamespace(keep=keep, epoch=2)
    data = {"name": "mine", "classes": ["lung", "heart"], "mode": "multiclass"}
    data |= {part: [{"image": f"/d/{part}.png", "patient": part}] for part in ("labeled", "unlabeled")}
    data |= {"validation": [], "test": []}
    handler = RunBundle(bundle, run, run / "models" / "model.pt", LABELS, SETTINGS, data=data, best_model=best)
    engine = Engine(lambda engine, batch: None)
    handler.attach(engine)
    engine.run([0], max_epochs=4)
    found = json.loads((run / "configs" / "metadata.json").read_text())["run"]
    assert found["validation"] == {"epoch": epoch, "iou_mean": 0.5 if keep else 0.25} and len(found["datalist"]) == 8


def test_test_scores_are_told_where_there_is_a_bundle(tmp_path):
    engine = Engine(lambda engine, batch: None)
    BundleScores(tmp_path).attach(engine)
    rows = [("a", "lung", 0.5, 0.6), ("b", "lung", 0.7, None), ("a", "heart", None, 0.2), ("b", "heart", None, 0.4)]
    pd.DataFrame(rows, columns=["case", "class", "iou", "dice"]).to_csv(tmp_path / "test.csv", index=False)
    engine.run([0])
    assert [file.name for file in tmp_path.iterdir()] == ["test.csv"]
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "metadata.json").write_text('{"version": "1"}')
    engine.run([0])
    found = json.loads((tmp_path / "configs" / "metadata.json").read_text())
    assert found["run"]["test"] == {"cases": 2, "lung": {"iou": 0.6, "dice": 0.6}, "heart": {"dice": 0.3}}


def test_names_that_look_like_numbers_or_nothing_stay_names(tmp_path):
    engine = Engine(lambda engine, batch: None)
    BundleScores(tmp_path).attach(engine)
    rows = [("NA", "01", 0.5, 0.6), ("1", "01", 0.7, 0.8), ("01", "01", 0.3, 0.4)]
    pd.DataFrame(rows, columns=["case", "class", "iou", "dice"]).to_csv(tmp_path / "test.csv", index=False)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "metadata.json").write_text("{}")
    engine.run([0])
    found = json.loads((tmp_path / "configs" / "metadata.json").read_text())
    assert found["run"]["test"] == {"cases": 3, "01": {"iou": 0.5, "dice": 0.6}}
