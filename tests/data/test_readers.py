"""Every format against MONAI's own readers, and every kind of bad file."""

from __future__ import annotations

import itk
import nibabel
import numpy as np
import pytest
from monai.transforms import LoadImage
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from common.data.files import file_stem, list_images, times
from common.data.readers import read_image, read_label, read_mask

GREY12 = np.random.default_rng(0).integers(0, 4096, (5, 7)).astype(np.uint16)  # rows, columns
GREY8 = (GREY12 >> 4).astype(np.uint8)
MASK = np.zeros((6, 9), np.uint8)
MASK[1:4, 2:8] = 255


def write_dicom(path, pixels, photometric="MONOCHROME2", slope=None, intercept=None, frames=None, samples=1):
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = (
        meta.MediaStorageSOPClassUID,
        meta.MediaStorageSOPInstanceUID,
    )
    dataset.Modality, dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "CR", photometric, samples
    dataset.Rows, dataset.Columns = pixels.shape[1:3] if frames else pixels.shape[:2]
    bits = 12 if pixels.dtype.itemsize == 2 else 8
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8 * pixels.dtype.itemsize, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    if samples > 1:
        dataset.PlanarConfiguration = 0
    if frames:
        dataset.NumberOfFrames = frames
    if slope is not None:
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_all_formats(folder):
    Image.fromarray(GREY8).save(folder / "grey8.png")
    Image.fromarray(GREY12).save(folder / "grey16.png")
    Image.fromarray(GREY12).save(folder / "grey16.tif")
    Image.fromarray(GREY8).save(folder / "grey8.jpg")
    write_dicom(folder / "plain.dcm", GREY12)
    write_dicom(folder / "rescaled.dcm", GREY12, slope=2, intercept=-100)
    write_dicom(folder / "inverted.dcm", GREY12, "MONOCHROME1")
    write_dicom(folder / "inverted_rescaled.dcm", GREY12, "MONOCHROME1", slope=2, intercept=-100)
    affine = np.diag([-0.5, -0.7, 1, 1])
    nibabel.Nifti1Image(GREY12.T[..., None].astype(np.float32), affine).to_filename(folder / "slice.nii.gz")
    nibabel.Nifti1Image(GREY12.T.astype(np.int16), affine).to_filename(folder / "flat.nii")
    itk.imwrite(itk.image_from_array(GREY12), str(folder / "flat.mhd"))
    itk.imwrite(itk.image_from_array(GREY12[None]), str(folder / "slice.mhd"))


STOCK = [
    ("grey8.png", "PILReader"),
    ("grey8.png", "ITKReader"),
    ("grey16.png", "PILReader"),
    ("grey16.png", "ITKReader"),
    ("grey16.tif", "ITKReader"),
    ("grey8.jpg", "PILReader"),
    ("plain.dcm", "PydicomReader"),
    ("plain.dcm", "ITKReader"),
    ("rescaled.dcm", "PydicomReader"),
    ("rescaled.dcm", "ITKReader"),
    ("inverted.dcm", "ITKReader"),
    ("inverted_rescaled.dcm", "ITKReader"),
    ("slice.nii.gz", "NibabelReader"),
    ("slice.nii.gz", "ITKReader"),
    ("flat.nii", "NibabelReader"),
    ("flat.nii", "ITKReader"),
    ("flat.mhd", "ITKReader"),
    ("slice.mhd", "ITKReader"),
]


@pytest.fixture(scope="module")
def formats(tmp_path_factory):
    folder = tmp_path_factory.mktemp("formats")
    write_all_formats(folder)
    return folder


@pytest.mark.parametrize(("name", "reader"), STOCK)
def test_axes_and_values_are_those_of_the_stock_reader(formats, name, reader):
    stock = np.asarray(LoadImage(reader=reader, image_only=True)(formats / name)).squeeze()
    ours = read_image(formats / name)
    assert ours.dtype == np.float32
    assert ours.shape == (7, 5)  # width, height
    np.testing.assert_allclose(ours, stock, rtol=1e-6)


