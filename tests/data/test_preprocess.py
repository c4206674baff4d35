"""Preprocessing: the grid, the bias field, the brain, grey values; beside the originals, and skipped when done."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from common.data.brain_mask import brain_mask, is_brain_extracted, nonzero_mask
from common.data.preprocess import correct_bias, find_volumes, masks_of, normalise, preprocess
from common.data.volume_files import is_mask


@pytest.fixture(scope="module")
def head() -> tuple[np.ndarray, np.ndarray]:
    """A head on a 4 mm grid: scalp, dark bone and fluid, a brain with ventricles and noise; and the brain's mask."""
    rng = np.random.default_rng(0)
    shape = (54, 62, 52)
    place = np.stack(np.meshgrid(*[(np.arange(n) - n / 2) * 4.0 for n in shape], indexing="ij"))
    radius = np.sqrt(((place / np.array([66, 82, 62])[:, None, None, None]) ** 2).sum(0))
    image = 8.0 * np.ones(shape)
    image[radius < 1.34] = 90  # scalp
    image[radius < 1.2] = 15  # bone and fluid
    brain = radius < 1
    image[brain] = 120 + 12 * ndimage.gaussian_filter(rng.normal(size=shape), 2)[brain]
    image[((place / np.array([8, 25, 9])[:, None, None, None]) ** 2).sum(0) < 1] = 25
    return (image + 3 * rng.normal(size=shape)).clip(1).astype(np.float32), brain


def save(path, values, affine):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, affine), path)


@pytest.fixture(scope="module")
def source(head, tmp_path_factory):
    """A clinical head in LPS with slices of 8 mm, an extracted brain with a mask, and a file that is none."""
    folder = tmp_path_factory.mktemp("source") / "raw"
    image, brain = head
    turned = np.diag([-4.0, -4.0, 8.0, 1.0])
    save(folder / "scan1_flair.nii.gz", np.round(image[:, :, ::2]).astype(np.int16), turned)
    lesion = np.zeros(image.shape, np.uint8)
    lesion[30:33, 20:22, 30:34] = 1
    extracted = np.where(brain, image + 60 * lesion, 0).astype(np.float32)
    save(folder / "patient1" / "flair.nii.gz", extracted, np.diag([4.0, 4, 4, 1]))
    save(folder / "patient1" / "lesion_mask.nii.gz", lesion, np.diag([4.0, 4, 4, 1]))
    (folder / "broken.nii.gz").write_bytes(b"nothing")
    return folder


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def test_brain_mask_finds_the_brain_in_a_head(head):
    image, brain = head
    fine = ndimage.zoom(image, 2, order=1)
    assert dice(brain_mask(fine, 2.0), ndimage.zoom(brain.astype(float), 2, order=1) > 0.5) > 0.95


def test_brain_mask_refuses_what_is_no_head():
    with pytest.raises(ValueError, match=r"looks most like one|nothing brighter"):
        brain_mask(np.random.default_rng(0).random((14, 14, 14)).astype(np.float32), 4.0)


def test_extracted_brains_are_recognised(head):
    image, brain = head
    assert not is_brain_extracted(image)
    extracted = np.where(brain, image, 0)
    extracted[27, 31, 26] = 0  # a voxel inside that happens to be 0
    assert is_brain_extracted(extracted)
    assert dice(nonzero_mask(extracted), brain) == 1


def test_bias_field_is_taken_out(head):
    image, brain = head
    x = np.linspace(-1, 1, image.shape[0])[:, None, None]
    biased = image * np.exp(0.4 * x)
    flat = correct_bias(biased.astype(np.float32), brain, 4.0)
    left, right = brain.copy(), brain.copy()
    left[27:], right[:27] = False, False
    white = image > 80
    before = np.log(biased[right & white].mean() / biased[left & white].mean())
    after = np.log(flat[right & white].mean() / flat[left & white].mean())
    assert before > 0.15
    assert abs(after) < 0.15 * before


def test_normalised_by_hand():
    values = np.arange(101, dtype=np.float32).reshape(101, 1, 1)
    inside = np.ones(values.shape, bool)
    inside[0] = False
    result = normalise(values, inside, "name")
    usual = np.arange(2, 100)  # between the 1st and 99th percentile of 1 to 100: 1.99 and 99.01
    np.testing.assert_allclose(result[1:, 0, 0], (np.arange(1, 101) - usual.mean()) / usual.std(), atol=1e-3)
    assert result[0] == 0
    with pytest.raises(ValueError, match="name: the brain must have different grey values"):
        normalise(np.ones((3, 3, 3), np.float32), np.ones((3, 3, 3), bool), "name")


def test_no_voxel_of_the_brain_is_zero():
    values = np.array([-1.0, 0, 1, 0, 1, -1]).reshape(6, 1, 1).astype(np.float32)
    assert (normalise(values, np.ones(values.shape, bool), "name") != 0).all()


