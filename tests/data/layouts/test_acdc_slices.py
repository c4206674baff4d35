"""ACDC's slices as PNG and h5 become the volumes that they were cut from."""

from __future__ import annotations

import sys

import nibabel
import numpy as np
import pytest
from PIL import Image

from common.__main__ import main
from common.data.layouts.acdc import find_acdc
from common.data.layouts.acdc_slices import convert_acdc

NAME = "patient001_frame01"
SHAPE = (6, 5, 12)


def volume(seed, shape=SHAPE):
    """Values and label map of a volume; all values differ."""
    rng = np.random.default_rng(seed)
    return rng.permutation(np.prod(shape)).reshape(shape).astype(np.uint16), rng.integers(0, 4, shape).astype(np.uint8)


def write_png(root, name, values, mask=None, word="slice"):
    """Slices from the last one to the first one, so that the files' times do not give their order."""
    for folder, array in (("images", values), ("labels", mask)):
        if array is not None:
            (root / folder).mkdir(parents=True, exist_ok=True)
            for index in reversed(range(array.shape[2])):
                Image.fromarray(array[:, :, index]).save(root / folder / f"{name}_{word}{index:02d}.png")
    return root


def write_h5(path, **arrays):
    h5py = pytest.importorskip("h5py")
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file[key] = array
    return path


def write_h5_slices(root, name, values, mask=None, start=1):
    for index in range(values.shape[2]):
        label = {} if mask is None else {"label": mask[:, :, index]}
        write_h5(root / f"{name}_slice_{start + index}.h5", image=values[:, :, index], **label)
    return root


def converted(source, tmp_path, **settings):
    convert_acdc(source, tmp_path / "volumes", **settings)
    return tmp_path / "volumes"


def read(folder, name=NAME, ending=""):
    return nibabel.load(folder / name.split("_")[0] / f"{name}{ending}.nii.gz")


def check(folder, values, mask, name=NAME):
    """The volume in a folder is this one."""
    image = read(folder, name)
    assert image.get_data_dtype() == np.float32
    np.testing.assert_array_equal(np.asarray(image.dataobj), values)
    if mask is None:
        assert not (folder / name.split("_")[0] / f"{name}_gt.nii.gz").exists()
    else:
        label = read(folder, name, "_gt")
        assert label.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(np.asarray(label.dataobj), mask)
        np.testing.assert_array_equal(label.affine, image.affine)


# ---- PNG


@pytest.mark.parametrize("word", ["slice", "slice_", "Slice"])
def test_png_slices_become_their_volumes(tmp_path, word, capsys):
    """Also more than ten of them: slice10 comes after slice09, and slice2 before slice10."""
    source, volumes = tmp_path / "png", {name: volume(seed) for seed, name in enumerate((NAME, "patient012_frame10"))}
    for name, (values, mask) in volumes.items():
        write_png(source, name, values, mask, word)
    folder = converted(source, tmp_path)
    for name, (values, mask) in volumes.items():
        check(folder, values, mask, name)
    assert f"2 volumes are in {folder}" in capsys.readouterr().out
    items = find_acdc(folder)
    assert [item["patient"] for item in items] == ["patient001", "patient012"]
    assert [item["label"] for item in items] == [item["image"].replace(".nii", "_gt.nii") for item in items]
    assert sorted(path.name for path in folder.rglob("*.nii*")) == sorted(
        f"{name}{ending}.nii.gz" for name in volumes for ending in ("", "_gt")
    )  # nothing that was half written


def test_slices_are_in_the_order_of_their_numbers(tmp_path):
    values, _ = volume(0)
    (tmp_path / "png" / "images").mkdir(parents=True)
    for index in range(SHAPE[2]):
        Image.fromarray(values[:, :, index]).save(tmp_path / "png" / "images" / f"{NAME}_slice{index}.png")
    check(converted(tmp_path / "png", tmp_path), values, None)


def test_png_slices_without_labels(tmp_path):
    (values, mask), (bare, _) = volume(0), volume(1)
    write_png(tmp_path / "png", NAME, values, mask)
    write_png(tmp_path / "png", "patient002_frame01", bare)
    folder = converted(tmp_path / "png", tmp_path)
    check(folder, values, mask)
    check(folder, bare, None, "patient002_frame01")
    assert [sorted(item) for item in find_acdc(folder)] == [["image", "label", "patient"], ["image", "patient"]]


