"""3D images and masks from NIfTI, DICOM and ITK: values, affines, and one clear error for what cannot be used."""

from __future__ import annotations

import itk
import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from common.data.volumes import read_volume, read_volume_mask, require_same_grid

AFFINE = np.array([[-1.0, 0, 0, 90], [0, 0, 2.0, -60], [0, 1.5, 0, -40], [0, 0, 0, 1]])
# DICOM's row and column directions in its own LPS axes
AXIAL, SAGITTAL = (1, 0, 0, 0, 1, 0), (0, 1, 0, 0, 0, -1)


@pytest.fixture
def values():
    return np.random.default_rng(3).integers(0, 900, (5, 6, 7)).astype(np.float32)


def nifti(path, array, affine=AFFINE):
    nibabel.Nifti1Image(array, affine).to_filename(path)
    return path


def dicom(folder, values, orientation=AXIAL, origin=(-10.0, -20.0, -30.0), spacing=(0.5, 0.8, 3.0), skip=(), **tags):
    """Writes values[column, row, slice] as one file for each slice; gives the affine in nibabel's RAS."""
    folder.mkdir(exist_ok=True)
    row, column = np.array(orientation, float).reshape(2, 3)
    normal = np.cross(row, column)
    series = generate_uid()
    for index in range(values.shape[2]):
        if index in skip:
            continue
        meta = FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, MRImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        path = folder / f"{generate_uid()[-9:]}_{9 - index}.dcm"  # names in another order than the slices
        data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        data.SeriesInstanceUID, data.StudyInstanceUID = series, "1.2.3"
        data.Modality, data.InstanceNumber = "MR", index + 1
        data.ImageOrientationPatient = list(orientation)
        data.ImagePositionPatient = list(np.array(origin) + index * spacing[2] * normal)
        data.PixelSpacing, data.SliceThickness = [spacing[1], spacing[0]], spacing[2]  # between rows, then columns
        data.Rows, data.Columns = values.shape[1], values.shape[0]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
        data.PixelData = values[:, :, index].T.astype(np.uint16).tobytes()
        for name, value in tags.items():
            setattr(data, name, value)
        data.save_as(path, enforce_file_format=True)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([row, column, normal], axis=1) * spacing
    affine[:3, 3] = origin
    return np.diag([-1, -1, 1, 1]) @ affine


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ"])
def test_nifti_keeps_values_and_affine(tmp_path, values, name):
    if name.isupper():  # nibabel writes by the lower-case suffix alone
        path = nifti(tmp_path / "a.nii.gz", values).rename(tmp_path / name)
    else:
        path = nifti(tmp_path / name, values)
    image = read_volume(path)
    assert image.get_data_dtype() == np.float32
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), values)
    np.testing.assert_allclose(image.affine, AFFINE)


def test_a_single_channel_in_a_fourth_axis_is_dropped(tmp_path, values):
    assert read_volume(nifti(tmp_path / "a.nii", values[..., None])).shape == values.shape
    mask = (values > np.median(values)).astype(np.uint8)
    assert read_volume_mask(nifti(tmp_path / "m.nii", mask[..., None])).shape == values.shape


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd"])
def test_itk_and_nifti_agree(tmp_path, values, suffix):
    image = itk.image_from_array(np.ascontiguousarray(values.T))
    image.SetSpacing([1.0, 1.5, 2.0])
    # columns: where x, y and z of the array point to in LPS
    direction = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    image.SetDirection(itk.matrix_from_array(direction))
    image.SetOrigin([-90.0, 60, -40])
    itk.imwrite(image, str(tmp_path / f"a{suffix}"))
    read = read_volume(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(np.asanyarray(read.dataobj), values)
    np.testing.assert_allclose(read.affine, AFFINE)
    whole = values > np.median(values)
    drawn = itk.image_from_array(np.ascontiguousarray(whole.T.astype(np.uint8)))
    drawn.CopyInformation(image)
    itk.imwrite(drawn, str(tmp_path / f"m{suffix}"))
    mask = read_volume_mask(tmp_path / f"m{suffix}", like=read)
    np.testing.assert_array_equal(np.asanyarray(mask.dataobj), whole)


@pytest.mark.parametrize("orientation", [AXIAL, SAGITTAL, (0.8, 0.6, 0, 0, 0, -1)])
def test_dicom_series_has_its_values_and_nibabels_affine(tmp_path, values, orientation):
    affine = dicom(tmp_path / "series", values, orientation)
    (tmp_path / "series" / "readme.txt").write_text("no image")
    image = read_volume(tmp_path / "series")
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), values)
    np.testing.assert_allclose(image.affine, affine, atol=1e-4)


