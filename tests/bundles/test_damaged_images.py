"""Inference over a folder with damaged images, in every bundle: all others are segmented, and the end names them."""

from __future__ import annotations

import json
import runpy
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
    reader = LoadImaged("image", reader="ITKReader")
    load = Compose([SCRIPTS["CheckWholed"]("image"), reader, SCRIPTS["CheckFinited"]("image")])
    return np.asarray(load({"image": str(path)})["image"])


@pytest.mark.parametrize("damage", [damaged.cut, damaged.flipped, damaged.without_end])
@pytest.mark.parametrize("name", CHECKED)
def test_no_damaged_file_with_a_check_sum_is_segmented(whole, tmp_path, name, damage):
    assert outcomes(whole / name, damage, tmp_path, read)["others"] == 0


@pytest.mark.parametrize("damage", ["cut", "changed", "other"])
def test_damaged_weights_are_not_loaded(tmp_path, damage):
    path, weights = tmp_path / "model.pt", {"a": torch.rand(1000)}
    torch.save(weights, path)
    assert torch.equal(SCRIPTS["load_weights"](str(path))["a"], weights["a"])
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes({"cut": content[:3000], "changed": content, "other": b"weights"}[damage])
    with pytest.raises(SystemExit, match=r"ckpt_path must be weights as they were written, got .*model\.pt: .*Copy"):
        SCRIPTS["load_weights"](str(path))


@pytest.mark.parametrize(
    ("mode", "bands"), [("L", 1), ("LA", 1), ("RGB", 3), ("RGBA", 3), ("P", 0), ("1", 1), ("I;16", 1)]
)
def test_channels_of_a_picture(tmp_path, mode, bands):
    """A palette's are its colours in training, and its numbers to MONAI's reader: it has no channel to take here."""
    Image.new(mode, (8, 8)).save(tmp_path / "a.png")
    assert SCRIPTS["bands"](tmp_path / "a.png") == bands


def test_an_image_without_a_name_is_not_the_working_directory():
    """MONAI Label asks for one where it does not know the image."""
    with pytest.raises(ValueError, match="an image must have a name, got none"):
        SCRIPTS["CheckWholed"]("image")({"image": ""})


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
    look = SCRIPTS["CheckWholed"]("image")
    right = series(tmp_path / "right", slice2={"ImagePositionPatient": [0.1, 0, 6.1]})
    assert look({"image": str(right)}) == {"image": str(right)}
    for name, place in (("moved", [2, 0, 6]), ("gap", [0, 0, 7.5]), ("twice", [0, 0, 3])):
        folder = series(tmp_path / name, slice2={"ImagePositionPatient": place})
        with pytest.raises(ValueError, match=rf"{name} must hold slices at equal distances"):
            look({"image": str(folder)})
    tilted = series(tmp_path / "tilted", **{f"slice{i}": {"ImagePositionPatient": [0, i / 2, 3 * i]} for i in range(6)})
    missing = series(tmp_path / "missing")
    (missing / "slice3.dcm").unlink()
    for folder in (tilted, missing):
        with pytest.raises(ValueError, match=rf"{folder.name} must hold slices at equal distances"):
            look({"image": str(folder)})
    for name, changed, said in (
        ("mixed", {"SeriesInstanceUID": "1.2.4"}, "must hold one series, got several by SeriesInstanceUID"),
        ("thick", {"SliceThickness": 5}, "must hold one series, got several by SliceThickness"),
        (
            "turned",
            {"ImageOrientationPatient": [0, 1, 0, -1, 0, 0]},
            "must hold slices of one direction and pixel size",
        ),
        ("fine", {"PixelSpacing": [0.5, 1]}, "must hold slices of one direction and pixel size"),
        ("nowhere", {"ImagePositionPatient": None}, "must hold slices that say where they lie"),
    ):
        folder = series(tmp_path / name, slice5=changed)
        with pytest.raises(ValueError, match=rf"{name} {said}"):
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
        (["a.png", "b.png"], ["lung"], {}),
        (["a.jpg", "a.png", "b.png"], ["lung"], {"a.jpg": "a.png", "a.png": "a.jpg"}),
        (["a.jpg", "a.png", "a.bmp"], ["lung"], {"a.jpg": "a.png", "a.png": "a.jpg", "a.bmp": "a.jpg"}),
        (["a.mhd", "b.nii", "b.nii.gz"], ["lung"], {"b.nii": "b.nii.gz", "b.nii.gz": "b.nii"}),
        (["a", "b.1.png", "b.png", "a.dcm"], ["lung"], {"a": "a.dcm", "a.dcm": "a"}),
        (["a.png", "a_left.png"], ["lung", "left_lung"], {"a.png": "a_left.png", "a_left.png": "a.png"}),
        (
            ["one/a.png", "two.d/a.png", "two.d/a.tif"],
            ["lung"],
            {"two.d/a.png": "two.d/a.tif", "two.d/a.tif": "two.d/a.png"},
        ),
        ([], ["lung"], {}),
    ],
)
def test_images_whose_masks_would_have_one_name(files, names, expected):
    assert SCRIPTS["twins"](files, names) == expected


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