def test_a_folder(source, head, tmp_path, capsys):
    _, brain = head
    out = tmp_path / "out"
    preprocess(source, out, spacing=4.0)
    printed = capsys.readouterr().out
    assert "2 volumes preprocessed, 0 had been before, 1 left out" in printed
    assert "broken.nii.gz" in printed
    assert "for 1 volumes the brain was found by classical means" in printed
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert names == {
        "scan1_flair.nii.gz",
        "scan1_flair.json",
        "patient1/flair.nii.gz",
        "patient1/flair.json",
        "patient1/lesion_mask.nii.gz",
    }
    scan = nibabel.load(out / "scan1_flair.nii.gz")
    assert nibabel.aff2axcodes(scan.affine) == ("R", "A", "S")
    assert scan.header.get_zooms() == pytest.approx((4, 4, 4))
    assert scan.shape[2] == pytest.approx(2 * 26, abs=1)
    values = scan.get_fdata()
    assert (values != 0).mean() == pytest.approx(brain.mean(), rel=0.1)
    facts = json.loads((out / "scan1_flair.json").read_text())
    assert facts["orientation before"] == "LPS"
    assert facts["brain mask"] == "found here"
    known = nibabel.load(out / "patient1" / "flair.nii.gz")
    mask = np.asarray(nibabel.load(out / "patient1" / "lesion_mask.nii.gz").dataobj)
    assert mask.shape == known.shape
    assert mask.sum() == 3 * 2 * 4
    assert known.get_fdata()[mask > 0].mean() > 2
    assert json.loads((out / "patient1" / "flair.json").read_text())["brain mask"] == "was extracted"


def test_done_is_skipped_and_other_settings_are_not(source, tmp_path, capsys):
    out = tmp_path / "out"
    preprocess(source, out, spacing=4.0, n4=False)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")}
    preprocess(source, out, spacing=4.0, n4=False)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")} == before
    assert "0 volumes preprocessed, 2 had been before" in capsys.readouterr().out
    preprocess(source, out, spacing=5.0, n4=False)
    assert "2 volumes preprocessed, 0 had been before" in capsys.readouterr().out


def test_masks_of_isbi_s_layout(tmp_path):
    for name in ("01_01", "01_02"):
        save(tmp_path / "training01" / "preprocessed" / f"training{name}_flair_pp.nii", np.zeros((2, 2, 2)), np.eye(4))
        for rater in (1, 2):
            file = tmp_path / "training01" / "masks" / f"training{name}_mask{rater}.nii"
            save(file, np.zeros((2, 2, 2)), np.eye(4))
    volumes, masks = find_volumes(tmp_path)
    assert [path.name for path in volumes] == ["training01_01_flair_pp.nii", "training01_02_flair_pp.nii"]
    found = masks_of(volumes[1], volumes, masks)
    assert [path.name for path in found] == ["training01_02_mask1.nii", "training01_02_mask2.nii"]


def test_masks_of_a_folder_with_several_contrasts(tmp_path):
    for name in ("FLAIR", "T1", "Consensus", "brain_mask"):
        save(tmp_path / "p1" / f"{name}.nii.gz", np.zeros((2, 2, 2)), np.eye(4))
    volumes, masks = find_volumes(tmp_path)
    assert [path.name for path in volumes] == ["FLAIR.nii.gz", "T1.nii.gz"]
    found = [path.name for path in masks_of(volumes[0], volumes, masks)]
    assert found == ["Consensus.nii.gz", "brain_mask.nii.gz"]
    assert masks_of(volumes[1], volumes, masks) == []


def test_a_given_brain_mask_is_taken(head, tmp_path):
    image, brain = head
    affine = np.diag([4.0, 4, 4, 1])
    save(tmp_path / "in" / "flair.nii.gz", image, affine)
    save(tmp_path / "in" / "brain_mask.nii.gz", brain.astype(np.uint8), affine)
    preprocess(tmp_path / "in", tmp_path / "out", spacing=4.0, n4=False)
    result = nibabel.load(tmp_path / "out" / "flair.nii.gz").get_fdata() != 0
    assert dice(result[:54, :62, :52], brain) > 0.98
    assert json.loads((tmp_path / "out" / "flair.json").read_text())["brain mask"] == "given"
    assert not (tmp_path / "out" / "brain_mask.nii.gz").exists()


@pytest.mark.parametrize(
    ("name", "mask"),
    [
        ("sub-01_flair_masked.nii.gz", False),
        ("mslesion_001_flair.nii.gz", False),
        ("lesion_mask.nii.gz", True),
        ("training01_01_mask2.nii", True),
        ("ManualSegmentation_1.nii.gz", True),
        ("brainmask.nii.gz", True),
        ("patient1_consensus_gt.nii.gz", True),
    ],
)
def test_names_of_masks(name, mask):
    assert is_mask(name) == mask


def test_refuses(source, tmp_path):
    with pytest.raises(ValueError, match="outside of"):
        preprocess(source, source / "out")
    with pytest.raises(ValueError, match="outside of"):
        preprocess(source, source)
    with pytest.raises(FileNotFoundError, match="must be a folder"):
        preprocess(tmp_path / "none", tmp_path / "out")
    with pytest.raises(ValueError, match="spacing must be"):
        preprocess(source, tmp_path / "out", spacing=50)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "scan.nii").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="must hold a volume that can be read"):
        preprocess(tmp_path / "bad", tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="file must be a folder to write to, got a file: give another"):
        preprocess(source, tmp_path / "file")


def test_a_damaged_note_of_what_was_done_is_named(source, tmp_path):
    preprocess(source, tmp_path / "out", spacing=5.0, n4=False)
    note = next((tmp_path / "out").rglob("*.json"))
    note.write_text("{")
    with pytest.raises(ValueError, match=r"\.json must be valid JSON, got .*: remove it, and the volume is"):
        preprocess(source, tmp_path / "out", spacing=5.0, n4=False)