def test_dicom_slope_is_applied(tmp_path, values):
    dicom(tmp_path / "series", values, RescaleSlope=2.0, RescaleIntercept=-1.0)
    np.testing.assert_allclose(np.asanyarray(read_volume(tmp_path / "series").dataobj), 2 * values - 1)


def test_dicom_folders_that_hold_no_one_volume_are_refused(tmp_path, values):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty must hold one DICOM series, got no DICOM series"):
        read_volume(tmp_path / "empty")
    dicom(tmp_path / "two", values)
    dicom(tmp_path / "two", values)
    with pytest.raises(ValueError, match=r"two must hold one DICOM series, got 2 DICOM series"):
        read_volume(tmp_path / "two")
    dicom(tmp_path / "gap", values, skip=[3])
    with pytest.raises(ValueError, match=r"gap .*got 6\.00 mm instead of 3\.00 mm between slices 3 and 4 of 6"):
        read_volume(tmp_path / "gap")
    dicom(tmp_path / "one", values[:, :, :1])
    with pytest.raises(ValueError, match=r"one must be one 3D volume, got an array of 5 x 6 x 1"):
        read_volume(tmp_path / "one")


def test_dicom_slices_of_several_orientations_are_refused(tmp_path, values):
    dicom(tmp_path / "mixed", values)
    file = sorted((tmp_path / "mixed").iterdir())[0]
    header = pydicom.dcmread(file)
    header.ImageOrientationPatient = list(SAGITTAL)
    header.save_as(file)
    with pytest.raises(ValueError, match=r"mixed must hold parallel slices"):
        read_volume(tmp_path / "mixed")


def test_dicom_slices_without_a_position_are_refused(tmp_path, values):
    dicom(tmp_path / "lost", values)
    for file in (tmp_path / "lost").iterdir():
        header = pydicom.dcmread(file)
        del header.ImagePositionPatient
        header.save_as(file)
    with pytest.raises(ValueError, match=r"lost must hold slices with their position"):
        read_volume(tmp_path / "lost")


def edit(path, **tags):
    header = pydicom.dcmread(path)
    for name, value in tags.items():
        setattr(header, name, value)
    header.save_as(path)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"PixelSpacing": [0.9, 0.5]}, r"must hold slices of one PixelSpacing, got .* mm in \S+dcm and .* export"),
        ({"ImagePositionPatient": [-9.75, -20, -21]}, None),  # a tenth of a distance is 0.3 mm
        (
            {"ImagePositionPatient": [-9.5, -20, -21]},
            r"got a step of 0\.50 mm aside between slices 3 and 4 of 7 \(\S+_7\.dcm, \S+_6\.dcm\): .* has moved",
        ),
        ({"ImagePositionPatient": [-10, -20, -20]}, r"got 4\.00 mm instead of 3\.00 mm between slices 3 and 4 of 7"),
        ({"ImagePositionPatient": [-10, -20, -18]}, r"got 6\.00 mm instead of 3\.00 mm between slices 3 and 4 of 7"),
        ({"PixelData": bytes(40)}, r"_6\.dcm must have 60 bytes of pixels, by its header, got 40: copy it again"),
    ],
)
def test_one_slice_of_a_series_that_does_not_fit(tmp_path, values, tags, message):
    """The fourth of seven slices of 5 x 6 pixels of 0.5 x 0.8 mm at distances of 3 mm."""
    affine = dicom(tmp_path / "series", values)
    edit(next((tmp_path / "series").glob("*_6.dcm")), **tags)
    if message is None:
        np.testing.assert_allclose(read_volume(tmp_path / "series").affine, affine, atol=1e-4)
        return
    with pytest.raises(ValueError, match=message) as refused:
        read_volume(tmp_path / "series")
    assert str(tmp_path / "series") in str(refused.value)