def write_volumes(folder: Path, values: np.ndarray) -> dict[str, str]:
    """Three that are whole, and others among them: what is to be said of these, by name."""
    broken = values.copy()
    broken[3, 4] = np.nan
    for name in ("a.nii.gz", "b.nii.gz", "c.nii.gz", "e.nii.gz", "g.nii", "g.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(broken if name[0] == "c" else values, np.eye(4)), folder / name)
    (folder / "b.nii.gz").write_bytes((folder / "b.nii.gz").read_bytes()[:-1])
    (folder / "d.nii").write_text("no image")
    itk.imwrite(itk.image_from_array(np.ascontiguousarray(values.T)), str(folder / "f.mha"))
    return {
        "b.nii.gz": "must be whole, got Compressed file ended",
        "c.nii.gz": "NaN or infinity",
        "d.nii": "must be whole",
        "g.nii": f"must have masks of other names than those of {folder / 'g.nii.gz'}",
        "g.nii.gz": f"must have masks of other names than those of {folder / 'g.nii'}",
    }


def write_pictures(folder: Path, channels: int) -> dict[str, str]:
    """The same of pictures, of which two are whole."""
    picture = np.stack([damaged.PICTURE] * channels, -1).squeeze()
    for name in ("m.png", "n.png", "o.tif", "p.png", "q.png", "q.bmp", "r.bmp"):
        Image.fromarray(picture).save(folder / name)
    for name, size in (("n.png", -20), ("o.tif", -20), ("p.png", 0)):
        (folder / name).write_bytes((folder / name).read_bytes()[:size])
    return {
        "n.png": "must be whole",
        "o.tif": "",
        "p.png": "must be whole, got cannot identify image file",
        "q.bmp": f"must have masks of other names than those of {folder / 'q.png'}",
        "q.png": f"must have masks of other names than those of {folder / 'q.bmp'}",
    }


def test_the_rest_of_the_folder_is_segmented(bundle, settings, tmp_path):
    folder, kind = tmp_path / "images", bundle.split("_")[0]
    bad, whole = {}, []
    if kind != "lgg":
        bad |= write_volumes(folder, VALUES[..., 0] if kind == "jsrt" else VALUES)
        whole += ["a", "e", "f"]
    if kind in ("jsrt", "lgg"):
        bad |= write_pictures(folder, 3 if kind == "lgg" else 1)
        whole += ["m", "r"]
    with pytest.raises(SystemExit) as ended:
        run_here("inferring", configs("inference", bundle=bundle), settings)
    first, *lines = str(ended.value.code).splitlines()  # a text is told, and its status is 1
    assert first == f"Error: {len(bad)} of {len(list(folder.iterdir()))} images were not segmented:"
    for line, (name, reason) in zip(lines, sorted(bad.items()), strict=True):
        assert line.startswith(f"  {folder / name}: ") and reason in line
    written = {path.name for path in (tmp_path / "masks").iterdir()}
    assert {name.split("_")[0] for name in written - {"volumes.csv"}} == set(whole)
    masks = len(json.loads((ROOT / "bundles" / bundle / "configs" / "inference.json").read_text())["classes"])
    files = {"jsrt": masks + 1, "lgg": masks + 1, "retouch": 2}.get(kind, masks)  # previews; .mhd and .zraw
    assert len(written) == files * len(whole) + (kind == "retouch")


@pytest.mark.parametrize("bundle", ["jsrt_rpg"], indirect=True)
def test_an_interrupt_is_no_image_s_fault(bundle, settings, tmp_path, monkeypatch):
    write_pictures(tmp_path / "images", 1)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("monai.inferers.SimpleInferer.__call__", stop)
    with pytest.raises(KeyboardInterrupt):
        run_here("inferring", configs("inference", bundle=bundle), settings)


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
