"""Inference over a folder with damaged images, in every bundle: all others are segmented, and the end names them."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path

import damaged
import itk
import nibabel
import numpy as np
import oct_dicom
import pydicom
import pytest
import torch
from bundle_runs import FEATURES, ROOT, configs, run_here
from damaged import CHECKED, LENGTH_ALONE, SAMPLE, outcomes
from monai.bundle import ConfigParser
from monai.transforms import Compose, LoadImaged
from PIL import Image

BUNDLES = sorted(folder.name for folder in (ROOT / "bundles").iterdir() if (folder / "configs").is_dir())
SCRIPTS = runpy.run_path(str(ROOT / "bundles" / BUNDLES[0] / "scripts" / "folder.py"))
VALUES = np.random.default_rng(0).random((32, 32, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return damaged.write_whole(tmp_path_factory.mktemp("whole"))


def read(path: Path) -> np.ndarray:
    """As inference of 2D images reads: ITK, which looks at no check sum, after the bundle's own look."""
    load = Compose([SCRIPTS["Wholed"]("image"), LoadImaged("image", reader="ITKReader"), SCRIPTS["Finited"]("image")])
    return np.asarray(load({"image": str(path)})["image"])


@pytest.mark.parametrize("damage", [damaged.cut, damaged.flipped, damaged.without_end])
@pytest.mark.parametrize("name", CHECKED)
def test_no_damaged_file_with_a_check_sum_is_segmented(whole, tmp_path, name, damage):
    assert outcomes(whole / name, damage, tmp_path, read)["others"] == 0


@pytest.mark.parametrize("name", LENGTH_ALONE)
def test_no_short_file_is_segmented(whole, tmp_path, name):
    assert outcomes(whole / name, damaged.cut, tmp_path, read) == {"refused": SAMPLE}


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mha"])
def test_not_a_number(tmp_path, name):
    """ITK makes zeros of those in a NIfTI file."""
    values = VALUES.copy()
    values[1, 2, 3] = np.nan
    if name == "a.mha":
        itk.imwrite(itk.image_from_array(values), str(tmp_path / name))
    else:
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / name)
    with pytest.raises(RuntimeError) as refused:
        read(tmp_path / name)
    assert "NaN or infinity" in str(refused.value.__cause__)


def series(folder: Path, **changes: dict) -> Path:
    """Six slices at distances of 3 mm; ``changes`` are tags of single ones, by ``slice0`` and so on."""
    folder.mkdir()
    for index in range(6):
        path = oct_dicom.write(folder / f"slice{index}.dcm", oct_dicom.VALUES[..., index : index + 1])
        header = pydicom.dcmread(path)
        header.ImageOrientationPatient, header.SeriesInstanceUID = [1, 0, 0, 0, 1, 0], "1.2.3"
        header.ImagePositionPatient = [0, 0, 3 * index]
        for name, value in changes.get(path.stem, {}).items():
            setattr(header, name, value)
        header.save_as(path)
    return folder


def test_slices_of_a_series(tmp_path):
    look = SCRIPTS["Wholed"]("image")
    right = series(tmp_path / "right", slice2={"ImagePositionPatient": [0.1, 0, 6.1]})
    assert look({"image": str(right)}) == {"image": str(right)}
    for name, place in (("moved", [2, 0, 6]), ("gap", [0, 0, 7.5]), ("twice", [0, 0, 3])):
        folder = series(tmp_path / name, slice2={"ImagePositionPatient": place})
        with pytest.raises(ValueError, match=rf"{name} must hold one series with slices at equal distances"):
            look({"image": str(folder)})
    tilted = series(tmp_path / "tilted", **{f"slice{i}": {"ImagePositionPatient": [0, i / 2, 3 * i]} for i in range(6)})
    mixed = series(tmp_path / "mixed", slice5={"SeriesInstanceUID": "1.2.4"})
    (tmp_path / "missing").mkdir()
    missing = series(tmp_path / "missing" / "one")
    (missing / "slice3.dcm").unlink()
    for folder in (tilted, mixed, missing):
        with pytest.raises(ValueError, match=rf"{folder.name} must hold one series"):
            look({"image": str(folder)})
    for size in (0, 200, -1):
        folder = series(tmp_path / f"short{size}")
        file = folder / "slice5.dcm"
        file.write_bytes(file.read_bytes()[:size])
        with pytest.raises(ValueError, match=r"slice5.dcm must be whole"):
            look({"image": str(folder)})


