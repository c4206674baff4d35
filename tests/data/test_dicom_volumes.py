"""One DICOM file of several frames as a volume: values, order and affine are those of its functional groups."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from oct_dicom import COLUMN, OBLIQUE, ORIGIN, PLACES, ROW, SPACING, VALUES, items, write
from pydicom.uid import RLELossless

from common.data.dicom_volumes import frames_of
from common.data.readers import read_image
from common.data.volumes import is_volume, read_volume, read_volume_labels


def affine_of(row=ROW, column=COLUMN, origin=ORIGIN):
    """From voxels to millimetres in RAS+, by DICOM's own formula (PS3.3 C.7.6.2.1.1)."""
    affine = np.eye(4)
    for axis, direction in enumerate((row, column, np.cross(row, column))):
        affine[:3, axis] = np.array(direction) * SPACING[axis]
    affine[:3, 3] = origin
    return np.diag([-1, -1, 1, 1]) @ affine


def array(image):
    return np.asarray(image.dataobj)


@pytest.mark.parametrize("name", ["oct.dcm", "oct", "OCT.DCM"])
@pytest.mark.parametrize(("row", "column"), [(ROW, COLUMN), OBLIQUE])
def test_frames_are_a_volume(tmp_path, name, row, column):
    path = write(tmp_path / name, row=row, column=column, places=PLACES)
    image = read_volume(path)
    assert image.shape == (5, 6, 7)
    np.testing.assert_array_equal(array(image), VALUES)
    np.testing.assert_allclose(image.affine, affine_of(row, column), atol=1e-9)
    assert is_volume(path) is True and frames_of(path) == 7


@pytest.mark.parametrize("order", [[6, 5, 4, 3, 2, 1, 0], [3, 1, 0, 2, 6, 5, 4]])
def test_frames_are_sorted_by_their_place(tmp_path, order):
    """ITK leaves them as they are, and takes 1 mm for the distance where they are mixed."""
    image = read_volume(write(tmp_path / "oct.dcm", order=order, places=PLACES))
    np.testing.assert_array_equal(array(image), VALUES)
    np.testing.assert_allclose(image.affine, affine_of(), atol=1e-9)


def test_spacing_of_each_frame_and_slices_without_positions(tmp_path):
    """Hand-computed: without a position the first voxel is at the origin; how thick slices are tells no distance."""
    measures = {"PixelSpacing": [0.004, 0.01], "SliceThickness": 0.02, "SpacingBetweenSlices": 0.25}
    image = read_volume(write(tmp_path / "oct.dcm", measures=measures))
    np.testing.assert_array_equal(array(image), VALUES)
    np.testing.assert_allclose(image.affine, np.diag([-0.01, -0.004, 0.25, 1]), atol=1e-12)
    header = pydicom.dcmread(write(tmp_path / "own.dcm", measures={}, places=PLACES))
    for frame in header.PerFrameFunctionalGroupsSequence:
        frame.PixelMeasuresSequence = items(PixelSpacing=[SPACING[1], SPACING[0]])
    header.save_as(tmp_path / "own.dcm")
    np.testing.assert_allclose(read_volume(tmp_path / "own.dcm").affine, affine_of(), atol=1e-9)


def test_a_label_map_of_frames_has_the_grid_of_its_image(tmp_path):
    image = read_volume(write(tmp_path / "oct.dcm", places=PLACES))
    labels = read_volume_labels(write(tmp_path / "reference.dcm", VALUES % 4, places=PLACES), 3, like=image)
    np.testing.assert_array_equal(array(labels), VALUES % 4)
    with pytest.raises(ValueError, match=r"moved\.dcm must have the affine of its image"):
        read_volume_labels(write(tmp_path / "moved.dcm", VALUES % 4, places=PLACES * 2), 3, like=image)


