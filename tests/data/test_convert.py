"""NIfTI volumes of DICOM: the same values in the same places."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from oct_dicom import OBLIQUE, PLACES, VALUES, write

from common.data.convert import convert_dicom
from common.data.volumes import read_volume


@pytest.fixture
def scans(tmp_path):
    (tmp_path / "scans" / "second").mkdir(parents=True)
    write(tmp_path / "scans" / "left.dcm", places=PLACES)
    write(
        tmp_path / "scans" / "second" / "right.dcm", VALUES[::-1], *OBLIQUE, places=PLACES, order=[3, 1, 0, 2, 6, 5, 4]
    )
    return tmp_path / "scans"


def test_every_file_of_frames_becomes_a_volume(scans, tmp_path, capsys):
    convert_dicom(scans, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["left.nii.gz", "right.nii.gz"]
    for path, source in (("left", scans / "left.dcm"), ("right", scans / "second" / "right.dcm")):
        made, expected = nibabel.load(tmp_path / "out" / f"{path}.nii.gz"), read_volume(source)
        assert np.array_equal(made.get_fdata(), expected.get_fdata())
        assert np.allclose(made.affine, expected.affine, atol=1e-6)
    assert "2 volumes are in" in capsys.readouterr().out


def test_a_single_file_and_what_is_there_already(scans, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "right.nii.gz").write_text("mine")
    convert_dicom(scans / "left.dcm", tmp_path / "out")
    convert_dicom(scans, tmp_path / "out")
    assert (tmp_path / "out" / "right.nii.gz").read_text() == "mine"
    assert nibabel.load(tmp_path / "out" / "left.nii.gz").shape == VALUES.shape


def test_two_of_one_name_are_refused_before_anything_is_written(scans, tmp_path):
    write(scans / "second" / "left.dcm", places=PLACES)
    with pytest.raises(ValueError, match=r"volumes of different names, got .*left\.dcm, .*left\.dcm"):
        convert_dicom(scans, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_to_convert(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(FileNotFoundError, match="must hold DICOM files of several frames, or series, got none"):
        convert_dicom(tmp_path, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        convert_dicom(tmp_path / "none", tmp_path / "out")


def test_frames_without_a_place_are_named_and_nothing_half_is_left(scans, tmp_path):
    write(scans / "aaa.dcm")
    with pytest.raises(ValueError, match=r"aaa\.dcm"):
        convert_dicom(scans, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


def test_a_file_that_is_no_volume_is_named(tmp_path):
    write(tmp_path / "one.dcm", VALUES[..., :1], places=PLACES[:1])
    with pytest.raises(ValueError, match=r"one\.dcm must be one 3D volume"):
        convert_dicom(tmp_path / "one.dcm", tmp_path / "out")
