"""The bundle of B-scans: trained on single labelled ones, resumed, evaluated on volumes, used for inference."""

from __future__ import annotations

import csv
import shutil
import signal
from functools import partial
from pathlib import Path

import bundle_runs
import itk
import nibabel
import numpy as np
import pandas as pd
import pytest
from bundle_runs import configs, run_here, run_in_fork, same, train_log, weights
from oct_dicom import PLACES, VALUES, write

from common.data import load_datalist
from common.data.convert import convert_dicom
from common.data.volumes import read_volume, read_volume_labels

CONFIG = configs("train", bundle="retouch_rpg")
EVALUATE = configs("train", "evaluate", bundle="retouch_rpg")
CLASSES = ["IRF", "SRF", "PED"]
TINY = {
    "image_size": [32, 32],  # not the volumes' size, which is 48
    "unlabeled_batch": 2,
    "network_def#features": [4, 4, 4, 4, 8, 4],
    "epochs": 3,
    "iterations": 8,
    "val_interval": 1,
    "learning_rate": 0.02,
    "method#loss": {"_target_": "common.losses.Dice"},
    "keep_last": True,
    "method#neighbors": 0.5,
    "method#reference_size": 8,
    "method#query_size": 8,
}


options = partial(bundle_runs.options, bundle="retouch_rpg", tiny=TINY)


