"""Training and evaluation with other methods, settings and images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from bundle_runs import configs, options, run_here, same, train_log, weights

from common.data import find_datalist
from common.label_space import LabelSpace
from common.networks import BasicUNet
from common.transforms import LoadLabeld, LoadRadiographd

CLASSES = ["right_lung", "left_lung", "heart", "right_clavicle", "left_clavicle"]


def test_a_run_leaves_its_files(trained):
    run = json.loads((trained / "run.json").read_text())
    assert (run["method"], run["classes"], run["mode"], run["epoch"]) == ("RPG", CLASSES, "multilabel", 3)
    log = train_log(trained)
    assert log["iteration"].tolist() == [4, 8, 10, 12]
    assert {"loss_supervised", "loss_unsupervised", "pseudo_accuracy", "weight_mean"} < set(log.columns)
    assert pd.read_csv(trained / "validation.csv")["epoch"].tolist() == [1, 2, 3]
    assert list((trained / "tensorboard").glob("events*"))


def test_scores_are_those_of_the_saved_model(phantom, trained, tmp_path):
    """IoU and Dice of one test image, computed from the saved weights by hand, at the image's own size."""
    for name in ("model.pt", "run.json"):  # without model.json, which says that they are of another size
        shutil.copy(trained / name, tmp_path)
    run_here("evaluating", configs("train", "evaluate"), options(tmp_path, phantom, image_size=[64, 64]))
    item = find_datalist(phantom)["test"][0]
    item = LoadLabeld("label", LabelSpace(CLASSES))(LoadRadiographd("image")(item))
    image, truth = torch.as_tensor(item["image"]), torch.as_tensor(item["label"]) > 0
    low, high = torch.quantile(image, torch.tensor([0.01, 0.99]))
    network = BasicUNet(out_channels=5, features=[4, 4, 4, 4, 8, 4])
    network.load_state_dict(weights(trained))
    with torch.no_grad():
        found = network.eval()(((image - low) / (high - low)).clamp(0, 1)[None])[0] > 0
    both, either = (found & truth).sum((1, 2)), (found | truth).sum((1, 2))
    scores = pd.read_csv(tmp_path / "test.csv")
    cases = [Path(case["image"]).stem for case in find_datalist(phantom)["test"]]
    assert sorted(scores["case"]) == sorted(cases * len(CLASSES))
    assert {"hardest", "median"} <= {file.name.split("_")[0] for file in (tmp_path / "cases" / "test").iterdir()}
    scores = scores[scores["case"] == Path(item["image"].meta["filename_or_obj"]).stem]
    assert scores["class"].tolist() == CLASSES
    # which reads images in half precision: a pixel at the threshold may differ
    assert scores["iou"].to_numpy() == pytest.approx((both / either).numpy(), abs=1e-3)
    assert scores["dice"].to_numpy() == pytest.approx((2 * both / (both + either)).numpy(), abs=1e-3)


@pytest.mark.parametrize("separator", ["::", "#"])
def test_the_method_is_swapped_on_the_command_line(phantom, trained, tmp_path, separator):
    folder = tmp_path / "run"
    changes = {f"method{separator}_target_": "common.methods.Supervised", "epochs": 1}
    run_here("training", configs("train"), options(folder, phantom, **changes))
    assert json.loads((folder / "run.json").read_text())["method"] == "Supervised"
    assert "loss_unsupervised" not in pd.read_csv(folder / "train.csv").columns
    assert not same(weights(folder), weights(trained))


def test_a_method_s_keyword_on_the_command_line(phantom, tmp_path):
    folder = tmp_path / "run"
    changes = {"method#_target_": "common.methods.NearestNeighbor", "method#unsupervised_weight": 0.0, "epochs": 1}
    run_here("training", configs("train"), options(folder, phantom, **changes))
    log = pd.read_csv(folder / "train.csv")
    assert (log["loss_unsupervised"] == 0).all()
    assert (log["weight_mean"] == 1).all()