def test_other_files_are_passed_over(tmp_path):
    values, mask = volume(0)
    source = write_png(tmp_path / "png", NAME, values, mask)
    (source / "images" / "readme.txt").write_text("slices")
    Image.fromarray(values[:, :, 0]).save(source / "images" / "overview.png")
    check(converted(source, tmp_path), values, mask)


def test_spacing_is_the_affine_s(tmp_path):
    source = write_png(tmp_path / "png", NAME, *volume(0))
    folder = converted(source, tmp_path, spacing=(1.5, 1.25, 10))
    np.testing.assert_array_equal(read(folder).affine, np.diag([1.5, 1.25, 10, 1]))
    np.testing.assert_array_equal(read(folder, ending="_gt").affine, np.diag([1.5, 1.25, 10, 1]))
    assert read(folder).header.get_zooms() == (1.5, 1.25, 10)
    np.testing.assert_array_equal(read(converted(source, tmp_path / "plain")).affine, np.eye(4))


@pytest.mark.parametrize("spacing", [(1, 1), (1, 0, 1), (1, 1, -2), (1, 1, float("nan")), ("a", 1, 1)])
def test_spacing_that_is_none(tmp_path, spacing):
    source = write_png(tmp_path / "png", NAME, *volume(0))
    with pytest.raises(ValueError, match=r"spacing must be three positive numbers, got \("):
        converted(source, tmp_path, spacing=spacing)


@pytest.mark.parametrize("folder", ["images", "labels"])
@pytest.mark.parametrize("number", [0, 4])
def test_a_png_slice_that_is_missing_is_named(tmp_path, folder, number):
    source = write_png(tmp_path / "png", NAME, *volume(0))
    (source / folder / f"{NAME}_slice{number:02d}.png").unlink()
    with pytest.raises(ValueError, match=rf"{NAME} must have all of its slices, got none with the number {number}\."):
        converted(source, tmp_path)
    assert not list((tmp_path / "volumes").rglob("*.nii*"))


def test_slices_of_several_sizes(tmp_path):
    source = write_png(tmp_path / "png", NAME, *volume(0))
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(source / "images" / f"{NAME}_slice03.png")
    with pytest.raises(ValueError, match=rf"{NAME} must have slices of one size, got \[\(5, 5\), \(6, 5\)\]"):
        converted(source, tmp_path)


def test_a_label_of_another_size_than_its_image(tmp_path):
    source = write_png(tmp_path / "png", NAME, volume(0)[0], volume(0, (5, 6, 12))[1])
    with pytest.raises(ValueError, match=rf"{NAME} must have a label of its image's shape, got \(5, 6, 12\)"):
        converted(source, tmp_path)
    (source / "labels" / f"{NAME}_slice11.png").unlink()
    write_png(source, NAME, volume(0)[0], volume(0)[1][:, :, :11])
    (source / "labels" / f"{NAME}_slice11.png").unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"got \(6, 5, 11\)"):
        converted(source, tmp_path)


def test_a_label_without_its_image_is_named(tmp_path):
    source = write_png(tmp_path / "png", NAME, *volume(0))
    write_png(source, "patient002_frame01", volume(1)[0], volume(1)[1])
    for path in (source / "images").glob("patient002*"):
        path.unlink()
    with pytest.raises(ValueError, match="each label must have its image, got none for patient002_frame01"):
        converted(source, tmp_path)


def test_a_coloured_png_is_refused(tmp_path):
    source = write_png(tmp_path / "png", NAME, *volume(0))
    Image.fromarray(np.zeros((6, 5, 3), np.uint8)).save(source / "images" / f"{NAME}_slice03.png")
    with pytest.raises(ValueError, match=rf"{NAME}_slice03.png must be one grey channel, got an array of \(6, 5, 3\)"):
        converted(source, tmp_path)