def test_inverted_dicom_is_bright_where_the_stored_value_is_low(formats):
    np.testing.assert_array_equal(read_image(formats / "inverted.dcm"), 4095.0 - GREY12.T)


def test_signed_inverted_dicom_and_a_dicom_without_suffix(tmp_path):
    signed = GREY12.astype(np.int16) - 2048
    image = read_image(write_dicom(tmp_path / "signed", signed, "MONOCHROME1", slope=1, intercept=5))
    np.testing.assert_array_equal(image, (-1.0 - signed.T) + 5)
    assert image.flat[GREY12.T.argmin()] == image.max()


def test_jsrt_image_is_big_endian_square_and_inverted(tmp_path):
    stored = np.random.default_rng(1).integers(0, 4096, (16, 16))
    content = bytearray()
    for value in stored.ravel().tolist():
        content += bytes([value >> 8, value & 255])
    (tmp_path / "JPCLN001.IMG").write_bytes(content)
    np.testing.assert_array_equal(read_image(tmp_path / "JPCLN001.IMG"), 4095 - stored.T)


def test_grey_stored_as_colour_is_read_as_it_is(tmp_path):
    Image.fromarray(np.stack([GREY8] * 3, axis=-1)).save(tmp_path / "rgb.png")
    Image.fromarray(GREY8).convert("RGBA").save(tmp_path / "rgba.png")
    for name in ("rgb.png", "rgba.png"):
        np.testing.assert_array_equal(read_image(tmp_path / name), GREY8.T)


COLOURS = np.random.default_rng(3).integers(0, 256, (5, 7, 3)).astype(np.uint8)  # rows, columns, channels


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_channels_of_a_picture(tmp_path, suffix):
    path = tmp_path / f"contrasts.{suffix}"
    Image.fromarray(COLOURS).save(path)
    every = read_image(path, channel="all")
    assert (every.shape, every.dtype) == ((3, 7, 5), np.float32)  # channels, width, height
    for channel in range(3):
        np.testing.assert_array_equal(read_image(path, channel=channel), COLOURS[..., channel].T)
        np.testing.assert_array_equal(every[channel], COLOURS[..., channel].T)
    weighted = np.asarray(Image.fromarray(COLOURS).convert("L"))
    np.testing.assert_array_equal(read_image(path), weighted.T)  # grey where no channel is asked for


def test_opacity_is_no_channel_and_a_palette_stands_for_its_colours(tmp_path):
    picture = Image.fromarray(COLOURS)
    picture.convert("RGBA").save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(read_image(tmp_path / "rgba.png", "all"), COLOURS.transpose(2, 1, 0))
    palette = picture.quantize(256)
    palette.save(tmp_path / "palette.png")
    shown = np.asarray(palette.convert("RGB"))
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png", "all"), shown.transpose(2, 1, 0))
    bits = GREY8 > 100
    Image.fromarray(bits).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_image(tmp_path / "bits.png", "all"), 255 * bits.T[None])


@pytest.mark.parametrize("name", sorted({name for name, _ in STOCK}))
def test_grey_files_have_one_channel(formats, name):
    grey = read_image(formats / name)
    np.testing.assert_array_equal(read_image(formats / name, channel=0), grey)
    np.testing.assert_array_equal(read_image(formats / name, channel="all"), grey[None])
    with pytest.raises(ValueError, match=rf"{name}: an image must have at least 2 channels for channel=1, got 1"):
        read_image(formats / name, channel=1)


def test_a_channel_that_a_picture_lacks_and_what_is_none(tmp_path):
    Image.fromarray(COLOURS).save(tmp_path / "rgb.png")
    with pytest.raises(ValueError, match=r"rgb.png: an image must have at least 4 channels for channel=3, got 3"):
        read_image(tmp_path / "rgb.png", channel=3)
    for channel in (-1, True, 1.0, "flair"):
        with pytest.raises(ValueError, match='channel must be None, "all" or a whole number from 0, got'):
            read_image(tmp_path / "rgb.png", channel=channel)


