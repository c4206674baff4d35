"""nnU-Net's row: what is handed to it, how its predictions are scored, and what is refused; without nnU-Net."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from common.data.datalist import save_datalist
from common.phantoms import acdc, lgg

FILE = Path(__file__).parents[2] / "benchmarks" / "nnunet.py"
SPEC = importlib.util.spec_from_file_location("nnunet", FILE)
nnunet = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(nnunet)

CASE = "case_0000"
# commands as nnU-Net has them: they tell how they were called, and a class's probability is how bright its pixels are
COMMAND = """import os, sys
from pathlib import Path
words = sys.argv[1:]
print(Path(sys.argv[0]).name, *words, os.environ["nnUNet_raw"], os.environ["nnUNet_n_proc_DA"])
if "failing" in words:
    sys.exit(1)
if "-i" in words:
    images, folder = (Path(words[words.index(option) + 1]) for option in ("-i", "-o"))
    import nibabel, numpy
    folder.mkdir()
    for file in images.glob("*_0000.nii.gz"):
        values = nibabel.load(file).get_fdata().transpose(2, 1, 0)
        near = [abs(values - grey) for grey in (0, 0.5, 1)]
        numpy.savez(folder / file.name.replace("_0000.nii.gz", ".npz"), probabilities=1 - numpy.stack(near))
"""


@pytest.fixture
def commands(tmp_path) -> Path:
    """The bin folder of an environment with commands that only look like nnU-Net's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (folder / "python").chmod(0o755)
    for name in (nnunet.PLAN, nnunet.TRAIN, nnunet.PREDICT):
        (folder / name).write_text(COMMAND)
    return folder