def test_a_second_run_makes_what_is_missing_and_keeps_the_rest(tmp_path):
    values, mask = volume(0)
    source = write_png(tmp_path / "png", NAME, values, mask)
    folder = converted(source, tmp_path)
    write_png(source, NAME, values // 2, 3 - mask)
    write_png(source, "patient002_frame01", *volume(1))
    converted(source, tmp_path)
    check(folder, values, mask)
    check(folder, *volume(1), "patient002_frame01")
    (folder / "patient001" / f"{NAME}.nii.gz").unlink()  # as a run leaves it that ended after the mask
    converted(source, tmp_path)
    check(folder, values // 2, 3 - mask)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent must be a folder of slices, got no such folder"):
        converted(tmp_path / "absent", tmp_path)
    (tmp_path / "empty" / "images").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"empty must hold images/patient001_frame01_slice00\.png, or"):
        converted(tmp_path / "empty", tmp_path)
    assert not (tmp_path / "volumes").exists()


def test_command(tmp_path, monkeypatch, capsys):
    values, mask = volume(0)
    source = write_png(tmp_path / "png", NAME, values, mask)
    arguments = ["convert", "acdc", str(source), str(tmp_path / "volumes"), "--spacing", "[1.5, 1.25, 10]"]
    monkeypatch.setattr(sys, "argv", ["python -m common", *arguments])
    main()
    check(tmp_path / "volumes", values, mask)
    assert read(tmp_path / "volumes").header.get_zooms() == (1.5, 1.25, 10)
    assert "1 volumes are in" in capsys.readouterr().out


# ---- h5


@pytest.mark.parametrize("labeled", [True, False])
def test_h5_volumes_have_their_slices_first(tmp_path, labeled):
    volumes = {name: volume(seed) for seed, name in enumerate((NAME, "patient002_frame10"))}
    for name, (values, mask) in volumes.items():
        label = {"label": np.moveaxis(mask, 2, 0)} if labeled else {}
        write_h5(tmp_path / "h5" / f"{name}.h5", image=np.moveaxis(values / 1000, 2, 0), **label)  # they are scaled
    folder = converted(tmp_path / "h5", tmp_path)
    for name, (values, mask) in volumes.items():
        check(folder, (values / 1000).astype(np.float32), mask if labeled else None, name)
    assert len(find_acdc(folder)) == 2


@pytest.mark.parametrize("labeled", [True, False])
@pytest.mark.parametrize("start", [0, 1])
def test_h5_slices_are_numbered_from_either(tmp_path, start, labeled):
    values, mask = volume(0)
    write_h5_slices(tmp_path / "h5" / "slices", NAME, values, mask if labeled else None, start)
    folder = converted(tmp_path / "h5", tmp_path)
    check(folder, values, mask if labeled else None)
    assert len(find_acdc(folder)) == 1


@pytest.mark.parametrize(("start", "gone", "named"), [(0, 0, None), (0, 1, 1), (1, 1, 0), (1, 5, 5)])
def test_an_h5_slice_that_is_missing(tmp_path, start, gone, named):
    """Without slice 0, the others may be numbered from 1."""
    values, mask = volume(0)
    source = write_h5_slices(tmp_path / "h5", NAME, values, mask, start)
    (source / f"{NAME}_slice_{gone}.h5").unlink()
    if named is None:
        check(converted(source, tmp_path), values[:, :, 1:], mask[:, :, 1:])
        return
    with pytest.raises(ValueError, match=rf"{NAME} must have all of its slices, got none with the number {named}\."):
        converted(source, tmp_path)


def test_an_h5_volume_goes_before_its_slices(tmp_path):
    (values, mask), (other, other_mask) = volume(0), volume(1)
    write_h5_slices(tmp_path / "h5" / "slices", NAME, values // 2, mask)
    write_h5_slices(tmp_path / "h5" / "slices", "patient002_frame01", other, other_mask)
    write_h5(tmp_path / "h5" / f"{NAME}.h5", image=np.moveaxis(values, 2, 0), label=np.moveaxis(mask, 2, 0))
    folder = converted(tmp_path / "h5", tmp_path)
    check(folder, values, mask)
    check(folder, other, other_mask, "patient002_frame01")
    assert [item["patient"] for item in find_acdc(folder)] == ["patient001", "patient002"]


def test_an_h5_file_without_an_image(tmp_path):
    write_h5(tmp_path / "h5" / f"{NAME}.h5", label=np.zeros((2, 3, 4)), pixels=np.zeros((2, 3, 4)))
    with pytest.raises(ValueError, match=rf"{NAME}\.h5 must hold 'image', .* got \['label', 'pixels'\]"):
        converted(tmp_path / "h5", tmp_path)


def test_h5_without_its_package(tmp_path, monkeypatch):
    (tmp_path / "h5").mkdir()
    (tmp_path / "h5" / f"{NAME}.h5").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ValueError, match=rf"{NAME}\.h5 needs the package h5py to be read, .* pip install h5py"):
        converted(tmp_path / "h5", tmp_path)