@pytest.mark.parametrize(("degrees", "fits"), [(0.5, True), (1.5, False)])
def test_a_tilted_gantry_is_refused_where_a_slice_moves_by_half_a_pixel(tmp_path, values, degrees, fits):
    """Over 18 mm 0.16 mm and 0.47 mm; half a pixel is 0.25 mm."""
    dicom(tmp_path / "tilted", values)
    for index in range(7):
        path = next((tmp_path / "tilted").glob(f"*_{9 - index}.dcm"))
        place = [-10, -20 + 3 * index * np.tan(np.radians(degrees)), -30 + 3 * index]
        edit(path, ImagePositionPatient=[round(side, 6) for side in place])
    if fits:
        assert read_volume(tmp_path / "tilted").shape == values.shape
        return
    with pytest.raises(
        ValueError, match=r"one above the other, got \S+_3\.dcm 0\.47 mm beside the normal of \S+_9\.dcm"
    ):
        read_volume(tmp_path / "tilted")


@pytest.mark.parametrize(
    ("size", "suffix"), [(0, ".dcm"), (300, ".dcm"), (-1, ".dcm"), (0, ".IMA"), (300, ""), (-1, "")]
)
def test_a_damaged_slice_is_not_passed_over(tmp_path, values, size, suffix):
    """ITK leaves out a file that it cannot read, so that the last slice would be missing in silence."""
    dicom(tmp_path / "series", values)
    (tmp_path / "series" / "DICOMDIR").write_bytes(bytes(128) + b"DICM")  # holds no image
    last = next((tmp_path / "series").glob("*_3.dcm"))
    last = last.rename(last.with_suffix(suffix))
    last.write_bytes(last.read_bytes()[:size])
    with pytest.raises(ValueError, match=last.name):
        read_volume(tmp_path / "series")


@pytest.mark.parametrize("read", [read_volume, read_volume_mask])
def test_files_that_cannot_be_read(tmp_path, values, read):
    with pytest.raises(FileNotFoundError, match=r"none\.nii"):
        read(tmp_path / "none.nii")
    whole = nifti(tmp_path / "whole.nii.gz", np.tile(values, (4, 4, 4))).read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.nii").write_text("not an image")
    (tmp_path / "empty.nii.gz").write_bytes(b"")
    (tmp_path / "text.mha").write_text("not an image")
    for name in ("cut.nii.gz", "text.nii", "empty.nii.gz", "text.mha"):
        with pytest.raises(ValueError, match=name):
            read(tmp_path / name)


def test_volumes_that_hold_no_image_are_refused(tmp_path, values):
    for value in (np.nan, np.inf):
        broken = values.copy()
        broken[1, 2, 3] = value
        with pytest.raises(ValueError, match=r"nan\.nii must hold finite numbers, got NaN or infinity in 1 of its"):
            read_volume(nifti(tmp_path / "nan.nii", broken))
    with pytest.raises(ValueError, match=r"flat\.nii must show something, got the value 7 everywhere"):
        read_volume(nifti(tmp_path / "flat.nii", np.full((4, 5, 6), 7.0, np.float32)))
    with pytest.raises(ValueError, match=r"4d\.nii must be one 3D volume, got an array of 5 x 6 x 7 x 2"):
        read_volume(nifti(tmp_path / "4d.nii", np.stack([values, values], -1)))
    with pytest.raises(ValueError, match=r"thin\.nii must be one 3D volume, got an array of 5 x 6 x 1"):
        read_volume(nifti(tmp_path / "thin.nii", values[..., :1]))


