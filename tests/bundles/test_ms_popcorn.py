"""The 3D bundle: trained, killed and resumed, evaluated, used for inference, served; on tiny volumes."""

from __future__ import annotations

import json
import shutil
import signal
from functools import partial
from pathlib import Path

import bundle_runs
import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from bundle_runs import ROOT, command, configs, python, run_here, run_in_fork, same, train_log, weights
from monai.inferers import SlidingWindowInferer
from monai.transforms import NormalizeIntensity
from volume_phantom import AFFINE, SHAPE, make_volume

from common.data import load_datalist, save_datalist
from common.errors import cause
from common.networks import BasicUNet

CONFIG = configs("train", bundle="ms_popcorn")
EVALUATE = configs("train", "evaluate", bundle="ms_popcorn")
TINY = {
    "spacing": [2.0, 2.0, 2.0],
    "patch_size": [32, 32, 32],
    "labeled_batch": 2,
    "network_def#features": [2, 2, 2, 4, 4, 2],
    "epochs": 5,
    "iterations": 2,
    "supervised_epochs": 1,
    "val_interval": 2,
    "learning_rate": 0.01,
    "method#step_size": 2,
    "method#step_epochs": 2,
    "method#neighbors": 2,
}
# within an epoch before and after images have joined, while the second step's labels are written, while a checkpoint is
# written, right after it
MOMENTS = (("iteration", 1), ("iteration", 5), ("labelling", 2), ("writing", 4), ("saved", 4))


options = partial(bundle_runs.options, bundle="ms_popcorn", tiny=TINY)


@pytest.fixture(scope="module")
def whole(ms_data, tmp_path_factory) -> Path:
    """Folder of a run that was never stopped, and evaluated."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run_here("training", CONFIG, options(folder, ms_data))
    run_here("evaluating", EVALUATE, options(folder, ms_data))
    return folder


def test_a_run_leaves_its_files(whole):
    run = json.loads((whole / "run.json").read_text())
    assert (run["method"], run["epoch"], run["seed"]) == ("Popcorn", 5, 0)
    manifest = json.loads((whole / "pseudo_labels" / "manifest.json").read_text())
    assert [entry["step"] for entry in manifest["images"]] == [1, 1, 2, 2]
    assert all(0 <= entry["dice"] <= 1 for entry in manifest["images"])
    assert pd.read_csv(whole / "validation.csv")["epoch"].tolist() == [2, 4]
    assert {"loss_supervised", "loss_consistency"} <= set(pd.read_csv(whole / "train.csv").columns)
    volumes = pd.read_csv(whole / "test.csv")
    assert volumes["case"].tolist() == ["test0_flair", "test1_flair"]
    assert volumes["truth_lesions"].tolist()[1] == 0  # a patient without lesions is scored, too
    assert volumes["dice"].notna().all()
    prediction, truth = nibabel.load(whole / volumes["prediction"][0]), nibabel.load(volumes["truth"][0])
    assert prediction.shape == SHAPE
    predicted, true = np.asarray(prediction.dataobj) > 0, np.asarray(truth.dataobj) > 0
    overlap = 2 * (predicted & true).sum() / (predicted.sum() + true.sum())
    assert volumes["dice"][0] == pytest.approx(overlap, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_and_resumed_is_never_stopped(whole, ms_data, tmp_path, workers):
    folder = tmp_path / "run"
    for moment in MOMENTS[2:4] if workers else MOMENTS:
        settings = options(folder, ms_data, resume="true", num_workers=workers)
        code = run_in_fork("training", CONFIG, settings, tmp_path / "log.txt", die=moment)
        assert code == -signal.SIGKILL, (tmp_path / "log.txt").read_text()[-3000:]
    run_here("training", CONFIG, options(folder, ms_data, resume="true", num_workers=workers))
    assert same(weights(folder), weights(whole))
    assert same(*[torch.load(run / "checkpoint.pt", weights_only=True) for run in (folder, whole)])
    pd.testing.assert_frame_equal(train_log(folder), train_log(whole), check_exact=True)
    names = [sorted(path.name for path in (run / "pseudo_labels").iterdir()) for run in (folder, whole)]
    assert names[0] == names[1]
    for name in ("manifest.json", *(n for n in names[0] if n.endswith(".nii.gz"))):
        one, other = folder / "pseudo_labels" / name, whole / "pseudo_labels" / name
        if name.endswith(".json"):
            assert one.read_text() == other.read_text()
        else:
            np.testing.assert_array_equal(nibabel.load(one).dataobj, nibabel.load(other).dataobj)


def test_other_settings_give_other_weights(whole, ms_data, tmp_path):
    """Guards the comparison above: it must be able to fail."""
    run_here("training", CONFIG, options(tmp_path, ms_data, **{"method#selection": "random"}))
    assert not same(weights(tmp_path), weights(whole))


# all that references and their weights have beside the paper's form, as it is written in a configuration
USEFUL = {
    "method#per_class": True,
    "method#label": "votes",
    "method#teacher": 0.9,
    "method#weight": {"_target_": "common.weights.WithinClass", "weight": {"_target_": "common.weights.ClassEntropy"}},
    "method#added_weight": {"_target_": "common.weights.PredictionAgreement"},
}


@pytest.mark.parametrize("changes", [{}, USEFUL], ids=["paper", "useful"])
def test_references_in_patches_of_volumes(ms_data, tmp_path, changes):
    """RPG's nearest labelled voxels: every patch of the pool is of a volume, and every class is in some patch."""
    settings = options(tmp_path, ms_data, epochs=2, **{"method#_target_": "common.methods.RPG"})
    settings = {key: value for key, value in settings.items() if key not in ("method#step_size", "method#step_epochs")}
    run_here("training", CONFIG, {**settings, "method#neighbors": 0.1, **changes})
    log = train_log(tmp_path)
    assert log["loss_unsupervised"].gt(0).all() and log["weight_mean"].between(0, 1, inclusive="neither").all()
    assert json.loads((tmp_path / "run.json").read_text())["method"] == "RPG"
    if changes:
        assert {"auc_WithinClass", "auc_PredictionAgreement"} <= set(log.columns)