def test_a_channel_may_be_blank_but_not_all_of_them(tmp_path):
    blank = COLOURS.copy()
    blank[..., 1] = 0
    Image.fromarray(blank).save(tmp_path / "partly.tif")
    assert not read_image(tmp_path / "partly.tif", channel=1).any()
    Image.fromarray(np.zeros_like(blank)).save(tmp_path / "blank.tif")
    for channel in (None, 1, "all"):
        with pytest.raises(ValueError, match=r"blank.tif: an image must hold several values, got 0 everywhere"):
            read_image(tmp_path / "blank.tif", channel)


def test_masks_of_every_kind_agree(tmp_path):
    Image.fromarray(MASK).save(tmp_path / "grey.png")
    Image.fromarray(MASK).save(tmp_path / "grey.gif")
    Image.fromarray(MASK > 0).save(tmp_path / "bits.png")
    Image.fromarray(MASK).convert("RGB").save(tmp_path / "colour.png")
    Image.fromarray(np.dstack([MASK, MASK * 0, MASK * 0])).save(tmp_path / "red.png")
    palette = Image.fromarray((MASK > 0).astype(np.uint8), mode="P")
    palette.putpalette([0, 0, 0, 255, 255, 255])
    palette.save(tmp_path / "palette.gif")
    palette.save(tmp_path / "palette.png")
    Image.fromarray(np.kron(MASK, np.ones((8, 8), np.uint8))).save(tmp_path / "large.jpg")
    nibabel.Nifti1Image((MASK.T > 0).astype(np.uint8)[..., None], np.eye(4)).to_filename(tmp_path / "a.nii.gz")
    write_dicom(tmp_path / "a.dcm", MASK)
    for path in sorted(tmp_path.iterdir()):
        mask = read_mask(path)
        assert mask.dtype == bool
        if path.name == "large.jpg":
            mask = mask[4::8, 4::8]
        np.testing.assert_array_equal(mask, MASK.T > 0, err_msg=path.name)


def test_label_maps_keep_their_class_numbers(tmp_path):
    label = np.arange(12).reshape(3, 4).astype(np.uint8) % 4
    Image.fromarray(label).save(tmp_path / "grey.png")
    coloured = Image.fromarray(label, mode="P")
    coloured.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    coloured.save(tmp_path / "palette.png")
    itk.imwrite(itk.image_from_array(label), str(tmp_path / "a.mhd"))
    nibabel.Nifti1Image(label.T.astype(np.float32), np.eye(4)).to_filename(tmp_path / "a.nii.gz")
    for name in ("grey.png", "palette.png", "a.mhd", "a.nii.gz"):
        read = read_label(tmp_path / name)
        assert read.dtype == np.int32
        np.testing.assert_array_equal(read, label.T, err_msg=name)


@pytest.mark.parametrize(
    "name",
    ["grey8.png", "grey16.tif", "grey8.jpg", "plain.dcm", "slice.nii.gz", "flat.nii", "a.gif", "a.IMG"],
)
@pytest.mark.parametrize("share", [0.02, 0.6, 0.97])
def test_truncated_file_is_refused_by_name(tmp_path, name, share):
    noise = np.random.default_rng(2).integers(0, 4096, (64, 64)).astype(np.uint16)
    path = tmp_path / name
    if name == "a.IMG":
        noise.astype(">u2").tofile(path)
    elif name.endswith("dcm"):
        write_dicom(path, noise)
    elif ".nii" in name:
        nibabel.Nifti1Image(noise.astype(np.float32), np.eye(4)).to_filename(path)
    else:
        Image.fromarray((noise >> 4).astype(np.uint8)).save(path)
    assert read_image(path).shape == (64, 64)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=name):
        read_image(path)


def test_truncated_mhd_is_refused(tmp_path):
    itk.imwrite(itk.image_from_array(GREY12), str(tmp_path / "a.mhd"))
    raw = tmp_path / "a.raw"
    raw.write_bytes(raw.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"a\.mhd"):
        read_image(tmp_path / "a.mhd")