def test_values_are_rescaled_and_high_is_bright(tmp_path):
    shared = {"PixelValueTransformationSequence": items(RescaleSlope=2, RescaleIntercept=-1, RescaleType="US")}
    path = write(tmp_path / "oct.dcm", places=PLACES, shared=shared)
    np.testing.assert_array_equal(array(read_volume(path)), 2 * VALUES - 1)
    path = write(tmp_path / "dark.dcm", places=PLACES, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(array(read_volume(path)), 255 - VALUES)


def test_compressed_frames(tmp_path):
    header = pydicom.dcmread(write(tmp_path / "oct.dcm", places=PLACES))
    header.compress(RLELossless)
    header.save_as(tmp_path / "rle.dcm")
    np.testing.assert_array_equal(array(read_volume(tmp_path / "rle.dcm")), VALUES)


def test_the_only_file_of_a_folder(tmp_path):
    (tmp_path / "oct").mkdir()
    write(tmp_path / "oct" / "1.dcm", places=PLACES)
    image = read_volume(tmp_path / "oct")
    np.testing.assert_array_equal(array(image), VALUES)
    np.testing.assert_allclose(image.affine, affine_of(), atol=1e-9)


UNEVEN = np.array([0, 1, 2, 4, 5, 6, 7]) * SPACING[2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"measures": {}, "places": PLACES},
            "must say how large its pixels are, as one PixelSpacing above 0, got none",
        ),
        (
            {"measures": {"PixelSpacing": [0, 0.01]}, "places": PLACES},
            "must say .* PixelSpacing above 0, got 0 to 0.01 mm",
        ),
        ({}, "must say how far apart its frames are, .* or SpacingBetweenSlices, got neither"),
        ({"places": PLACES * 0}, "must say how far apart its frames are"),
        (
            {"places": UNEVEN},
            "must hold slices at equal distances, got 0.24 mm instead of 0.12 mm between slices 3 and 4",
        ),
        (
            {"places": PLACES, "SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"},
            "must be a DICOM file whose frames",
        ),
        ({"places": PLACES, "PixelData": b"\0" * 100}, "must be a DICOM file whose frames can be decoded"),
    ],
)
def test_frames_whose_place_or_values_are_not_known(tmp_path, settings, message):
    path = write(tmp_path / "oct.dcm", **settings)
    with pytest.raises(ValueError, match=rf"oct\.dcm {message}"):
        read_volume(path)


def test_frames_in_colour_and_of_several_orientations(tmp_path):
    colours = np.repeat(VALUES.T[..., None], 3, axis=-1).astype(np.uint8).tobytes()
    settings = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    path = write(tmp_path / "rgb.dcm", places=PLACES, PixelData=colours, **settings)
    with pytest.raises(ValueError, match=r"rgb\.dcm must hold grey frames, got an array of \(7, 6, 5, 3\)"):
        read_volume(path)
    header = pydicom.dcmread(write(tmp_path / "radial.dcm", places=PLACES))
    header.PerFrameFunctionalGroupsSequence[2].PlaneOrientationSequence = items(
        ImageOrientationPatient=[*OBLIQUE[0], *OBLIQUE[1]]
    )
    header.save_as(tmp_path / "radial.dcm")
    with pytest.raises(ValueError, match=r"radial\.dcm must hold parallel slices, got several orientations"):
        read_volume(tmp_path / "radial.dcm")


def test_a_single_frame_is_no_volume(tmp_path):
    path = write(tmp_path / "flat.dcm", VALUES[..., :1])
    assert is_volume(path) is False and frames_of(path) == 1
    with pytest.raises(ValueError, match=r"flat\.dcm must be one 3D volume, got an array of 5 x 6"):
        read_volume(path)
    np.testing.assert_array_equal(read_image(path), VALUES[..., 0])
    (tmp_path / "notes.txt").write_text("no image")
    assert frames_of(tmp_path / "notes.txt") == 0 and is_volume(tmp_path / "notes.txt") is False
    (tmp_path / "cut.dcm").write_bytes(path.read_bytes()[:140])
    assert frames_of(tmp_path / "cut.dcm") in (0, 1)