def test_monai_label_overrides(ms_data, tmp_path):
    """Labelled pairs, validation pairs, epochs and handlers are written into train.json before it is parsed."""
    pairs = [make_volume(tmp_path / "studies", f"image{i}", i) for i in range(3)]
    handlers = json.loads((ROOT / CONFIG[0]).read_text())["train"]["handlers"]
    settings = options(tmp_path / "run", ms_data)
    settings |= {"train#dataset#data": pairs[:2], "validate#dataset#data": pairs[2:]}
    settings |= {"train#trainer#max_epochs": 3, "train#handlers": handlers}
    # one of those that are labelled now, and the one that is validated on, are still listed as unlabelled
    listed = json.loads((ms_data / "datalist.json").read_text())
    images = [pairs[0]["image"], pairs[2]["image"], str(ms_data / "unlabeled0_flair.nii.gz")]
    listed["unlabeled"] = [{"image": image, "patient": f"p{index}"} for index, image in enumerate(images)]
    for part in ("labeled", "validation", "test"):
        for item in listed[part]:
            item["image"], item["label"] = str(ms_data / item["image"]), [str(ms_data / item["label"][0])]
    (tmp_path / "datalist.json").write_text(json.dumps(listed))
    run_here("run", CONFIG, {**settings, "datalist": str(tmp_path / "datalist.json")})
    manifest = json.loads((tmp_path / "run" / "pseudo_labels" / "manifest.json").read_text())
    assert [entry["image"] for entry in manifest["images"]] == [images[2]]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["epoch"] == 3
    assert len(weights(tmp_path / "run")) > 0
    # a mask as an annotator saves it is one file, not a list
    assert pd.read_csv(tmp_path / "run" / "validation.csv")["epoch"].tolist() == [2]


def test_inference_on_other_orientation_and_spacing(whole, ms_data, tmp_path):
    folder, out = tmp_path / "volumes", tmp_path / "out"
    folder.mkdir()
    image = nibabel.load(ms_data / "test0_flair.nii.gz")
    shutil.copy(ms_data / "test0_flair.nii.gz", folder / "same.nii.gz")
    flipped = nibabel.Nifti1Image(np.asarray(image.dataobj)[::-1], AFFINE @ np.diag([-1, 1, 1, 1]))
    flipped.affine[0, 3] = AFFINE[0, 0] * (SHAPE[0] - 1)
    nibabel.save(nibabel.Nifti1Image(flipped.get_fdata(dtype=np.float32), flipped.affine), folder / "flipped.nii.gz")
    coarse = nibabel.Nifti1Image(np.asarray(image.dataobj)[:, :, ::2], AFFINE @ np.diag([1, 1, 2, 1]))
    nibabel.save(coarse, folder / "coarse.nii.gz")
    settings = {"bundle_root": "bundles/ms_popcorn", "dataset_dir": str(folder), "output_dir": str(out)}
    settings |= {key: TINY[key] for key in ("spacing", "patch_size", "network_def#features")}
    settings |= {"ckpt_path": str(whole / "model.pt"), "device": "cpu"}
    run_here("inferring", configs("inference", bundle="ms_popcorn"), settings)
    run = {
        "bundle_root": str(whole),
        "dataset_dir": str(folder),
        "output_dir": str(tmp_path / "again"),
        "device": "cpu",
    }
    run_here("inferring", [f"{whole}/configs/inference.json"], run)  # the run's folder is a bundle of its own
    for path in out.iterdir():
        np.testing.assert_array_equal(*(nibabel.load(place / path.name).dataobj for place in (out, tmp_path / "again")))
    masks = {path.name.split("_")[0]: nibabel.load(path) for path in out.glob("*.nii.gz")}
    assert set(masks) == {"same", "flipped", "coarse"}
    for name, mask in masks.items():
        given = nibabel.load(folder / f"{name}.nii.gz")
        assert mask.shape == given.shape
        np.testing.assert_allclose(mask.affine, given.affine, atol=1e-5)
        assert set(np.unique(mask.dataobj)) <= {0, 1}
        assert mask.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(masks["flipped"].dataobj)[::-1], masks["same"].dataobj)
    # as in the evaluation
    volumes = pd.read_csv(whole / "test.csv")
    evaluated = np.asarray(nibabel.load(whole / volumes["prediction"][0]).dataobj)
    # which reads images in half precision: a voxel at the threshold may differ
    assert (evaluated != np.asarray(masks["same"].dataobj)).sum() <= 3