def test_an_affine_that_spans_no_volume_is_refused(tmp_path, values):
    flat = nibabel.Nifti1Image(values, AFFINE)
    flat.set_sform(np.diag([1.0, 1, 0, 1]), code=1)
    flat.to_filename(tmp_path / "flat.nii")
    with pytest.raises(ValueError, match=r"flat\.nii must have an affine that spans a volume"):
        read_volume(tmp_path / "flat.nii")


def test_masks_are_bytes_of_what_is_above_0(tmp_path):
    array = np.zeros((5, 6, 7), np.int16)
    array[1, 2, 3], array[2, 2, 2] = 255, 255
    mask = read_volume_mask(nifti(tmp_path / "m.nii.gz", array))
    assert mask.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asanyarray(mask.dataobj), array > 0)
    array[2, 2, 2] = 3
    with pytest.raises(ValueError, match=r"two\.nii must be the mask of one class, got the values 3, 255"):
        read_volume_mask(nifti(tmp_path / "two.nii", array))
    assert not np.asanyarray(read_volume_mask(nifti(tmp_path / "empty.nii", array * 0)).dataobj).any()
    scaled = nibabel.Nifti1Image((array > 0) * np.float32(1), AFFINE)  # as 0 and 255 with a slope of 1 / 255
    scaled.set_data_dtype(np.uint8)
    scaled.to_filename(tmp_path / "scaled.nii")
    assert np.asanyarray(read_volume_mask(tmp_path / "scaled.nii").dataobj).sum() == 2


@pytest.mark.parametrize("value", [0.4, -1, np.nan])
def test_values_that_are_no_masks_are_refused(tmp_path, value):
    array = np.zeros((5, 6, 7), np.float32)
    array[1, 2, 3] = value
    with pytest.raises(ValueError, match=r"m\.nii must be a mask .*is this the image"):
        read_volume_mask(nifti(tmp_path / "m.nii", array))
    with pytest.raises(ValueError, match=r"4d\.nii must be one 3D mask, got an array of 5 x 6 x 7 x 2"):
        read_volume_mask(nifti(tmp_path / "4d.nii", np.stack([array, array], -1)))


def test_a_mask_has_the_grid_of_its_image(tmp_path, values):
    image = nibabel.Nifti1Image(values, AFFINE)
    path = nifti(tmp_path / "m.nii", (values > 500).astype(np.uint8))
    assert read_volume_mask(path, like=image).shape == values.shape
    with pytest.raises(ValueError, match=r"m\.nii must have the shape of its image, got \(5, 6, 7\) and \(4, 6, 7\)"):
        read_volume_mask(path, like=nibabel.Nifti1Image(values[1:], AFFINE))


@pytest.mark.parametrize(("millimetres", "fits"), [(0.05, True), (0.2, False), (1.0, False)])
def test_affines_may_differ_by_a_tenth_of_a_voxel(values, millimetres, fits):
    """The voxel's shortest side is 1 mm: 0.05 mm is rounding, a whole voxel is another place."""
    mask = nibabel.Nifti1Image((values > 500).astype(np.uint8), AFFINE)
    moved = AFFINE.copy()
    moved[2, 3] += millimetres
    image = nibabel.Nifti1Image(values, moved)
    if fits:
        require_same_grid(mask, image, "m.nii")
    else:
        with pytest.raises(ValueError, match=r"m\.nii must have the affine of its image"):
            require_same_grid(mask, image, "m.nii")


def test_affines_must_agree_at_the_far_corner(values):
    """Voxels of 1.05 instead of 1 mm put the corner 5 voxels away by 0.25 mm, the origin by nothing."""
    mask = nibabel.Nifti1Image((values > 500).astype(np.uint8), AFFINE)
    larger = AFFINE @ np.diag([1.05, 1, 1, 1])
    with pytest.raises(ValueError, match=r"0\.25 mm elsewhere"):
        require_same_grid(mask, nibabel.Nifti1Image(values, larger), "m.nii")
