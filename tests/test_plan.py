"""Plans fit the data and the machine."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from PIL import Image

from common import plan as planning
from common.plan import dimensions, has_thick_slices, image_size, neighbors, of_images, of_slices, of_volumes, plan


def part(paths):
    return {"labeled": [{"image": str(path)} for path in paths]}


def volume(path, shape, voxel=(1.0, 1.0, 1.0), turned=False):
    affine = np.diag([*voxel, 1.0])
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    if turned:  # stored as y, z, x
        affine = affine[:, [1, 2, 0, 3]]
        values = values.transpose(1, 2, 0)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


def picture(path, size=(64, 48)):
    Image.fromarray(np.arange(size[0] * size[1], dtype=np.uint8).reshape(size[::-1])).save(path)
    return path


@pytest.mark.parametrize(
    ("size", "longest", "expected"),
    [
        ((2048, 2048), 128, [128, 128]),
        ((384, 288), 128, [128, 96]),
        ((300, 500), 512, [304, 496]),  # not larger than it is, in multiples of 16
        ((41, 33), 128, [48, 32]),
        ((1000, 50), 128, [128, 16]),
    ],
)
def test_sizes_are_those_of_the_images_as_far_as_the_machine_goes(size, longest, expected):
    assert image_size(size, longest) == expected


def test_neighbors_are_a_share_for_methods_that_have_them():
    assert neighbors("RPGPlus") == neighbors("NearestNeighbor") == {"method#neighbors": 0.57}
    assert neighbors("UniMatch") == neighbors("Supervised") == neighbors("ReferenceMatch") == {}


@pytest.mark.parametrize(("minutes", "seconds", "epochs"), [(10, 0.2, 60), (1, 0.2, 6), (0.1, 5.0, 4)])
def test_epochs_fill_the_minutes(monkeypatch, tmp_path, minutes, seconds, epochs):
    tried = []
    monkeypatch.setattr(planning, "seconds_of_an_iteration", lambda *given: tried.append(given) or seconds)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    datalist = part([picture(tmp_path / "a.png")])
    found = plan(datalist, tmp_path / "d.json", "RPG", minutes, tmp_path / "t")
    assert found.settings["epochs"] == epochs and found.settings["iterations"] == 50
    assert found.settings["val_interval"] == max(1, epochs // 10) and found.bundle.name == "jsrt_rpg"
    assert found.settings["image_size"] == [64, 48] and found.settings["method#neighbors"] == 0.57
    assert tried[0][3:] == ("RPG", tmp_path / "t")
    assert len(found.reasons) == 4 and f"epochs {epochs} of 50 iterations: {seconds:.2f} s" in found.reasons[-1]


@pytest.mark.parametrize(("minutes", "short"), [(3, True), (4, False)])
def test_a_short_training_lets_more_of_unimatchs_pixels_count(monkeypatch, tmp_path, minutes, short):
    monkeypatch.setattr(planning, "seconds_of_an_iteration", lambda *given: 0.2)
    datalist = part([picture(tmp_path / "a.png")])
    found = plan(datalist, tmp_path / "d.json", "UniMatch", minutes, tmp_path / "t")
    settings = {key: found.settings.get(key, "none") for key in ("method#threshold", "method#unsupervised_loss")}
    assert [*settings.values()] == ([0.7, None] if short else ["none", "none"])
    assert any(reason.startswith("threshold 0.7 and cross-entropy") for reason in found.reasons) == short
    assert "method#threshold" not in plan(datalist, tmp_path / "d.json", "FixMatch", minutes, tmp_path / "t").settings


def test_a_gpu_has_larger_images_and_batches(tmp_path):
    datalist = part([picture(tmp_path / "a.png", (1000, 800)), picture(tmp_path / "b.png", (500, 400))])
    settings, reasons = of_images(datalist, "cuda")
    assert settings == {"image_size": [512, 416], "labeled_batch": 12, "unlabeled_batch": 12}
    assert "labelled images are 500 x 400 to 1000 x 800, all are resized" in reasons[0]


def test_volumes_keep_their_spacing_as_far_as_the_machine_goes(tmp_path):
    files = [volume(tmp_path / "a.nii.gz", (40, 64, 33)), volume(tmp_path / "b.nii.gz", (35, 64, 40), turned=True)]
    settings, reasons = of_volumes(part(files), "cpu")
    assert settings["spacing"] == [1, 1, 1] and settings["patch_size"] == [32, 32, 32]
    assert "the smallest volume has 35 x 64 x 33 voxels" in reasons[1]
    monkeypatched = dict(planning.VOXELS, cpu=40 * 64 * 33 / 8)
    planning.VOXELS, before = monkeypatched, planning.VOXELS
    try:
        settings, reasons = of_volumes(part(files[:1]), "cpu")
    finally:
        planning.VOXELS = before
    assert settings["spacing"] == [2, 2, 2] and settings["patch_size"] == [16, 32, 16]
    assert "2.00 times as large so that a cpu copes" in reasons[0]


def test_voxels_of_a_microscope_keep_their_sides(tmp_path):
    for side in (0.0004, 0.0056):
        values = np.random.default_rng(0).random((32, 32, 32), np.float32)
        nibabel.save(nibabel.Nifti1Image(values, np.diag([side, side, side, 1])), tmp_path / "a.nii.gz")
        settings, _ = of_volumes(part([str(tmp_path / "a.nii.gz")]), "cpu")
        assert settings["spacing"] == [side] * 3 and settings["patch_size"] == [32, 32, 32]


def test_volumes_that_are_too_flat_for_a_patch_are_named(tmp_path):
    files = [volume(tmp_path / "a.nii.gz", (64, 64, 20)), volume(tmp_path / "flat.nii.gz", (64, 64, 10))]
    with pytest.raises(
        ValueError, match=r"must have 16 voxels .*, got 64 x 64 x 10 at .*flat\.nii\.gz\).* as 2D images"
    ):
        of_volumes(part(files), "cpu")


def test_images_beside_volumes_are_refused(tmp_path):
    flat, deep = picture(tmp_path / "a.png"), volume(tmp_path / "b.nii.gz", (20, 20, 20))
    assert (dimensions(part([flat])), dimensions(part([deep]))) == (2, 3)
    with pytest.raises(ValueError, match=r"all be 2D or all be 3D, got 1 in 2D \(.*a\.png\) and 1 in 3D \(.*b\.nii"):
        dimensions(part([flat, deep]))


@pytest.mark.parametrize(
    ("voxel", "turned", "expected"),
    [
        ((1.5, 1.5, 10), False, True),
        ((1, 1, 2.9), False, False),
        ((1, 1, 1), False, False),
        ((10, 1.5, 1.5), True, True),
        ((1.5, 1.5, 10), True, False),
    ],
)
def test_volumes_of_thick_slices_along_the_last_axis_are_told(tmp_path, voxel, turned, expected):
    """The one stored as y, z, x has what it calls x last."""
    files = [volume(tmp_path / "a.nii.gz", (40, 48, 20), voxel, turned)]
    assert has_thick_slices(part(files)) is expected
    files.append(volume(tmp_path / "b.nii.gz", (40, 48, 20)))
    assert not has_thick_slices(part(files))


def test_volumes_of_few_slices_are_stacks_of_slices_too(tmp_path):
    """A patch of 16 does not fit into them."""
    assert has_thick_slices(part([volume(tmp_path / "a.nii.gz", (40, 48, 15), (4.5, 4.5, 10))]))
    assert not has_thick_slices(part([volume(tmp_path / "b.nii.gz", (40, 48, 16), (4.5, 4.5, 10))]))


def test_thick_slices_are_looked_at_one_by_one(monkeypatch, tmp_path):
    monkeypatch.setattr(planning, "seconds_of_an_iteration", lambda *_: 1.0)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    files = [volume(tmp_path / f"{size}.nii.gz", (size, 90, 7), (1.5, 1.5, 8)) for size in (216, 100, 60)]
    found = plan(part(files), tmp_path / "d.json", "UniMatch", 1, tmp_path / "t")
    assert found.bundle.name == "acdc_unimatch" and "loss" not in found.settings
    assert found.settings["image_size"] == [96, 96] and found.settings["labeled_batch"] == 6
    assert "slices are 8 mm thick, 3 times a pixel or more" in found.reasons[0]
    assert found.settings["epochs"] == 4 and found.settings["method#ramp_up"] == 50  # within the training
    longer = plan(part(files), tmp_path / "d.json", "UniMatch", 60, tmp_path / "t").settings
    assert longer["epochs"] * longer["iterations"] == 3600 and longer["method#ramp_up"] == 500
    assert "the longer side of a slice is 100" in found.reasons[1]
    settings = of_slices(part(files), "cuda")[0]
    batches = {"labeled_batch": 12, "unlabeled_batch": 12}
    assert settings == {"image_size": [96, 96], **batches, "method#ramp_up": 500}
