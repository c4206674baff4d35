"""Files that were cut off, of which a bit was flipped or the end is zeros: no format's check sum is passed over."""

from __future__ import annotations

from collections import Counter

import itk
import nibabel
import numpy as np
import pytest
from oct_dicom import PLACES, write
from PIL import Image
from test_readers import write_dicom

from common.data.readers import read_image, read_label
from common.data.volumes import read_volume, read_volume_labels

SAMPLE = 25  # damaged files of each kind
PICTURE = np.random.default_rng(0).integers(0, 200, (24, 20)).astype(np.uint8)
VOXELS = np.random.default_rng(1).integers(0, 200, (9, 8, 7)).astype(np.int16)
# an image whose values are uncompressed has nothing by which they could be checked, only a length
CHECKED = ["volume.nii.gz", "flat.nii.gz", "packed.mha", "packed.nrrd", "picture.png"]
LENGTH_ALONE = ["volume.nii", "plain.mha", "plain.nrrd", "slice.dcm", "frames.dcm"]
VOLUMES = ("volume", "packed", "plain")
FLAT = ("flat.nii.gz", "picture.png", "slice.dcm")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    for name in ("volume.nii.gz", "volume.nii"):
        nibabel.save(nibabel.Nifti1Image(VOXELS, np.eye(4)), folder / name)
    nibabel.save(nibabel.Nifti1Image(PICTURE.T.astype(np.int16), np.eye(4)), folder / "flat.nii.gz")
    image = itk.image_from_array(np.ascontiguousarray(VOXELS.T))
    for kind in ("mha", "nrrd"):
        itk.imwrite(image, str(folder / f"packed.{kind}"), compression=True)
        itk.imwrite(image, str(folder / f"plain.{kind}"), compression=False)
    Image.fromarray(PICTURE).save(folder / "picture.png")
    write_dicom(folder / "slice.dcm", PICTURE)
    write(folder / "frames.dcm", places=PLACES)
    return folder


def array(path, label=False):
    if path.name in FLAT:
        return (read_label if label else read_image)(path)
    return np.asarray((read_volume_labels if label else read_volume)(path).dataobj)


def cut(data, rng):
    return data[: rng.integers(len(data))]


def flipped(data, rng):
    place, changed = rng.integers(len(data)), bytearray(data)
    changed[place] ^= 1 << rng.integers(8)
    return bytes(changed)


def without_end(data, rng):
    size = rng.integers(1, len(data))
    return data[:-size] + bytes(size)


def outcomes(path, damage, folder, label=False):
    """How many damaged copies were refused by name, and how many gave the values of the whole file, or others."""
    rng, found, whole = np.random.default_rng(len(path.name)), Counter(), path.read_bytes()
    copy, values = folder / path.name, array(path, label)
    for _ in range(SAMPLE):
        copy.write_bytes(damage(whole, rng))
        try:
            read = array(copy, label)
        except (ValueError, FileNotFoundError) as error:
            assert str(copy) in str(error)
            found["refused"] += 1
        else:
            found["the same" if read.shape == values.shape and (read == values).all() else "others"] += 1
    return found


@pytest.mark.parametrize("label", [False, True], ids=["image", "label"])
@pytest.mark.parametrize("damage", [cut, flipped, without_end])
@pytest.mark.parametrize("name", CHECKED)
def test_no_damaged_file_with_check_sums_passes(whole, tmp_path, name, damage, label):
    found = outcomes(whole / name, damage, tmp_path, label)
    assert found["others"] == 0
    assert found["refused"] >= 0.8 * SAMPLE  # of gzip's header, say, and of what ends a PNG, bits mean nothing


@pytest.mark.parametrize("name", LENGTH_ALONE)
def test_no_short_file_passes(whole, tmp_path, name):
    found = outcomes(whole / name, cut, tmp_path)
    assert found == {"refused": SAMPLE}


@pytest.mark.parametrize("name", [name for name in [*CHECKED, *LENGTH_ALONE] if name.split(".")[0] in VOLUMES])
def test_bytes_after_the_end_are_another_image_s(whole, tmp_path, name):
    copy = tmp_path / name
    copy.write_bytes((whole / name).read_bytes() + b"more")
    with pytest.raises(ValueError, match=name):
        read_volume(copy)


def test_a_header_of_another_nifti_file_is_refused(tmp_path):
    """Half as many slices as there are: what ITK and nibabel read is the first half."""
    nibabel.save(nibabel.Nifti1Image(VOXELS, np.eye(4)), tmp_path / "a.nii")
    data = bytearray((tmp_path / "a.nii").read_bytes())
    data[46:48] = (3).to_bytes(2, "little")  # dim[3]
    (tmp_path / "a.nii").write_bytes(data)
    expected = rf"by its header it has {352 + 2 * 9 * 8 * 3} bytes, uncompressed, got {352 + 2 * VOXELS.size}"
    with pytest.raises(ValueError, match=expected):
        read_volume(tmp_path / "a.nii")
    with pytest.raises(ValueError, match=expected):
        read_image(tmp_path / "a.nii")


def test_an_nrrd_file_that_skips_bytes_is_refused_and_one_in_text_is_read(whole, tmp_path):
    header, _, values = (whole / "plain.nrrd").read_bytes().partition(b"\n\n")
    (tmp_path / "skips.nrrd").write_bytes(header + b"\nbyte skip: 4\n\nnone" + values)
    with pytest.raises(ValueError, match=r"skips.nrrd must have its voxels right after its header"):
        read_volume(tmp_path / "skips.nrrd")
    text = " ".join(map(str, VOXELS.ravel(order="F"))).encode()
    (tmp_path / "text.nrrd").write_bytes(header.replace(b"encoding: raw", b"encoding: ascii") + b"\n\n" + text)
    np.testing.assert_array_equal(np.asarray(read_volume(tmp_path / "text.nrrd").dataobj), VOXELS)