def test_nan_and_constant_images_are_refused(tmp_path):
    values = np.random.default_rng(3).random((8, 8)).astype(np.float32)
    values[2, 3] = np.nan
    nibabel.Nifti1Image(values, np.eye(4)).to_filename(tmp_path / "nan.nii")
    with pytest.raises(ValueError, match=r"nan\.nii.* 1 of 64 NaN"):
        read_image(tmp_path / "nan.nii")
    Image.fromarray(np.full((8, 8), 17, np.uint8)).save(tmp_path / "flat.png")
    with pytest.raises(ValueError, match=r"flat\.png.*17 everywhere"):
        read_image(tmp_path / "flat.png")


def test_files_that_are_no_single_grey_image_are_refused(tmp_path):
    write_dicom(tmp_path / "frames.dcm", np.stack([GREY12] * 3), frames=3)
    write_dicom(tmp_path / "colour.dcm", np.dstack([GREY8] * 3), "RGB", samples=3)
    frame = Image.fromarray(GREY8)
    frame.save(tmp_path / "film.gif", save_all=True, append_images=[Image.fromarray(255 - GREY8)])
    nibabel.Nifti1Image(np.random.rand(4, 5, 6).astype(np.float32), np.eye(4)).to_filename(tmp_path / "v.nii")
    for name, found in (("frames.dcm", "3 frames"), ("colour.dcm", "3 values"), ("film.gif", "2 frames")):
        with pytest.raises(ValueError, match=f"{name}.*{found}"):
            read_image(tmp_path / name)
    with pytest.raises(ValueError, match=r"v\.nii.*two dimensions.*\(4, 5, 6\)"):
        read_image(tmp_path / "v.nii")


def test_swapped_bytes_unknown_kinds_and_missing_files_are_refused(tmp_path):
    GREY12[:5, :5].astype("<u2").tofile(tmp_path / "swapped.IMG")
    with pytest.raises(ValueError, match=r"swapped\.IMG.*12-bit"):
        read_image(tmp_path / "swapped.IMG")
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"notes\.txt.*must be one of"):
        read_image(tmp_path / "notes.txt")
    with pytest.raises(FileNotFoundError, match=r"absent\.png"):
        read_image(tmp_path / "absent.png")


def test_labels_that_lost_their_numbers_are_refused(tmp_path):
    Image.fromarray(MASK).save(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"a\.jpg.*without loss"):
        read_label(tmp_path / "a.jpg")
    Image.fromarray(np.dstack([MASK, MASK * 0, MASK * 0])).save(tmp_path / "red.png")
    with pytest.raises(ValueError, match=r"red\.png.*colours"):
        read_label(tmp_path / "red.png")
    nibabel.Nifti1Image(MASK.astype(np.float32) / 100, np.eye(4)).to_filename(tmp_path / "a.nii")
    with pytest.raises(ValueError, match=r"a\.nii.*whole numbers"):
        read_label(tmp_path / "a.nii")


def test_stems_and_folders(tmp_path):
    assert file_stem("x/40779_2020_233_Fig2_HTML-a.png") == "40779_2020_233_Fig2_HTML-a"
    assert file_stem("a.1.NII.GZ") == "a.1"
    assert file_stem("scan.1") == "scan.1"
    for name in ("b.png", "a.nii.gz", ".hidden.png", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"x")
    write_dicom(tmp_path / "IM0001", GREY12)
    assert list(list_images(tmp_path)) == ["IM0001", "a", "b"]
    (tmp_path / "b.dcm").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"b\.dcm.*b\.png"):
        list_images(tmp_path)


def test_sizes_in_words():
    assert times((1234567, 0.488, np.float64(3))) == "1234567 x 0.488 x 3"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".nii.gz"])
def test_an_image_is_no_mask(tmp_path, suffix):
    import nibabel

    image = np.tile(np.arange(256, dtype=np.uint8), (64, 1))
    path = tmp_path / f"m{suffix}"
    if suffix == ".nii.gz":
        nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), path)
    else:
        Image.fromarray(image).save(path)
    with pytest.raises(ValueError, match=rf"m{suffix}: a mask must be 0 outside .* between in \d\d% of it"):
        read_mask(path)
    Image.fromarray(np.pad(np.full((40, 40), 255, np.uint8), 12)).resize((63, 63)).save(tmp_path / "soft.png")
    assert read_mask(tmp_path / "soft.png").any(), "smoothed borders are legal"