@pytest.mark.parametrize(
    ("files", "names", "expected"),
    [
        (["a.png", "b.png"], ["lung"], []),
        (["a.jpg", "a.png", "b.png"], ["lung"], ["a.jpg", "a.png"]),
        (["a.mhd", "b.nii", "b.nii.gz"], ["lung"], ["b.nii", "b.nii.gz"]),
        (["a", "b.1.png", "b.png", "a.dcm"], ["lung"], ["a", "a.dcm"]),
        (["a.png", "a_left.png"], ["lung", "left_lung"], ["a.png", "a_left.png"]),
        ([], ["lung"], []),
    ],
)
def test_images_whose_masks_would_have_one_name(files, names, expected):
    assert SCRIPTS["twins"]([Path(file) for file in files], names) == expected


@pytest.fixture(params=BUNDLES)
def bundle(request):
    return request.param


@pytest.fixture
def settings(bundle, tmp_path):
    """Inference by a tiny network that nobody has trained, on an empty folder."""
    parser = ConfigParser()
    parser.read_config(configs("inference", bundle=bundle))
    parser["network_def"]["features"] = FEATURES
    torch.save(parser.get_parsed_content("network_def").state_dict(), tmp_path / "model.pt")
    (tmp_path / "images").mkdir()
    sizes = {"patch_size": [16, 16, 16]} if "patch_size" in parser.config else {"image_size": [32, 32]}
    return {
        "bundle_root": f"bundles/{bundle}",
        "dataset_dir": str(tmp_path / "images"),
        "output_dir": str(tmp_path / "masks"),
        "ckpt_path": str(tmp_path / "model.pt"),
        "network_def#features": FEATURES,
        **sizes,
    }


def write(folder: Path, flat: bool) -> None:
    """Three images that are whole, and one that is cut off, one with NaN and one that is text among them."""
    values = VALUES[..., 0] if flat else VALUES
    broken = values.copy()
    broken[3, 4] = np.nan
    for name, content in (("a", values), ("b", values), ("c", broken), ("e", values)):
        nibabel.save(nibabel.Nifti1Image(content, np.eye(4)), folder / f"{name}.nii.gz")
    (folder / "b.nii.gz").write_bytes((folder / "b.nii.gz").read_bytes()[:-1])
    (folder / "d.nii").write_text("no image")
    itk.imwrite(itk.image_from_array(np.ascontiguousarray(values.T)), str(folder / "f.mha"))


def test_the_rest_of_the_folder_is_segmented(bundle, settings, tmp_path, capfd):
    write(tmp_path / "images", "jsrt" in bundle)
    with pytest.raises(SystemExit) as ended:
        run_here("inferring", configs("inference", bundle=bundle), settings)
    first, *lines = str(ended.value.code).splitlines()
    assert first == "Error: 3 of 6 images were not segmented:"
    for line, name, reason in zip(
        lines, ("b.nii.gz", "c.nii.gz", "d.nii"), ("end-of-stream", "NaN or infinity", ""), strict=True
    ):
        assert line.startswith(f"  {tmp_path / 'images' / name}: ") and reason in line
    written = {path.name for path in (tmp_path / "masks").iterdir()}
    assert {name.split("_")[0] for name in written - {"volumes.csv"}} == {"a", "e", "f"}
    masks = len(json.loads((ROOT / "bundles" / bundle / "configs" / "inference.json").read_text())["classes"])
    assert len(written) == {"jsrt": 3 * (masks + 1), "retouch": 3 * 2 + 1}.get(bundle.split("_")[0], 3 * masks)


def test_masks_of_one_name_are_refused_before_any_is_written(bundle, settings, tmp_path):
    write(tmp_path / "images", "jsrt" in bundle)
    shutil.copy(tmp_path / "images" / "f.mha", tmp_path / "images" / "a.mha")
    with pytest.raises(SystemExit, match=r"a\.mha.*a\.nii\.gz"):
        run_here("inferring", configs("inference", bundle=bundle), settings)
    assert not (tmp_path / "masks").exists()


def test_a_picture_of_each_name_in_two_formats(tmp_path):
    """What is segmented is a picture, whose library knows its length; ITK gives what there is."""
    Image.fromarray(damaged.PICTURE).save(tmp_path / "a.jpg")
    Image.fromarray(damaged.PICTURE).save(tmp_path / "a.bmp")
    for name in ("a.jpg", "a.bmp"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[:-40])
        with pytest.raises(RuntimeError) as refused:
            read(tmp_path / name)
        assert f"{name} must be whole, got image file is truncated" in str(refused.value.__cause__)
