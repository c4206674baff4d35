"""The check of datalists of volumes: what it reports, and what it refuses or warns of."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from common.data.check import check, require_sound_datalist
from common.data.datalist import read_datalist

AFFINE = np.diag([1.0, 1.0, 1.5, 1.0])


def save(path, values, affine=AFFINE):
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path.name


@pytest.fixture
def content(tmp_path):
    """A sound datalist: extracted brains of 66 voxels a side with two lesions of 1.5 and 12 mm3."""
    rng = np.random.default_rng(0)
    place = np.stack(np.meshgrid(*[np.arange(66) - 32.5] * 3, indexing="ij"))
    brain = (place**2).sum(0) < 31**2
    parts = {"labeled": [], "unlabeled": [], "validation": [], "test": []}
    for index, part in enumerate(("labeled", "unlabeled", "test")):
        inside = 100 + 200 * ndimage.gaussian_filter(rng.normal(size=brain.shape), 3) + rng.normal(size=brain.shape)
        image = np.where(brain, inside, 0).astype(np.float32)
        mask = np.zeros(brain.shape, np.uint8)
        mask[30, 30, 30] = mask[40:42, 30:32, 30:32] = 1
        item = {"image": save(tmp_path / f"scan{index}.nii.gz", image), "patient": f"p{index}"}
        if part != "unlabeled":
            item["label"] = [save(tmp_path / f"mask{index}.nii.gz", mask)]
        parts[part].append(item)
    return {"name": "small", "mode": "multilabel", "classes": ["lesion"], "split": 0, **parts}


@pytest.fixture
def run(content, tmp_path, capsys):
    """``run()``: the exit status and what is printed."""

    def checked():
        (tmp_path / "list.json").write_text(json.dumps(content))
        status = 0
        try:
            check(tmp_path / "list.json")
        except SystemExit as error:
            status = error.code
        return status, capsys.readouterr().out

    return checked


def test_a_sound_datalist(run, content, tmp_path):
    status, printed = run()
    assert status == 0
    assert "0 errors, 0 warnings" in printed
    assert "66 x 66 x 66" in printed
    assert "1 x 1 x 1.5" in printed
    # 1 and 8 voxels of 1.5 mm3, in two components
    assert "13.50 to 13.50" in printed
    assert "2 to 2, median 2" in printed
    require_sound_datalist(read_datalist(tmp_path / "list.json"))


def change(path, values=None, affine=AFFINE):
    image = nibabel.load(path)
    save(path, np.asarray(image.dataobj) if values is None else values, affine)


@pytest.mark.parametrize(
    ("name", "spoil", "said"),
    [
        ("scan0", lambda p: change(p, np.full((66, 66, 66), np.nan, np.float32)), "scan0.nii.gz must hold finite"),
        ("scan0", lambda p: change(p, np.ones((66, 66, 66, 2), np.float32)), "scan0.nii.gz must be one 3D volume"),
        ("mask0", lambda p: change(p, affine=AFFINE + np.eye(4, k=3) * 9), "mask0.nii.gz must have the affine"),
        ("mask2", lambda p: change(p, np.zeros((60, 66, 66), np.uint8)), "mask2.nii.gz must have the shape"),
        ("scan1", lambda p: p.write_bytes(b"nothing"), "scan1.nii.gz must be a whole NIfTI"),
        ("mask0", lambda p: change(p, np.zeros((66, 66, 66), np.uint8)), "no volume or slice holds lesion"),
        ("mask0", lambda p: change(p, np.ones((66, 66, 66), np.uint8)), "1 of 1 labels are lesion everywhere"),
        ("scan0", lambda p: p.write_bytes((p.parent / "mask0.nii.gz").read_bytes()), "another file than its image"),
    ],
)
def test_errors(run, tmp_path, name, spoil, said):
    run()
    spoil(tmp_path / f"{name}.nii.gz")
    status, printed = run()
    assert status == 1
    assert said in printed
    with pytest.raises(ValueError, match="the data must be sound, got 1 errors"):
        require_sound_datalist(read_datalist(tmp_path / "list.json"))


def test_the_same_volume_in_two_parts(run, tmp_path):
    run()
    (tmp_path / "scan1.nii.gz").write_bytes((tmp_path / "scan0.nii.gz").read_bytes())
    status, printed = run()
    assert status == 1
    assert "the same volume is in several parts" in printed


def test_a_near_copy_in_another_part(run, content, tmp_path):
    """Of another size and other values, and flipped: an error in the test part, a warning in validation."""
    values = np.asarray(nibabel.load(tmp_path / "scan2.nii.gz").dataobj)
    save(tmp_path / "scan1.nii.gz", ndimage.zoom(values[:, ::-1] + 7, 0.9, order=1))
    status, printed = run()
    assert status == 1
    assert (
        f"error: {tmp_path}/scan1.nii.gz (unlabeled) and {tmp_path}/scan2.nii.gz (test) are nearly the sam" in printed
    )
    content["validation"] = content.pop("test")
    status, printed = run()
    assert status == 0
    said = f"warning: {tmp_path}/scan1.nii.gz (unlabeled) and {tmp_path}/scan2.nii.gz (validation) are nearly the same"
    assert said in printed


def test_warnings(run, content, tmp_path):
    rng = np.random.default_rng(1)
    coarse = np.diag([1.0, 1.0, 4.0, 1.0])
    save(tmp_path / "scan1.nii.gz", rng.random((70, 70, 40)).astype(np.float32) + 1, coarse)
    change(tmp_path / "mask2.nii.gz", np.zeros((66, 66, 66), np.uint8))
    status, printed = run()
    assert status == 0
    assert "have voxels of more than 2 mm along an axis" in printed
    assert "have fewer than 64 voxels along an axis" in printed
    assert "seem to show more than the brain" in printed
    assert "test: 1 of 1 masks hold no lesion" in printed
    content["unlabeled"] = []
    assert "unlabeled holds no volume" in run()[1]


def test_a_single_slice_of_a_volume_that_is_also_unlabelled(run, content):
    whole = content["labeled"].pop()
    content["unlabeled"].append({"image": whole["image"], "truth": whole["label"], "patient": whole["patient"]})
    content["labeled"] = [{**whole, "slice": 30}, {**whole, "slice": 31}]
    status, printed = run()
    assert status == 0, printed
    row = next(line for line in printed.splitlines() if "labeled" in line and "lesion" in line).split()
    assert "2 of 2" in " ".join(row)  # the large lesion is in both, the small one in the first


@pytest.mark.parametrize(
    ("place", "said"), [(0, "no volume or slice holds lesion"), (66, "must have a slice 66, counted from 0")]
)
def test_a_slice_without_a_label_and_one_beyond_the_volume(run, content, place, said):
    content["labeled"][0]["slice"] = place
    status, printed = run()
    assert status == 1
    assert said in printed
    assert printed.count(said) == 1


@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_slice_of_a_copy_of_a_volume_in_another_part(run, content, tmp_path, part):
    """Neither its path nor its patient tells; that a slice's volume is unlabelled, too, is no fault."""
    (tmp_path / "copy.nii.gz").write_bytes((tmp_path / "scan2.nii.gz").read_bytes())
    content["labeled"].append({**content["labeled"][0], "image": "copy.nii.gz", "patient": "other", "slice": 30})
    content[part] = content.pop("test")
    status, printed = run()
    assert status == 1
    assert f"/scan2.nii.gz ({part})" in printed and "/copy.nii.gz slice 30 (labeled)" in printed


@pytest.mark.parametrize(("side", "unit", "sizes"), [(1.0, "mm3", "9.00 to 9.00"), (3.0, "ml", "0.24 to 0.24")])
def test_sizes_of_small_classes_are_in_mm3(run, tmp_path, side, unit, sizes):
    run()
    for index in range(3):
        for name in ("scan", "mask"):
            if (tmp_path / f"{name}{index}.nii.gz").exists():
                change(tmp_path / f"{name}{index}.nii.gz", affine=np.diag([side, side, side, 1]))
    header, *rows = run()[1].split("class in volumes")[1].splitlines()
    assert unit in header and sizes in rows[0]
