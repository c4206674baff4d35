"""No format's check sum is passed over, and no length, when a file is read for training or a check."""

from __future__ import annotations

import damaged
import nibabel
import numpy as np
import pytest
from damaged import CHECKED, FLAT, LENGTH_ALONE, SAMPLE, VOXELS, outcomes

from common.data.readers import read_image, read_label
from common.data.volumes import read_volume, read_volume_labels


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return damaged.write_whole(tmp_path_factory.mktemp("whole"))


def image(path):
    return read_image(path) if path.name in FLAT else np.asarray(read_volume(path).dataobj)


def label(path):
    return read_label(path) if path.name in FLAT else np.asarray(read_volume_labels(path).dataobj)


@pytest.mark.parametrize("read", [image, label])
@pytest.mark.parametrize("damage", [damaged.cut, damaged.flipped, damaged.without_end])
@pytest.mark.parametrize("name", CHECKED)
def test_no_damaged_file_with_a_check_sum_passes(whole, tmp_path, name, damage, read):
    found = outcomes(whole / name, damage, tmp_path, read)
    assert found["others"] == 0
    assert found["refused"] >= 0.8 * SAMPLE  # of gzip's header, say, and of what ends a PNG, bits mean nothing


@pytest.mark.parametrize("name", LENGTH_ALONE)
def test_no_short_file_passes(whole, tmp_path, name):
    assert outcomes(whole / name, damaged.cut, tmp_path, image) == {"refused": SAMPLE}


@pytest.mark.parametrize(
    "name", [name for name in CHECKED + LENGTH_ALONE if name.split(".")[1] in ("nii", "mha", "nrrd")]
)
def test_bytes_after_the_end_are_another_image_s(whole, tmp_path, name):
    copy = tmp_path / name
    copy.write_bytes((whole / name).read_bytes() + b"more")
    with pytest.raises(ValueError, match=name):
        image(copy)


def test_a_header_of_another_nifti_file_is_refused(tmp_path):
    """Of three slices instead of seven: ITK and nibabel would read the first three."""
    nibabel.save(nibabel.Nifti1Image(VOXELS, np.eye(4)), tmp_path / "a.nii")
    data = bytearray((tmp_path / "a.nii").read_bytes())
    data[46:48] = (3).to_bytes(2, "little")  # dim[3]
    (tmp_path / "a.nii").write_bytes(data)
    expected = rf"by its header it has {352 + 2 * 9 * 8 * 3} bytes, uncompressed, got {352 + 2 * VOXELS.size}"
    for read in (read_volume, read_image):
        with pytest.raises(ValueError, match=expected):
            read(tmp_path / "a.nii")


def test_an_nrrd_file_that_skips_bytes_is_refused_and_one_in_text_is_read(whole, tmp_path):
    header, _, values = (whole / "plain.nrrd").read_bytes().partition(b"\n\n")
    (tmp_path / "skips.nrrd").write_bytes(header + b"\nbyte skip: 4\n\nnone" + values)
    with pytest.raises(ValueError, match=r"skips.nrrd must have its voxels right after its header"):
        read_volume(tmp_path / "skips.nrrd")
    text = " ".join(map(str, VOXELS.ravel(order="F"))).encode()
    (tmp_path / "text.nrrd").write_bytes(header.replace(b"encoding: raw", b"encoding: ascii") + b"\n\n" + text)
    np.testing.assert_array_equal(image(tmp_path / "text.nrrd"), VOXELS)