def radiographs(folder: Path, overlapping: bool = False) -> Path:
    """A datalist of pictures on which the right lung is grey and the left one white, each of another shape."""
    items = []
    for number in range(6):
        right, left = np.zeros((2, 32, 40), np.uint8)
        right[4:28, 2 + number : 16] = 255
        left[6 : 20 + number, 14 if overlapping else 20 : 38] = 255
        image = np.maximum(right // 2, left)
        files = [folder / f"{kind}{number}.png" for kind in ("image", "right", "left")]
        for file, values in zip(files, (image, right, left), strict=True):
            Image.fromarray(values).save(file)
        items.append({"image": str(files[0]), "label": [str(file) for file in files[1:]], "patient": f"p{number}"})
    parts = {"labeled": items[:2], "unlabeled": [], "validation": items[2:3], "test": items[3:]}
    datalist = {"name": "lungs", "mode": "multilabel", "classes": ["right", "left"], **parts}
    return save_datalist(datalist, folder / "lungs.json")


def hearts(folder: Path) -> Path:
    """A datalist of volumes with slices of 48 x 48."""
    data = acdc.make_acdc_phantom(folder / "acdc", patients=8, size=48, slices=3)
    return save_datalist(acdc.phantom_datalist(data, labeled=2), folder / "hearts.json")


def blocks(folder: Path) -> Path:
    """A datalist of volumes with voxels of 1 mm, turned to the left, in which two blocks are brighter."""
    items, rng = [], np.random.default_rng(0)
    for number in range(4):
        label = np.zeros((14, 12, 10), np.uint8)
        label[2:6, 3:9, 2 : 5 + number] = 1
        label[8:12, 3 : 6 + number, 4:8] = 2
        files = {kind: str(folder / f"{kind}{number}.nii.gz") for kind in ("image", "label")}
        for file, values in zip(files.values(), (label + rng.random(label.shape, np.float32), label), strict=True):
            nib.save(nib.Nifti1Image(values, np.diag([-1.0, 1, 1, 1])), file)
        items.append({**files, "patient": f"p{number}"})
    parts = {"labeled": items[:2], "unlabeled": [], "validation": [], "test": items[2:]}
    return save_datalist({"mode": "multiclass", "classes": ["front", "back"], **parts}, folder / "blocks.json")


def copied_labels(ours, folder: Path) -> None:
    """Predictions as nnU-Net saves them, of the size of training, that say what the test labels say."""
    folder.mkdir()
    for index in range(len(ours.test)):
        values = nnunet.label_map(ours.test[index]["label"], ours, "a test image").numpy()
        said = values[None] == np.arange(ours.labels.num_classes + 1).reshape(-1, 1, 1, 1)
        np.savez(folder / f"case_{index:04}.npz", probabilities=said.transpose(0, 3, 2, 1))


def command_line(monkeypatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["nnunet.py", *map(str, words)])
    nnunet.main()


def test_pictures_go_through_all_commands_and_come_back_scored(tmp_path, commands, monkeypatch, capsys):
    output = tmp_path / "run"
    options = ("--bundle", "jsrt_rpg", "--size", 40, 32, "--nnunet", commands, "--output", output)
    command_line(monkeypatch, radiographs(tmp_path), *options, "--trainer", "nnUNetTrainer_5epochs", "--threads", 2)

    raw = output / "nnunet" / "raw" / nnunet.DATASET
    assert len([*(raw / "imagesTr").iterdir()]) == len([*(raw / "labelsTr").iterdir()]) == 2  # the labelled alone
    image, label = (nib.load(raw / name) for name in ("imagesTr/case_0000_0000.nii.gz", "labelsTr/case_0000.nii.gz"))
    assert image.shape == label.shape == (40, 32, 1)
    assert image.header.get_zooms() == label.header.get_zooms() == (1, 1, nnunet.BETWEEN_SLICES)
    np.testing.assert_allclose(label.get_fdata() / 2, image.get_fdata(), atol=0.01)

    log = [line.split() for line in (output / "log.txt").read_text().splitlines()]
    told = [line for line in log if line[-2] == str(raw.parent)]
    assert [(line[0], line[-1]) for line in told] == [(nnunet.PLAN, "2"), (nnunet.TRAIN, "1"), (nnunet.PREDICT, "2")]
    assert told[1][1:] == ["1", "2d", "all", "-tr", "nnUNetTrainer_5epochs", "-device", "cpu", str(raw.parent), "1"]

    table = pd.read_csv(output / "test.csv")
    assert [*table["case"]] == [f"image{number}" for number in (3, 3, 4, 4, 5, 5)]
    assert [*table["class"]] == ["right", "left"] * 3
    assert (table[["iou", "dice"]] == 1).all(axis=None)
    assert (table[["planning_seconds", "training_seconds", "prediction_seconds"]] >= 0).all(axis=None)
    assert "1.0   1.0" in capsys.readouterr().out


@pytest.mark.parametrize(("size", "least"), [((48, 48), 1.0), ((32, 24), 0.6)])
def test_volumes_come_back_at_the_size_that_is_scored(tmp_path, size, least):
    """Copies of the labels are right in every voxel, and nearly where they were made smaller for training."""
    ours = nnunet.read_ours(hearts(tmp_path), "acdc_unimatch", tmp_path / "run", size)
    nnunet.write_raw(ours, tmp_path / "raw")
    raw = tmp_path / "raw"
    image, label = nib.load(raw / "imagesTr" / f"{CASE}_0000.nii.gz"), nib.load(raw / "labelsTr" / f"{CASE}.nii.gz")
    assert image.shape == label.shape == (*size, 3)
    assert set(np.unique(label.get_fdata())) == {0, 1, 2, 3}

    copied_labels(ours, tmp_path / "predicted")
    table = nnunet.score(ours, nnunet.predictions(ours, tmp_path / "predicted"), {"training": 61.26})
    assert len(table) == len(ours.test) * 3 == 12
    assert table["dice"].between(least, 1).all()
    assert (table["dice"] == 1).all() == (least == 1)
    assert (table["training_seconds"] == 61.3).all()


def test_volumes_that_are_not_resized_keep_their_voxels(tmp_path):
    ours = nnunet.read_ours(blocks(tmp_path), "ms_popcorn", tmp_path / "run")
    nnunet.write_raw(ours, tmp_path / "raw")
    image = nib.load(tmp_path / "raw" / "imagesTs" / f"{CASE}_0000.nii.gz")
    own = ours.test[0]["image"]
    np.testing.assert_array_equal(image.get_fdata(), own[0])
    np.testing.assert_allclose(image.header.get_zooms(), np.linalg.norm(own.affine[:3, :3], axis=0))
    copied_labels(ours, tmp_path / "predicted")
    assert (nnunet.score(ours, nnunet.predictions(ours, tmp_path / "predicted"), {})["dice"] == 1).all()


def test_slices_of_a_patient_are_one_volume(tmp_path):
    data = lgg.make_lgg_phantom(tmp_path / "lgg", patients=8, size=48, slices=10)
    file = save_datalist(lgg.phantom_datalist(data), tmp_path / "lgg.json")
    ours = nnunet.read_ours(file, "lgg_segmatch", tmp_path / "run", (48, 48))
    nnunet.write_raw(ours, tmp_path / "raw")
    assert len([*(tmp_path / "raw" / "labelsTr").iterdir()]) == 2
    assert nib.load(tmp_path / "raw" / "labelsTr" / f"{CASE}.nii.gz").shape == (48, 48, 10)
    copied_labels(ours, tmp_path / "predicted")
    table = nnunet.score(ours, nnunet.predictions(ours, tmp_path / "predicted"), {})
    assert len(table) == len(ours.test) == 2
    assert (table[["dice", "slice_dice"]] == 1).all(axis=None)


@pytest.mark.parametrize("size", [(40, 32), (20, 16)])
def test_classes_that_overlap_are_refused(tmp_path, size):
    ours = nnunet.read_ours(radiographs(tmp_path, overlapping=True), "jsrt_rpg", tmp_path / "run", size)
    with pytest.raises(ValueError, match=r"image0\.png must not overlap.* pixels in several of right, left"):
        nnunet.write_raw(ours, tmp_path / "raw")


def test_what_cannot_be_done_is_refused_in_one_sentence(tmp_path, commands, monkeypatch):
    file = radiographs(tmp_path)
    options = (file, "--bundle", "jsrt_rpg", "--size", 40, 32, "--output", tmp_path / "run", "--nnunet")
    with pytest.raises(
        SystemExit, match=r"Error: .*/lost must be the bin folder of .* got no python, nnUNetv2_plan_and"
    ):
        command_line(monkeypatch, *options, tmp_path / "lost")
    with pytest.raises(
        SystemExit, match=r"Error: size must not be given for ms_popcorn, whose volumes are not resized"
    ):
        command_line(monkeypatch, *options, commands, "--bundle", "ms_popcorn")
    with pytest.raises(SystemExit, match=r"Error: nnUNetv2_train failed: see .*/run/log\.txt"):
        command_line(monkeypatch, *options, commands, "--trainer", "failing")
    with pytest.raises(SystemExit, match=r"Error: .*/run must be a new folder"):
        command_line(monkeypatch, *options, commands)