def test_a_method_s_view_on_the_command_line(phantom, tmp_path):
    view = {"_target_": "common.views.Strong", "operations": 0, "cutout": 1.0, "cutout_label": "ignore"}
    losses = {}
    for name, changes in {"view": {"method#view": view}, "default": {}}.items():
        changes |= {"method#_target_": "common.methods.FixMatch", "method#threshold": 0.501, "epochs": 1}
        run_here("training", configs("train"), options(tmp_path / name, phantom, **changes))
        losses[name] = pd.read_csv(tmp_path / name / "train.csv")["loss_unsupervised"].mean()
    assert losses["view"] != losses["default"]


def test_an_earlier_run_is_moved_aside(phantom, tmp_path):
    folder = tmp_path / "run"
    for seed in (0, 1):
        run_here("training", configs("train"), options(folder, phantom, seed=seed, epochs=1))
    (aside,) = tmp_path.glob("run-*")
    seeds = [json.loads((run / "run.json").read_text())["seed"] for run in (aside, folder)]
    assert seeds == [0, 1]
    assert not same(weights(aside), weights(folder))


def test_own_images_with_a_label_map(tmp_path):
    """A datalist of PNGs with one label map each: softmax, two classes, from training to masks of new images."""
    import numpy as np
    from PIL import Image

    from common.data import folder_datalist
    from common.phantoms.jsrt import render_patient

    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for patient in range(9):
        image, masks = render_patient(1, patient, 64)
        label = masks["left_lung"] + 2 * masks["heart"].astype(np.uint8)
        label[masks["left_lung"] & masks["heart"]] = 2
        Image.fromarray((image * 255).astype(np.uint8)).save(tmp_path / "images" / f"p{patient}.png")
        Image.fromarray(label.astype(np.uint8)).save(tmp_path / "labels" / f"p{patient}.png")
    datalist = tmp_path / "datalist.json"
    folder_datalist(
        images=tmp_path / "images",
        labels=tmp_path / "labels",
        classes=["left_lung", "heart"],
        labeled=3,
        validation=2,
        output=datalist,
    )
    folder = tmp_path / "run"
    changes = {"method#_target_": "common.methods.Supervised", "epochs": 1}
    run_here("training", configs("train"), options(folder, tmp_path, datalist=str(datalist), **changes))
    assert json.loads((folder / "run.json").read_text())["mode"] == "multiclass"
    assert weights(folder)["final_conv.weight"].shape[0] == 3
    run_here("evaluating", configs("train", "evaluate"), options(folder, tmp_path, datalist=str(datalist)))
    assert set(pd.read_csv(folder / "test.csv")["class"]) == {"left_lung", "heart"}
    inference = {
        "dataset_dir": str(tmp_path / "images"),
        "output_dir": str(tmp_path / "masks"),
        "ckpt_path": str(folder / "model.pt"),
        "image_size": [32, 32],
        "network_def#features": [4, 4, 4, 4, 8, 4],
        "classes": ["left_lung", "heart"],
        "mode": "multiclass",
    }
    run_here("inferring", configs("inference"), {"bundle_root": "bundles/jsrt_rpg", **inference})
    masks = [np.asarray(Image.open(tmp_path / "masks" / f"p0_{name}.png")) > 0 for name in ("left_lung", "heart")]
    assert masks[0].shape == (64, 64)
    assert not (masks[0] & masks[1]).any()
    # the run's folder is a bundle, wherever it lies, and knows its settings
    folder.rename(tmp_path / "moved")
    (tmp_path / "moved" / "model.pt").unlink()
    moved = {"bundle_root": tmp_path / "moved", "dataset_dir": tmp_path / "images", "output_dir": tmp_path / "again"}
    run_here("inferring", [f"{tmp_path}/moved/configs/inference.json"], {key: str(path) for key, path in moved.items()})
    for path in (tmp_path / "masks").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
