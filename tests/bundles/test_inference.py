"""Masks of new images, in their own size and orientation, from a folder that needs MONAI and torch alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from bundle_runs import BUNDLE, FEATURES, configs, python, run_here, weights
from monai.bundle import ConfigParser
from monai.transforms import Compose, Invertd
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from common.networks import BasicUNet
from common.phantoms.jsrt import render_patient

CLASSES = ["right_lung", "left_lung", "heart", "right_clavicle", "left_clavicle"]
SIZE = [64, 48]
HEIGHT, WIDTH = 96, 80  # neither square nor the network's


def save_dicom(path: Path, image: np.ndarray, photometric: str) -> None:
    """A computed radiograph of 12 bits; for MONOCHROME1 with the values that look the same on a screen."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ComputedRadiographyImageStorage, generate_uid()
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.Modality, dataset.PhotometricInterpretation = "CR", photometric
    dataset.Rows, dataset.Columns = image.shape
    dataset.SamplesPerPixel, dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 1, 16, 12, 11
    dataset.PixelRepresentation, dataset.PixelSpacing = 0, [0.4, 0.4]
    dataset.PixelData = (4095 - image if photometric == "MONOCHROME1" else image).astype("<u2").tobytes()
    pydicom.dcmwrite(path, dataset)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """A folder with one radiograph in every kind of file, and with files that are no images."""
    folder = tmp_path_factory.mktemp("images")
    image = (render_patient(0, 30, HEIGHT)[0][:, 8:-8] * 4000).astype(np.uint16)
    Image.fromarray((image // 16).astype(np.uint8)).save(folder / "grey.png")
    Image.fromarray((image // 16).astype(np.uint8)).convert("RGB").save(folder / "colour.png")
    Image.fromarray(image).save(folder / "deep.tif")
    save_dicom(folder / "mono1.dcm", image, "MONOCHROME1")
    save_dicom(folder / "mono2.dcm", image, "MONOCHROME2")
    nibabel.save(nibabel.Nifti1Image(image.T.astype(np.float32), np.diag([-0.4, -0.4, 1, 1])), folder / "slice.nii.gz")
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def model(images, tmp_path_factory) -> Path:
    """A folder with weights that nobody trained, but whose masks cover a third of the picture, each another third."""
    torch.manual_seed(0)
    network = BasicUNet(out_channels=len(CLASSES), features=FEATURES).eval()
    image = torch.from_numpy(np.asarray(Image.open(images / "grey.png")) / 255).float()
    with torch.no_grad():
        logits = network(torch.nn.functional.interpolate(image.T[None, None], SIZE))[0]
        network.final_conv.bias -= logits.flatten(1).quantile(2 / 3, dim=1)
    folder = tmp_path_factory.mktemp("model")
    torch.save(network.state_dict(), folder / "model.pt")
    return folder


NAMES = ["colour", "deep", "grey", "mono1", "mono2", "slice"]


def settings(images: Path, output_dir: Path, model: Path, **changes) -> dict:
    folders = {"dataset_dir": str(images), "output_dir": str(output_dir), "ckpt_path": str(model / "model.pt")}
    return {
        "bundle_root": "bundles/jsrt_rpg",
        **folders,
        "image_size": SIZE,
        "network_def#features": FEATURES,
        **changes,
    }


@pytest.fixture(scope="module")
def predicted(images, model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("predictions")
    run_here("inferring", configs("inference"), settings(images, folder, model))
    return folder


def masks(folder: Path, name: str) -> np.ndarray:
    """Masks of one image, ``C H W`` of 0 and 1."""
    found = np.stack([np.asarray(Image.open(folder / f"{name}_{label}.png")) for label in CLASSES])
    assert set(np.unique(found)) <= {0, 255}
    return found > 0


def expected(path: Path, model: Path) -> np.ndarray:
    """Masks by the training's transforms and the saved weights, brought back to the image's size."""
    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs" / "train.json"))
    parser["image_size"] = SIZE
    load = Compose([parser.get_parsed_content(f"train#preprocessing#transforms#{number}") for number in (0, 2, 3)])
    item = load({"image": str(path)})
    network = BasicUNet(out_channels=len(CLASSES), features=FEATURES)
    network.load_state_dict(weights(model))
    with torch.no_grad():
        item["pred"] = network.eval()(item["image"][None])[0].sigmoid()
    item = Invertd("pred", load, orig_keys="image", nearest_interp=False)(item)
    return (item["pred"] > 0.5).numpy().transpose(0, 2, 1)


def test_masks_and_preview_of_every_file(predicted):
    wanted = {f"{name}_{what}.png" for name in NAMES for what in [*CLASSES, "preview"]}
    assert {file.name for file in predicted.iterdir()} == wanted
    for name in NAMES:
        assert masks(predicted, name).shape == (len(CLASSES), HEIGHT, WIDTH)
        assert np.asarray(Image.open(predicted / f"{name}_preview.png")).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("name", ["deep.tif", "grey.png", "mono1.dcm", "mono2.dcm", "slice.nii.gz"])
def test_masks_are_those_of_the_training_s_transforms(predicted, images, model, name):
    found, wanted = masks(predicted, name.split(".")[0]), expected(images / name, model)
    assert all(0.1 < mask.mean() < 0.6 for mask in wanted)
    assert (found != wanted).mean() < 1e-4  # a pixel whose probability is 0.5 up to rounding


def test_pictures_are_read_as_they_are_in_training(model, tmp_path):
    """Colours weighted, opacity left out, and values of which 0 is white turned round."""
    rng, folder = np.random.default_rng(0), tmp_path / "images"
    folder.mkdir()
    shades = np.stack([render_patient(number, 30, HEIGHT)[0][:, 8:-8] for number in range(3)], axis=-1)
    colours = (shades * 255).astype(np.uint8)
    opacity = rng.integers(0, 255, (*colours.shape[:2], 1), np.uint8)
    Image.fromarray(colours).save(folder / "colours.png")
    Image.fromarray(np.concatenate([colours, opacity], axis=-1)).save(folder / "glass.png")
    Image.fromarray(np.concatenate([colours[..., :1], opacity], axis=-1)).save(folder / "pane.png")
    Image.fromarray(255 - colours[..., 0]).save(folder / "negative.tif", tiffinfo={262: 0})
    run_here("inferring", configs("inference"), settings(folder, tmp_path / "masks", model))
    for file in sorted(folder.iterdir()):
        wanted = expected(file, model)
        assert 0.1 < wanted.mean() < 0.6
        assert (masks(tmp_path / "masks", file.stem) != wanted).mean() < 1e-4


def test_all_files_show_the_same_patient(predicted):
    for name in NAMES:
        assert (masks(predicted, name) != masks(predicted, "deep")).mean() < 0.02


def test_the_preview_shows_the_image_with_colours(predicted, images):
    preview = np.asarray(Image.open(predicted / "grey_preview.png")).astype(float)
    image = np.asarray(Image.open(images / "grey.png")).astype(float)
    outside = ~masks(predicted, "grey").any(axis=0)
    assert np.corrcoef(preview[outside].mean(axis=1), image[outside])[0, 1] > 0.95
    coloured = np.ptp(preview, axis=2) > 10
    assert coloured[~outside].mean() > 0.9
    assert coloured[outside].mean() < 0.1


def test_masks_as_nifti_keep_the_image_s_geometry(images, model, tmp_path, predicted):
    only = tmp_path / "images"
    only.mkdir()
    shutil.copy(images / "slice.nii.gz", only)
    run_here("inferring", configs("inference"), settings(only, tmp_path / "masks", model, output_ext=".nii.gz"))
    image = nibabel.load(only / "slice.nii.gz")
    for number, label in enumerate(CLASSES):
        mask = nibabel.load(tmp_path / "masks" / f"slice_{label}.nii.gz")
        np.testing.assert_allclose(mask.affine, image.affine, atol=1e-6)
        values = np.asarray(mask.dataobj).squeeze()
        assert values.shape == image.shape
        assert (masks(predicted, "slice")[number] == (values > 0).T).all()
        assert set(np.unique(values)) <= {0, 1}


def test_a_copied_bundle_infers_without_this_repository(images, model, predicted, tmp_path):
    """From another folder, with an interpreter in which importing ``common`` fails."""
    bundle, elsewhere = tmp_path / "served", tmp_path / "elsewhere"
    shutil.copytree(BUNDLE, bundle, ignore=shutil.ignore_patterns("models", "eval"))
    (bundle / "models").mkdir()
    elsewhere.mkdir()
    shutil.copy(model / "model.pt", bundle / "models")
    code = (
        "import sys, runpy\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'common':\n"
        "            raise ImportError('common is out of reach')\n"
        "sys.meta_path.insert(0, Block())\n"
        "runpy.run_module('monai.bundle', run_name='__main__')\n"
    )
    arguments = ["run", "--config_file", str(bundle / "configs" / "inference.json"), "--bundle_root", str(bundle)]
    arguments += ["--dataset_dir", str(images), "--image_size", str(SIZE), "--network_def#features", str(FEATURES)]
    python("-I", "-c", code, *arguments, cwd=elsewhere)
    output = bundle / "eval" / "predictions"
    assert {file.name for file in output.iterdir()} == {file.name for file in predicted.iterdir()}
    for name in NAMES:
        assert (masks(output, name) == masks(predicted, name)).all()
