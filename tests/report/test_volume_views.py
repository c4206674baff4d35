"""Slices of volumes: right way round, in proportion, on one grid."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from runs_on_disk import affine, pixels, save

from common.report.volume_rows import spaced
from common.report.volume_views import OUTCOME_COLORS, Volume, draw_slice, load_volume, overlays


def block(place: tuple[slice, slice, slice], shape: tuple[int, ...] = (20, 20, 20)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[place] = True
    return mask


def volume(image: np.ndarray, prediction: np.ndarray, truth: np.ndarray | None = None, spacing=(1, 1, 1)) -> Volume:
    return Volume(image.astype(np.float32), None if truth is None else truth[None], {"m": prediction[None]}, spacing)


@pytest.mark.parametrize(
    ("plane", "axis", "edge"),
    [
        ("axial", 0, "left"),  # the patient's right is on the left of the picture
        ("axial", 1, "top"),  # anterior is up
        ("coronal", 0, "left"),
        ("coronal", 2, "top"),  # superior is up
        ("sagittal", 1, "left"),  # the face is on the left
        ("sagittal", 2, "top"),
    ],
)
def test_orientation(plane: str, axis: int, edge: str) -> None:
    """Bright where the axis of RAS ends, grey elsewhere."""
    image = np.full((20, 20, 20), 50.0)
    image[tuple(slice(10, None) if a == axis else slice(None) for a in range(3))] = 100
    picture = pixels(draw_slice(volume(image, np.zeros(image.shape, bool)), plane, 10))[..., 0]
    middle = slice(150, 300)
    near, far = slice(60, 130), slice(-130, -60)
    bright, dark = (
        (picture[middle, near], picture[middle, far])
        if edge == "left"
        else (picture[near, middle], picture[far, middle])
    )
    assert bright.mean() > 1.5 * dark.mean() > 0.1


def test_voxels_keep_their_proportions() -> None:
    """20 x 10 voxels of 1 x 2 mm are a square; of 1 x 1 mm twice as wide as high."""
    image = np.full((20, 10, 4), 100.0)
    for spacing, ratio in (((1, 2, 1), 1.0), ((1, 1, 1), 2.0)):
        picture = pixels(draw_slice(volume(image, np.zeros(image.shape, bool), spacing=spacing), "axial", 2))[..., 0]
        # The letters at the edges and the scale bar are white, the image is grey.
        grey = (picture > 0.5) & (picture < 0.9)
        rows, columns = (grey.sum(axis=1 - axis) > 60 for axis in range(2))
        assert columns.sum() / rows.sum() == pytest.approx(ratio, rel=0.03)


def test_outcomes_part_the_union() -> None:
    truth, prediction = np.array([[1, 1, 0, 0]], bool), np.array([[1, 0, 1, 0]], bool)
    masks, colors, filled = zip(*overlays(truth, prediction, []), strict=True)
    np.testing.assert_array_equal(np.stack(masks), [[1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]])
    assert list(colors) == list(OUTCOME_COLORS.values())
    assert list(OUTCOME_COLORS) == ["true positive", "false positive", "false negative"]
    assert all(filled)
    ((mask, color, _),) = overlays(None, prediction, [])
    np.testing.assert_array_equal(mask, prediction[0])
    assert color not in OUTCOME_COLORS.values()


def test_several_classes_are_outlined_in_their_colours() -> None:
    truth, prediction = np.array([[1, 0, 0], [0, 1, 1]], bool), np.array([[1, 1, 0], [0, 0, 1]], bool)
    drawn = overlays(truth, prediction, ["red", "blue"])
    assert [(color, filled) for _, color, filled in drawn] == [
        ("red", True), ("blue", True), ("red", False), ("blue", False)
    ]  # fmt: skip
    np.testing.assert_array_equal([mask for mask, *_ in drawn], [*prediction, *truth])
    assert len(overlays(None, prediction, ["red", "blue"])) == 2


def test_masks_of_several_classes_come_as_channels_labels_or_files(tmp_path: Path) -> None:
    masks = np.zeros((2, 4, 5, 6), np.uint8)
    masks[0, 1, 1:3, 2], masks[1, 3, 2:5, 4] = 1, 1
    image = save(tmp_path / "image.nii.gz", np.ones(masks.shape[1:], np.float32))
    channels = save(tmp_path / "channels.nii.gz", np.moveaxis(masks, 0, -1))
    labels = save(tmp_path / "labels.nii.gz", masks[0] + 2 * masks[1])
    files = [save(tmp_path / f"{j}.nii.gz", masks[j]) for j in range(2)]
    for truth in ([channels], [labels], files):
        loaded = load_volume(image, truth, {"channels": channels, "labels": labels}, classes=2)
        for found in (loaded.truth, *loaded.predictions.values()):
            np.testing.assert_array_equal(found, masks > 0)
    np.testing.assert_array_equal(loaded.marked, masks.any(0))
    with pytest.raises(ValueError, match=r"channels\.nii\.gz must hold the masks of 3 classes, got 2"):
        load_volume(image, [], {"m": channels}, classes=3)
    with pytest.raises(ValueError, match=r"three axes, got the shape \(4, 5, 6, 2\)"):
        load_volume(image, [], {"m": channels}, classes=1)


def test_colours_lie_where_the_lesions_are_and_let_the_image_through() -> None:
    image = np.full((20, 20, 20), 50.0)
    image[:, :, 10] = np.where(np.arange(20) % 4 < 2, 30.0, 80.0)[:, None]
    lesion = block((slice(12, 18), slice(12, 18), slice(8, 13)))
    shown = volume(image, lesion, lesion)
    picture = pixels(draw_slice(shown, "axial", 10, overlays(lesion[None], lesion[None], [])))
    plain = pixels(draw_slice(shown, "axial", 10))
    np.testing.assert_array_equal(plain[..., 0], plain[..., 2])
    blue = picture[..., 2] - picture[..., 0] > 0.1
    rows, columns = np.nonzero(blue)
    # Voxels 12 to 18 of 20, right and anterior: in the upper left of the picture, 8 % to 38 % of the image's side.
    assert 0.05 < rows.min() / 460 < 0.15
    assert 0.05 < columns.min() / 460 < 0.15
    assert rows.max() / 460 < 0.45
    assert columns.max() / 460 < 0.45
    inside = picture[70:150, 70:150]
    assert inside[..., 0].std() > 0.05


def test_the_busiest_slice_is_that_of_truth_and_prediction() -> None:
    truth = block((slice(2, 4), slice(2, 4), slice(12, 18)))
    prediction = block((slice(9, 12), slice(9, 13), slice(7, 8)))
    shown = volume(np.ones((20, 20, 20)), prediction, truth)
    assert [shown.busiest(plane) for plane in ("axial", "coronal", "sagittal")] == [7, 2, 2]
    empty = volume(block((slice(4, 10), slice(4, 8), slice(6, 12))), np.zeros((20, 20, 20), bool))
    assert empty.busiest("axial") == 9


def test_files_of_other_grids_come_to_the_predictions(tmp_path: Path) -> None:
    """The image lies as left-posterior-superior on half the voxels: the same place lights up after loading."""
    prediction = block((slice(24, 32), slice(8, 16), slice(16, 24)), (40, 48, 32))
    save(tmp_path / "p.nii.gz", prediction.astype(np.uint8), affine())
    for spacing, order in (((4.0, 4.0, 5.0), "LPS"), ((8.0, 8.0, 10.0), "LAS")):
        factor = int(spacing[0] / 4)
        values = prediction[::factor, ::factor, ::factor].astype(np.float32) * 100
        small = nibabel.Nifti1Image(values, affine(spacing))
        codes = nibabel.orientations.axcodes2ornt(order)
        turned = small.as_reoriented(nibabel.orientations.ornt_transform(nibabel.io_orientation(small.affine), codes))
        assert "".join(nibabel.aff2axcodes(turned.affine)) == order
        nibabel.save(turned, tmp_path / "i.nii.gz")
        loaded = load_volume(tmp_path / "i.nii.gz", [tmp_path / "i.nii.gz"], {"m": tmp_path / "p.nii.gz"})
        assert loaded.image.shape == prediction.shape
        assert loaded.spacing == (4, 4, 5)
        np.testing.assert_array_equal(loaded.predictions["m"][0], prediction)
        overlap = 2 * (loaded.truth & prediction).sum() / (loaded.truth.sum() + prediction.sum())
        assert overlap == 1 if factor == 1 else overlap > 0.6
        assert loaded.image[prediction].mean() > 60
        assert loaded.image[~prediction].mean() < 3


def test_files_that_are_no_volumes_are_named(tmp_path: Path) -> None:
    good = save(tmp_path / "good.nii.gz", np.ones((4, 4, 4), np.uint8))
    with pytest.raises(FileNotFoundError, match=r"none\.nii\.gz"):
        load_volume(tmp_path / "none.nii.gz", [], {"m": good})
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(good.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"broken\.nii\.gz must be a readable volume"):
        load_volume(good, [broken], {"m": good})
    flat = save(tmp_path / "flat.nii.gz", np.ones((4, 4), np.uint8))
    with pytest.raises(ValueError, match=r"three axes, got the shape \(4, 4\)"):
        load_volume(good, [], {"m": flat})


def test_nan_outside_the_brain_is_black(tmp_path: Path) -> None:
    values = np.full((4, 4, 4), np.nan, np.float32)
    values[1:3, 1:3, 1:3] = 5
    save(tmp_path / "i.nii.gz", values)
    mask = save(tmp_path / "m.nii.gz", np.zeros((4, 4, 4), np.uint8))
    loaded = load_volume(tmp_path / "i.nii.gz", [], {"m": mask})
    np.testing.assert_array_equal(loaded.image, np.nan_to_num(values))
    assert loaded.box == (slice(1, 3),) * 3


def test_shown_volumes_go_from_lowest_to_highest() -> None:
    scores = np.array([0.9, 0.1, np.nan, 0.5])
    assert spaced(scores, 6) == [
        ("lowest Dice", 1), ("median Dice", 3), ("highest Dice", 0), ("Dice not defined", 2)
    ]  # fmt: skip
    many = np.linspace(1, 0, 21)
    chosen = spaced(many, 6)
    assert len(chosen) == 6
    assert chosen[0] == ("lowest Dice", 20)
    assert chosen[-1] == ("highest Dice", 0)
    assert ("median Dice", 10) in chosen
    places = [place for _, place in chosen]
    assert places == sorted(places, reverse=True)
    assert spaced(np.array([0.4]), 6) == [("rank 1 of 1 by Dice", 0)]
    assert spaced(np.full(9, np.nan), 3) == [("Dice not defined", place) for place in range(3)]