@pytest.fixture(scope="module")
def whole(retouch_data, tmp_path_factory) -> Path:
    """Folder of a run that was never stopped, and evaluated."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run_here("training", CONFIG, options(folder, retouch_data))
    run_here("evaluating", EVALUATE, options(folder, retouch_data))
    return folder


def test_it_learns_from_references(whole):
    log = train_log(whole)
    assert {"loss_supervised", "loss_unsupervised"} <= set(log.columns)
    assert (log["loss_unsupervised"] > 0).any()


@pytest.mark.parametrize("moment", [("iteration", 4), ("writing", 2)])
def test_a_killed_run_on_b_scans_ends_the_same(whole, retouch_data, tmp_path, moment):
    settings = options(tmp_path / "run", retouch_data)
    assert run_in_fork("training", CONFIG, settings, tmp_path / "log.txt", moment) == -signal.SIGKILL
    run_here("training", CONFIG, settings | {"resume": True})
    assert same(weights(tmp_path / "run"), weights(whole))


def test_scores_are_of_volumes_with_sizes_in_mm3(whole, retouch_data):
    table, test = pd.read_csv(whole / "test.csv"), load_datalist(retouch_data / "datalist.json")["test"]
    assert len(table) == 3 * len(test) and set(table["class"]) == set(CLASSES)
    assert set(table["unit"]) == {"mm3"}
    for row in table.itertuples():
        truth = itk.imread(row.truth)
        values = itk.array_from_image(truth)  # z, y, x
        found = np.asarray(nibabel.load(whole / row.prediction).dataobj).transpose()
        value = 1 + CLASSES.index(row[2])
        union = ((values == value) | (found == value)).sum()
        if not (values == value).any():
            assert np.isnan(row.iou)  # it is a matter of detection
        else:
            assert row.iou == pytest.approx(((values == value) & (found == value)).sum() / union, abs=1e-5)
        voxel = np.prod(np.array(truth.GetSpacing()))
        assert row.truth_size == pytest.approx((values == value).sum() * voxel, rel=1e-4)


def test_distances_and_volumes_may_count_voxels(whole, retouch_data, tmp_path):
    shutil.copytree(whole / "models", tmp_path / "run", dirs_exist_ok=True)
    run_here("evaluating", EVALUATE, options(tmp_path / "run", retouch_data, unit="pixels"))
    table, before = pd.read_csv(tmp_path / "run" / "test.csv"), pd.read_csv(whole / "test.csv")
    assert set(table["unit"]) == {"voxels"}
    voxel = 6 / 48 * 1.92 / 48 * 6 / 4  # mm3
    np.testing.assert_allclose(table["truth_size"] * voxel, before["truth_size"], rtol=1e-4)


@pytest.fixture(scope="module")
def inferred(whole, retouch_data, tmp_path_factory) -> Path:
    """Label volumes of the phantom's folder, made by the run's bundle, copied elsewhere."""
    place = tmp_path_factory.mktemp("inferred")
    shutil.copytree(whole, place / "bundle", ignore=shutil.ignore_patterns("predictions", "cases"))
    settings = {
        "bundle_root": str(place / "bundle"),
        "dataset_dir": str(retouch_data),
        "output_dir": str(place / "out"),
    }
    run_here("inferring", [str(place / "bundle" / "configs" / "inference.json")], settings)
    return place / "out"


def test_inference_gives_label_volumes_in_the_images_geometry(whole, retouch_data, inferred):
    images = sorted(retouch_data.rglob("oct.mhd"))
    assert len(list(inferred.rglob("oct_fluid.mhd"))) == len(images)
    for path in images:
        image = itk.imread(str(path))
        labels = itk.imread(str(inferred / path.parent.relative_to(retouch_data) / "oct_fluid.mhd"))
        for name in ("GetSpacing", "GetOrigin"):
            assert np.allclose(getattr(labels, name)(), getattr(image, name)(), atol=1e-6)
        directions = [itk.array_from_matrix(one.GetDirection()) for one in (labels, image)]
        assert np.allclose(*directions)
        assert itk.size(labels) == itk.size(image)


def test_inference_agrees_with_the_evaluation(whole, retouch_data, inferred):
    table = pd.read_csv(whole / "test.csv").drop_duplicates("image")
    different = total = 0
    for row in table.itertuples():
        place = Path(row.image).parent.relative_to(retouch_data)
        labels = itk.array_from_image(itk.imread(str(inferred / place / "oct_fluid.mhd"))).transpose()
        evaluated = np.asarray(nibabel.load(whole / row.prediction).dataobj)
        different += (labels != evaluated).sum()
        total += (evaluated > 0).sum()
    assert total > 0 and different < 0.01 * total  # images are cached in half precision


def test_volumes_are_listed_in_mm3(retouch_data, inferred):
    with (inferred / "volumes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(list(retouch_data.rglob("oct.mhd")))
    for row in rows:
        labels = itk.imread(str(inferred / Path(row["image"]).parent.relative_to(retouch_data) / "oct_fluid.mhd"))
        voxel, values = np.prod(np.array(labels.GetSpacing())), itk.array_from_image(labels)
        for value, name in enumerate(CLASSES, 1):
            assert float(row[f"{name} (mm3)"]) == pytest.approx((values == value).sum() * voxel, rel=1e-4)


def test_inference_writes_nifti_where_asked(whole, retouch_data, tmp_path):
    image = next(retouch_data.rglob("oct.mhd"))
    shutil.copytree(image.parent, tmp_path / "images")
    settings = {"bundle_root": str(whole), "dataset_dir": str(tmp_path / "images"), "output_dir": str(tmp_path / "out")}
    run_here("inferring", [str(whole / "configs" / "inference.json")], settings | {"output_ext": ".nii.gz"})
    labels, origin = nibabel.load(tmp_path / "out" / "oct_fluid.nii.gz"), itk.imread(str(image)).GetOrigin()
    assert np.allclose(labels.affine[:3, 3], [-origin[0], -origin[1], origin[2]], atol=1e-5)  # ITK's axes are LPS


def infer(whole, folder, **changes):
    settings = {"bundle_root": str(whole), "dataset_dir": str(folder), "output_dir": str(folder / "out"), **changes}
    run_here("inferring", [str(whole / "configs" / "inference.json")], settings)


def test_dicom_is_refused_until_it_is_made_into_volumes(whole, tmp_path):
    (tmp_path / "scans").mkdir()
    image = write(tmp_path / "scans" / "eye.dcm", places=PLACES)
    with pytest.raises(SystemExit, match=r"must be made into volumes \(convert dicom\): \[.*eye\.dcm'\]"):
        infer(whole, tmp_path / "scans")
    convert_dicom(tmp_path / "scans", tmp_path / "volumes")
    infer(whole, tmp_path / "volumes")
    mask = read_volume_labels(tmp_path / "volumes" / "out" / "eye_fluid.mhd")
    np.testing.assert_allclose(mask.affine, read_volume(image).affine, atol=1e-6)
    assert mask.shape == VALUES.shape


def test_masks_are_not_taken_for_volumes_and_do_not_replace_each_other(whole, retouch_data, tmp_path):
    image = next(retouch_data.rglob("oct.mhd"))
    shutil.copytree(image.parent, tmp_path / "images")
    shutil.copy(tmp_path / "images" / "oct.mhd", tmp_path / "images" / "scan.mhd")
    for output in (tmp_path / "images" / "out", tmp_path / "images", tmp_path / "images"):
        infer(whole, tmp_path / "images", output_dir=str(output))
        with (output / "volumes.csv").open() as file:
            assert [Path(row["image"]).name for row in csv.DictReader(file)] == ["oct.mhd", "scan.mhd"]
    nibabel.save(nibabel.Nifti1Image(np.eye(4)[..., None], np.eye(4)), tmp_path / "images" / "oct.nii.gz")
    with pytest.raises(
        SystemExit, match=r"Error: 2 of 3 .*\n.*oct\.mhd: .*oct\.nii\.gz: .*\n.*oct\.nii\.gz: .*oct\.mhd: "
    ):
        infer(whole, tmp_path / "images")


@pytest.mark.parametrize("name", ["Supervised", "MLDS", "IIC", "UniMatch"])
def test_other_methods_train_on_b_scans(retouch_data, tmp_path, name):
    settings = options(tmp_path / "run", retouch_data, **{"method#_target_": f"common.methods.{name}"})
    settings = {key: value for key, value in settings.items() if not key.startswith("method#") or key.endswith("_")}
    run_here("training", CONFIG, settings | {"epochs": 1})
    assert train_log(tmp_path / "run")["loss"].notna().all()


def test_classes_that_overlap_have_no_label_map(whole, retouch_data, tmp_path):
    with pytest.raises(SystemExit, match="classes that overlap have no label map, got the mode multilabel"):
        infer(whole, retouch_data, output_dir=str(tmp_path), mode="multilabel")
