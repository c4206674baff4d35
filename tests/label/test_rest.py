"""A real MONAI Label server, driven by its own client: `make label-test`, in an environment of its own."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image

from common.annotation import open_order
from common.data.files import file_stem

if importlib.util.find_spec("monailabel") is None:
    pytest.skip("MONAI Label is not in this environment: make label-test makes one for it.", allow_module_level=True)

from monailabel.client.client import MONAILabelClientException
from served import ANNOTATED, EPOCHS, ROOT, SECONDS, Served, as_dicom, demo, values

TRIED = ("jsrt_rpg", "acdc_unimatch")  # bad trainings, of images and of volumes
BUNDLES = sorted(path.parents[1].name for path in ROOT.glob("bundles/*/configs/train.json"))
PHANTOMS: dict[str, dict[str, Any]] = {
    "jsrt": {"patients": 16, "size": 64},
    "acdc": {"patients": 8, "size": 48, "slices": 3},
    "ms": {"labeled": 3, "unlabeled": 4, "test": 1, "size": 48},
    "retouch": {"volumes": 8, "size": 48, "slices": 4},
    "lgg": {"patients": 5, "size": 48, "slices": 8},
}
TINY = {"image_size": [32, 32], "patch_size": [16, 16, 16], "spacing": [4.0, 4.0, 4.0]}
TINY |= {"network_def#features": [4, 4, 4, 4, 8, 6], "iterations": 2, "num_workers": 0, "learning_rate": 0.01}
TINY |= {"labeled_batch": 2, "unlabeled_batch": 2, "train#detector#iterations": 2}
TINY |= {"train#detector#min_size": 4, "train#detector#score": 0.05}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(5 * SECONDS)]


@pytest.fixture(scope="module", params=[*BUNDLES, "jsrt_rpg DICOM"])
def served(request, tmp_path_factory) -> Iterator[Served]:
    """A server for each bundle, before anything is annotated or trained."""
    bundle, *kind = request.param.split()
    folder = tmp_path_factory.mktemp(bundle)
    demo.make_studies(folder, bundle, **PHANTOMS[bundle.split("_")[0]])
    if kind:
        as_dicom(folder)
    config = ConfigParser(json.loads((ROOT / "bundles" / bundle / "configs" / "train.json").read_text()))
    settings = {key: value for key, value in TINY.items() if key in config}
    if "image_size" in settings:  # which patches follow
        del settings["patch_size"]
    demo.make_app(folder, bundle, settings)
    server = Served(folder, bundle)
    server.name = request.param
    yield server
    server.process.terminate()
    server.process.wait(60)
    shutil.rmtree(folder)


def test_labels_are_known_and_images_segmented_before_the_first_training(served):
    info = served.client.info()
    classes = json.loads((served.copy / "configs" / "inference.json").read_text())["classes"]
    assert info["models"][served.bundle]["labels"] == {name.lower(): place + 1 for place, name in enumerate(classes)}
    assert served.bundle in info["trainers"]
    name = served.names()[0]
    mask = served.infer(name)
    assert mask.shape == values(served.truth(name)).shape
    assert set(np.unique(mask)) <= set(range(len(classes) + 1))


def test_bad_requests_are_refused_and_the_server_stays(served):
    with pytest.raises(MONAILabelClientException):
        served.client.infer(served.bundle, "nobody", {})
    served.wait(lambda: "an image must have a name, got none" in served.log.read_text(), 60)
    with pytest.raises(MONAILabelClientException):
        served.client.save_label("nobody", str(served.truth(served.names()[0])), "final", {})
    assert served.client.info()["datastore"]["completed"] == 0


def test_trainings_without_what_they_need_say_why_and_the_server_stays(served):
    if served.name not in TRIED:
        pytest.skip(f"takes long, and is tried with {' and '.join(TRIED)}")
    status, said = served.train()
    assert status == "ERROR" and "must hold labelled images, got none" in said
    served.annotate(served.chosen()[:1])
    status, said = served.train()
    assert status == "DONE", said  # one label is enough to begin with
    assert served.run()["settings"]["labelled images"] == 1
    truth = served.truth(served.chosen()[0])
    wrong = served.folder / f"wrong{''.join(truth.suffixes)}"
    if wrong.suffix == ".png":
        Image.fromarray(values(truth).T[:20]).save(wrong)
    else:
        nibabel.save(nibabel.load(truth).slicer[:20], wrong)
    served.annotate(served.chosen()[1:], wrong)
    status, said = served.train()
    assert status == "ERROR" and str(served.folder / "studies" / "labels" / "final") in said.splitlines()[-1]
    assert served.client.info()["datastore"]["completed"] == ANNOTATED


def test_what_was_annotated_is_learnt_and_the_new_weights_segment_without_a_restart(served):
    served.annotate(served.chosen())
    before = torch.load(served.copy / "models" / "model.pt", weights_only=True)
    status, said = served.train()
    assert status == "DONE", said
    after = torch.load(served.copy / "models" / "model.pt", weights_only=True)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    run = served.run()
    assert run["epochs"] == EPOCHS and run["settings"]["iterations"] == EPOCHS * TINY["iterations"]
    assert run["settings"]["labelled images"] == ANNOTATED - 1
    assert 0 < run["settings"]["unlabelled images"] <= len(served.names()) - ANNOTATED
    name = served.chosen()[0]
    np.testing.assert_array_equal(served.infer(name), by_the_bundle(served, name))


def test_strategies_ask_the_last_training_what_to_annotate_next(served):
    assert {"random", "first", "disagreement", "weight", "distance"} == set(served.client.info()["strategies"])
    order = open_order(served.copy / "eval")
    left = set(served.names()) - set(served.chosen())
    for strategy in ("disagreement", "distance"):
        names = [file_stem(order.unlabeled.name(row)) for place in order.places(strategy) for row in place.rows]
        assert set(names) <= left
        assert served.client.next_sample(strategy, {})["id"] == names[0], served.log.read_text()[-3000:]


def by_the_bundle(served: Served, name: str) -> np.ndarray:
    """The label map of an image as `monai.bundle run inferring` segments it with the weights that are there."""
    image = next((served.folder / "studies").glob(f"{name}.*"))
    inputs, outputs = served.folder / "inputs", served.folder / "outputs"
    inputs.mkdir()
    # slices of the same patient tell how bright one is
    for file in (served.folder / "studies").glob(f"{name.rsplit('_', 1)[0]}*"):
        shutil.copy(file, inputs)
    command = [sys.executable, "-m", "monai.bundle", "run", "inferring", "--bundle_root", str(served.copy)]
    command += ["--config_file", str(served.copy / "configs" / "inference.json")]
    command += ["--dataset_dir", str(inputs), "--output_dir", str(outputs)]
    command += ["--output_ext", "".join(served.truth(name).suffixes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    classes = json.loads((served.copy / "configs" / "inference.json").read_text())["classes"]
    stem = image.name.removesuffix(".gz").rsplit(".", 1)[0]
    whole = list(outputs.rglob(f"{stem}_fluid.*"))
    if whole:  # one label map instead of a mask for each class
        return values(whole[0])
    masks = [values(next(outputs.rglob(f"{stem}_{label}.*"))) > 0 for label in classes]
    return np.max([mask * (place + 1) for place, mask in enumerate(masks)], axis=0)