@pytest.mark.slow
def test_two_processes_make_the_labels_of_one_network(ms_data, tmp_path):
    """Each has running statistics of its own in batch norm; pseudo-labels must be those of the saved checkpoint."""
    files = configs("train", "multi_gpu_train", bundle="ms_popcorn")
    arguments = command("training", files, options(tmp_path / "run", ms_data, epochs=3))
    python("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *arguments)
    folder = tmp_path / "run" / "pseudo_labels"
    entries = json.loads((folder / "manifest.json").read_text())["images"]
    assert [entry["step"] for entry in entries] == [1, 1]
    network = BasicUNet(3, 1, 1, TINY["network_def#features"], norm="batch")
    network.load_state_dict(torch.load(folder / "step01.pt", weights_only=True))
    network.eval()
    for entry in entries:
        image = nibabel.load(entry["image"]).get_fdata(dtype=np.float32)
        image = NormalizeIntensity(nonzero=True)(torch.from_numpy(image)[None])[None].half().float().as_tensor()
        with torch.no_grad():
            outputs = SlidingWindowInferer((32, 32, 32), 4, 0.5, "gaussian")(image, network)
        label = np.asarray(nibabel.load(folder / entry["label"]).dataobj)
        assert ((outputs[0, 0].numpy() > 0) != label).mean() < 1e-3
    assert len(weights(tmp_path / "run")) > 0


def broken_data(ms_data: Path, folder: Path, part: str, change) -> Path:
    """A copy of the data whose first volume of a part has been changed."""
    shutil.copytree(ms_data, folder, ignore=shutil.ignore_patterns("cache"))
    content = json.loads((folder / "datalist.json").read_text())
    path = folder / content[part][0]["image"]
    change(path)
    return folder


def with_nan(path: Path) -> None:
    image = nibabel.load(path)
    values = np.array(image.dataobj)
    values[5, 5, 5] = np.nan
    nibabel.save(nibabel.Nifti1Image(values, image.affine), path)


def with_time(path: Path) -> None:
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.stack([image.dataobj] * 2, -1), image.affine), path)


def moved(path: Path) -> None:
    image = nibabel.load(path)
    affine = image.affine.copy()
    affine[0, 3] += 10
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), affine), path)


@pytest.mark.parametrize(("change", "word"), [(with_nan, "NaN"), (with_time, "4"), (moved, "affine")])
def test_bad_labelled_volumes_stop_before_training(ms_data, tmp_path, change, word):
    data = broken_data(ms_data, tmp_path / "data", "labeled", change)
    code = run_in_fork("training", CONFIG, options(tmp_path / "run", data), tmp_path / "log.txt")
    text = (tmp_path / "log.txt").read_text()
    last = text.strip().splitlines()[-1]
    assert code == 1
    assert last.startswith("Error: ")
    assert word in last
    assert "labeled0" in last
    assert not (tmp_path / "run").exists()


def test_bad_unlabelled_volumes_are_set_aside(ms_data, tmp_path):
    data = broken_data(ms_data, tmp_path / "data", "unlabeled", lambda path: path.write_bytes(b"nothing"))
    run_here("training", CONFIG, options(tmp_path / "run", data))
    manifest = json.loads((tmp_path / "run" / "pseudo_labels" / "manifest.json").read_text())
    assert len(manifest["images"]) == 3
    assert [Path(entry["image"]).name for entry in manifest["set_aside"]] == ["unlabeled0_flair.nii.gz"]


def test_single_labelled_slices_are_refused(ms_data, tmp_path):
    """In patches there would be nothing around them."""
    datalist = load_datalist(ms_data / "datalist.json")
    datalist["labeled"][0]["slice"] = 20
    save_datalist(datalist, tmp_path / "slices.json")
    with pytest.raises(Exception) as refused:
        run_here("training", CONFIG, options(tmp_path / "run", ms_data, datalist=str(tmp_path / "slices.json")))
    assert "patch_size must have 1 as its last side where single slices are labelled" in str(cause(refused.value))
