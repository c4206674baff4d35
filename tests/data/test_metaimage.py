"""MHD and MHA files: what ITK reads rightly stays, what it reads wrongly without a word is one clear error."""

from __future__ import annotations

import gzip
import zlib

import itk
import numpy as np
import pytest

from common.data.decoders import decode_itk
from common.data.metaimage import check_metaimage, data_file
from common.data.nrrd import check_nrrd
from common.data.readers import read_image, read_label
from common.data.volumes import is_volume, read_volume, read_volume_labels

SHAPE = (4, 5, 6)
VALUES = np.random.default_rng(0).integers(0, 60000, SHAPE).astype(np.uint16)
HEADER = {
    "ObjectType": "Image",
    "NDims": 3,
    "BinaryData": True,
    "BinaryDataByteOrderMSB": False,
    "CompressedData": False,
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "0 0 0",
    "ElementSpacing": "0.5 0.25 2",
    "DimSize": "4 5 6",
    "ElementType": "MET_USHORT",
    "ElementDataFile": "oct.raw",
}
RAW = VALUES.tobytes(order="F")
PACKED = zlib.compress(RAW)


@pytest.fixture
def case(tmp_path):
    (tmp_path / "case").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "case" / "oct.raw").write_bytes(RAW)
    (tmp_path / "other" / "oct.raw").write_bytes(RAW[::-1])
    return tmp_path / "case"


def write(folder, name="oct.mhd", tail=b"", data=None, **entries):
    """A header, an entry that is None left out, with what follows it, and the data file that it names."""
    header = {key: value for key, value in {**HEADER, **entries}.items() if value is not None}
    header["ElementDataFile"] = header.pop("ElementDataFile", "")  # it is the last one
    text = "".join(f"{key} = {value}\n" for key, value in header.items() if value != "")
    (folder / name).write_bytes(text.encode() + tail)
    if data is not None:
        (folder / header["ElementDataFile"]).write_bytes(data)
    return folder / name


def array(image):
    return np.asarray(image.dataobj)


@pytest.mark.parametrize(
    ("entries", "data", "tail"),
    [
        ({}, RAW, b""),
        ({"ElementDataFile": "my oct.raw"}, RAW, b""),
        ({"ElementDataFile": "LOCAL"}, None, RAW),
        ({"ElementDataFile": "Local"}, None, RAW),
        ({"BinaryDataByteOrderMSB": True}, VALUES.astype(">u2").tobytes(order="F"), b""),
        ({"CompressedData": True, "ElementDataFile": "oct.zraw"}, PACKED, b""),
        ({"CompressedData": True, "ElementDataFile": "oct.zraw"}, gzip.compress(RAW), b""),
        ({"CompressedData": True, "CompressedDataSize": len(PACKED), "ElementDataFile": "oct.zraw"}, PACKED, b""),
        ({"CompressedData": True, "CompressedDataSize": len(PACKED), "ElementDataFile": "LOCAL"}, None, PACKED),
        ({"ElementNumberOfChannels": 1, "HeaderSize": 0, "DistanceUnits": "mm"}, RAW, b""),
        ({"ElementToIntensityFunctionSlope": "1.0", "ElementToIntensityFunctionOffset": "0"}, RAW, b""),
        ({"ObjectType": None, "BinaryData": None, "CompressedData": None, "TransformMatrix": None}, RAW, b""),
        ({"ElementSpacing": None, "ElementSize": "0.5 0.25 2"}, RAW, b""),
        ({"Comment": "sides: a = b"}, RAW, b""),
    ],
)
def test_what_itk_reads_rightly_is_read(case, entries, data, tail):
    path = write(
        case, data=data if entries.get("ElementDataFile", "").lower() != "local" else None, tail=tail, **entries
    )
    image = read_volume(path)
    np.testing.assert_array_equal(array(image), VALUES)
    np.testing.assert_allclose(np.abs(np.diag(image.affine)), [0.5, 0.25, 2, 1])
    assert is_volume(path) is True


@pytest.mark.parametrize("name", ["a.mhd", "a.mha"])
@pytest.mark.parametrize("compression", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
def test_itks_own_files_pass(tmp_path, name, compression, dtype):
    values = (VALUES % 100).astype(dtype)
    itk.imwrite(itk.image_from_array(np.ascontiguousarray(values.T)), str(tmp_path / name), compression=compression)
    np.testing.assert_array_equal(array(read_volume(tmp_path / name)), values)


def test_forms_of_a_header(case):
    """Line ends of Windows, colons instead of equals signs, no blanks, a folder below."""
    text = write(case).read_text()
    for form in (text.replace("\n", "\r\n"), text.replace(" = ", ": "), text.replace(" = ", "=")):
        (case / "form.mhd").write_text(form, newline="")
        np.testing.assert_array_equal(array(read_volume(case / "form.mhd")), VALUES)
    (case / "below").mkdir()
    path = write(case, "deep.mhd", data=RAW, ElementDataFile="below/oct.raw")
    np.testing.assert_array_equal(array(read_volume(path)), VALUES)


def test_data_in_many_compressed_pieces(tmp_path):
    """Zeros shrink a thousandfold: more comes out of the last piece than is taken from the decompressor at a time."""
    values = np.zeros((256, 256, 64), np.uint8)
    values[3, 4, 5] = 7
    itk.imwrite(itk.image_from_array(np.ascontiguousarray(values.T)), str(tmp_path / "a.mha"), compression=True)
    assert (tmp_path / "a.mha").stat().st_size < 2**14
    np.testing.assert_array_equal(array(read_volume(tmp_path / "a.mha")), values)


TYPES = {
    "CHAR": "i1",
    "UCHAR": "u1",
    "SHORT": "i2",
    "INT": "i4",
    "ULONG": "u4",
    "LONG_LONG": "i8",
    "FLOAT": "f4",
    "DOUBLE": "f8",
}


@pytest.mark.parametrize("high_first", [False, True])
@pytest.mark.parametrize("kind", TYPES)
def test_compressed_voxels_of_any_type(case, kind, high_first):
    """Also of the types of which ITK has no images (CHAR and LONG_LONG)."""
    stored = (VALUES % 100).astype((">" if high_first else "<") + TYPES[kind]).tobytes(order="F")
    entries = {"ElementType": f"MET_{kind}", "BinaryDataByteOrderMSB": high_first, "CompressedData": True}
    path = write(case, data=zlib.compress(stored), **entries)
    np.testing.assert_array_equal(array(read_volume(path)), VALUES % 100)
    damaged = bytearray(zlib.compress(stored, level=0))  # a flipped bit leaves what can be decompressed
    damaged[20] ^= 1
    (case / "oct.raw").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"oct\.mhd must have whole compressed data in oct.raw, got damaged ones"):
        read_volume(path)


@pytest.mark.parametrize("pack", [zlib.compress, gzip.compress])
def test_whole_compressed_data_are_decompressed_once(case, monkeypatch, pack):
    monkeypatch.delattr("common.data.stored_voxels.StoredVoxels._unpacked_size")
    path = write(case, data=pack(RAW), CompressedData=True)
    np.testing.assert_array_equal(array(read_volume(path)), VALUES)
    (case / "oct.raw").write_bytes(pack(RAW)[:-1] + b"0")
    with pytest.raises(AttributeError, match="_unpacked_size"):
        read_volume(path)


def test_a_size_that_cannot_be_is_refused_before_there_is_room_made_for_it(case, monkeypatch):
    monkeypatch.delattr(itk, "imread")
    for entries in ({}, {"CompressedData": True}):
        path = write(case, data=PACKED, DimSize="40000 50000 60000", **entries)
        with pytest.raises(ValueError, match=r"must have 240000000000000 bytes in oct\.raw for 40000 x 50000 x 60000"):
            read_volume(path)
    header = "NRRD0004\ntype: uint16\ndimension: 3\nsizes: 40000 50000 60000\nencoding: {}\nspacings: 1 1 2\n\n"
    for encoding, data in (("raw", RAW), ("gzip", gzip.compress(RAW))):
        (case / "a.nrrd").write_bytes(header.format(encoding).encode() + data)
        with pytest.raises(ValueError, match=r"must have 240000000000000 bytes in a\.nrrd for 40000 x 50000 x 60000"):
            read_volume(case / "a.nrrd")


@pytest.mark.parametrize(
    "sizes", ["4 5 6x", "4 5 6.0", "4 5 0", "4 5 -6", "4 5 1234567890", "4 5 " + 5000 * "9", "4 5 ٦", ""]
)
def test_an_nrrd_whose_sizes_are_none(case, sizes):
    header = f"NRRD0004\ntype: uint16\ndimension: 3\nsizes: {sizes}\nencoding: raw\nspacings: 1 1 2\nendian: little\n\n"
    (case / "a.nrrd").write_bytes(header.encode() + RAW)
    with pytest.raises(ValueError, match=r"a\.nrrd must have whole numbers above 0 as sizes, of 9 digits at most, got"):
        read_volume(case / "a.nrrd")


@pytest.mark.parametrize("kind", ["uint16", "unsigned short int", "ushort", "short", "int16_t"])
def test_an_nrrd_cut_off(case, kind):
    header = f"NRRD0004\ntype: {kind}\ndimension: 3\nsizes: 4 5 6\nencoding: raw\nspacings: 1 1 2\nendian: little\n\n"
    (case / "a.nrrd").write_bytes(header.encode() + RAW[:100])
    with pytest.raises(ValueError, match=rf"a\.nrrd must have 240 bytes in .* 4 x 5 x 6 voxels of {kind}, got 100"):
        read_volume(case / "a.nrrd")


def test_improbably_small_data_are_decompressed_before_there_is_room_made_for_them(case, monkeypatch):
    monkeypatch.delattr(itk, "imread")
    path = write(case, data=zlib.compress(bytes(10**6)), DimSize="100 100 100", CompressedData=True)
    with pytest.raises(ValueError, match=r"must have 2000000 bytes in oct.raw .* got 1000000"):
        read_volume(path)


def test_labels_of_a_type_without_itk_images_are_exact(case):
    values = np.array([[2**24 + 1, 2**40 + 1], [0, 3]], dtype="<i8")
    flat = {"NDims": 2, "DimSize": "2 2", "TransformMatrix": "1 0 0 1", "Offset": "0 0", "ElementSpacing": "1 1"}
    path = write(case, data=values.tobytes(order="F"), ElementType="MET_LONG_LONG", **flat)
    np.testing.assert_array_equal(decode_itk(path), values)


@pytest.mark.parametrize(("encoding", "order"), [("raw", "<"), ("raw", ">"), ("gzip", "<"), ("gzip", ">")])
def test_an_nrrd_with_high_bytes_first(case, encoding, order):
    endian = {"<": "little", ">": "big"}[order]
    header = "NRRD0004\ntype: uint16\ndimension: 3\nsizes: 4 5 6\nspacings: 1 1 2\n"
    header += f"endian: {endian}\nencoding: {encoding}\n\n"
    stored = VALUES.astype(order + "u2").tobytes(order="F")
    (case / "a.nrrd").write_bytes(header.encode() + (gzip.compress(stored) if encoding == "gzip" else stored))
    np.testing.assert_array_equal(array(read_volume(case / "a.nrrd")), VALUES)


FLIPPED = PACKED[:60] + bytes([PACKED[60] ^ 255]) + PACKED[61:]
ZRAW = {"CompressedData": True, "ElementDataFile": "oct.zraw"}


@pytest.mark.parametrize(
    ("entries", "data", "message"),
    [
        ({}, RAW[:100], r"must have 240 bytes in oct\.raw for 4 x 5 x 6 voxels of MET_USHORT, got 100: .* Copy them"),
        ({}, b"", "must have 240 bytes in oct.raw .* got 0"),
        ({}, RAW + RAW, "must have 240 bytes in oct.raw .* got 480"),
        ({"ElementType": "MET_UCHAR"}, RAW, "must have 120 bytes .* got 240"),
        ({"ElementDataFile": "none.raw"}, None, r"must have its voxels in none\.raw beside it, got no such file"),
        (ZRAW, PACKED[: len(PACKED) // 2], "must have 240 bytes in oct.zraw .* got "),
        (ZRAW, PACKED[:-2], "must have compressed data that end in oct.zraw as they should, got no end"),
        (
            ZRAW,
            PACKED + b"more",
            "must have compressed data that end in oct.zraw as they should, got more bytes after them",
        ),
        (ZRAW, FLIPPED, "must have whole compressed data in oct.zraw, got damaged ones"),
        (ZRAW, RAW, "must have whole compressed data in oct.zraw, got damaged ones"),
        (ZRAW, zlib.compress(RAW[:100]), "must have 240 bytes in oct.zraw .* got 100"),
        (ZRAW, zlib.compress(RAW + RAW), "must have 240 bytes in oct.zraw .* got more"),
        (ZRAW | {"CompressedDataSize": 9}, PACKED, f"must have 9 bytes of compressed data .* got {len(PACKED)}"),
        (
            {"CompressedData": True, "ElementDataFile": "LOCAL"},
            None,
            "must say how many bytes of compressed data follow its header, got no CompressedDataSize",
        ),
        ({"CompressedData": "zlib"}, RAW, "must have CompressedData = True or False, got zlib"),
    ],
)
def test_data_that_do_not_fit_the_header(case, entries, data, message):
    path = write(case, data=data, **entries)
    for read in (read_volume, read_volume_labels, read_image, read_label):
        with pytest.raises(ValueError, match=rf"oct\.mhd {message}"):
            read(path)


@pytest.mark.parametrize("tail", [RAW[:-1], RAW + b"0", b""])
def test_data_behind_the_header_that_do_not_fit_it(case, tail):
    path = write(case, "a.mha", tail=tail, ElementDataFile="LOCAL")
    with pytest.raises(ValueError, match=rf"a\.mha must have 240 bytes in a\.mha .* got {len(tail)}"):
        read_volume(path)


@pytest.mark.parametrize(
    "place", ["../other/oct.raw", "below/../../other/oct.raw", "..\\other\\oct.raw", "C:\\oct.raw", None]
)
def test_a_header_leads_to_no_other_folder(case, place):
    place = str(case.parent / "other" / "oct.raw") if place is None else place
    path = write(case, ElementDataFile=place)
    for read in (read_volume, read_volume_labels, read_image, data_file):
        with pytest.raises(
            ValueError, match=r"oct\.mhd must have its voxels beside it, got .* leads out of its folder"
        ):
            read(path)


@pytest.mark.parametrize("name", ["LIST", "LIST 2", "s%d.raw 0 5 1", "LISTED.raw"])
def test_voxels_in_several_files_are_refused(case, name):
    names = [f"s{index}.raw" for index in range(6)]
    for index, slice_name in enumerate(names):
        (case / slice_name).write_bytes(VALUES[..., index].tobytes(order="F"))
    path = write(case, ElementDataFile=name, tail="\n".join(names).encode())
    with pytest.raises(
        ValueError, match=rf"oct\.mhd must have its voxels in one file, got ElementDataFile = {name[:4]}"
    ):
        read_volume(path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {"ElementSpacing": "0.5 0 2"},
            "must have finite numbers as ElementSpacing, above 0, one for each axis, got 0.5 0 2",
        ),
        ({"ElementSpacing": "0.5 -0.25 2"}, "got 0.5 -0.25 2 with NDims = 3: correct its header"),
        ({"ElementSpacing": "0.5 nan 2"}, "as ElementSpacing, .* got 0.5 nan 2"),
        ({"ElementSpacing": "0.5 x 2"}, "as ElementSpacing, .* got 0.5 x 2"),
        ({"ElementSpacing": "0.5 0.25"}, "as ElementSpacing, .* got 0.5 0.25 "),
        ({"ElementSize": "1 1 -1"}, "as ElementSize, .* got 1 1 -1"),
        ({"ElementSpacing": None}, "must give the sides of its voxels in mm, got no ElementSpacing: add it"),
        ({"ElementSpacing": None, "elementspacing": "9 9 9"}, "got no ElementSpacing"),
        ({"BinaryDataByteOrderMSB": "Yes"}, "must have BinaryDataByteOrderMSB = True or False, got Yes"),
        ({"BinaryDataByteOrderMSB": False, "ElementByteOrderMSB": True}, "must say one order of bytes, got Bin"),
        ({"DimSize": "4 5 " + 400 * "9"}, "must have whole numbers as DimSize, .* got 4 5 9"),
        ({"DimSize": "4 5"}, "must have whole numbers as DimSize, above 0, one for each axis, got 4 5 "),
        ({"DimSize": "4 5 6 7"}, "as DimSize, .* got 4 5 6 7"),
        ({"DimSize": "4 5 0"}, "as DimSize, .* got 4 5 0"),
        ({"DimSize": "4 -5 6"}, "as DimSize, .* got 4 -5 6"),
        ({"DimSize": "4 5 6.5"}, "as DimSize, .* got 4 5 6.5"),
        ({"NDims": "three"}, "with NDims = three"),
        ({"ElementType": "MET_USHORT_ARRAY"}, "must have an ElementType among MET_CHAR, .* got MET_USHORT_ARRAY"),
        ({"ElementNumberOfChannels": 2}, "must have ElementNumberOfChannels = 1 or none, got 2"),
        ({"ElementToIntensityFunctionSlope": 2}, "must have ElementToIntensityFunctionSlope = 1 or none, got 2"),
        ({"ElementToIntensityFunctionOffset": 1}, "must have ElementToIntensityFunctionOffset = 0 or none, got 1"),
        ({"HeaderSize": -1}, "must have HeaderSize = 0 or none, got -1"),
        ({"DistanceUnits": "um"}, "must have DistanceUnits = mm or none, got um"),
        ({"BinaryData": False}, "must have BinaryData = True or none, got False"),
        ({"ObjectType": "Tube"}, "must have ObjectType = Image or none, got Tube"),
        (
            {"TransformMatrix": "2 0 0 0 1 0 0 0 1"},
            "must have axes of length 1 at right angles, got TransformMatrix = 2 0",
        ),
        (
            {"TransformMatrix": "1 0 0 1"},
            "must have finite numbers as TransformMatrix, of which there are 9, got 1 0 0 1",
        ),
        ({"NDims": None}, "must have a MetaImage header, .* got none with NDims: it may be cut off"),
        ({"DimSize": None, "ElementType": None}, "got none with DimSize, ElementType: "),
        ({"ElementDataFile": ""}, "got none with ElementDataFile: "),
    ],
)
def test_headers_that_itk_takes_for_something_else(case, entries, message):
    path = write(case, **entries)
    for read in (read_volume, read_image, check_metaimage):
        with pytest.raises(ValueError, match=rf"oct\.mhd .*{message}"):
            read(path)


def test_an_entry_that_is_there_twice(case):
    text = write(case).read_text()
    (case / "oct.mhd").write_text("ElementSpacing = 7 7 7\n" + text)
    with pytest.raises(ValueError, match=r"oct\.mhd must say ElementSpacing once in its header, got two values"):
        read_volume(case / "oct.mhd")


def test_a_file_that_is_no_metaimage(tmp_path):
    for name, content in (("text.mha", b"no image"), ("empty.mhd", b""), ("noise.mha", VALUES.tobytes())):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name} must have a MetaImage header"):
            read_volume(tmp_path / name)


def test_a_picture_needs_no_spacing(tmp_path):
    flat = {"NDims": 2, "DimSize": "20 6", "TransformMatrix": "1 0 0 1", "Offset": "0 0", "ElementSpacing": None}
    path = write(tmp_path, data=RAW, **flat)
    np.testing.assert_array_equal(read_image(path), VALUES.reshape((20, 6), order="F"))


def test_data_file(case):
    assert data_file(write(case)) == case / "oct.raw"
    assert data_file(write(case, "a.mha", ElementDataFile="LOCAL", tail=RAW)) == case / "a.mha"


def test_an_nrrd_holds_its_voxels(case):
    start = "NRRD0004\ntype: uint16\ndimension: 3\nsizes: 4 5 6\nendian: little\nencoding: raw\nspacings: 1 1 2\n"
    (case / "whole.nrrd").write_bytes((start + "\n").encode() + RAW)
    np.testing.assert_array_equal(array(read_volume(case / "whole.nrrd")), VALUES)
    (case / "units.nrrd").write_bytes((start + 'units: "mm" "mm" "mm"\n\n').encode() + RAW)
    np.testing.assert_array_equal(array(read_volume(case / "units.nrrd")), VALUES)
    for line in ("data file: ../other/oct.raw", "datafile: oct.raw", "Data File: LIST"):
        for name in ("a.nrrd", "a.nhdr"):
            (case / name).write_text(f"{start}{line}\n\n")
            with pytest.raises(
                ValueError, match=rf"{name} must hold its voxels itself, got a header that says they are in"
            ):
                read_volume(case / name)
    (case / "text.txt").write_text("data file: elsewhere\n")
    check_nrrd(case / "text.txt")
    check_metaimage(case / "text.txt")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("sizes: 4 5 6\n", "must give the sides of its voxels in mm, got neither 'space directions' nor 'spacings'"),
        (
            "sizes: 4 5 6\nspacings: 1 2 nan\n",
            "must give the sides of its voxels in mm, got 1 2 nan: correct its header",
        ),
        (
            "sizes: 4 5 6\nspace: left-posterior-superior\nspace directions: (1,0,0) (0,2,0) none\n",
            r"must give the sides of its voxels in mm, got \(1,0,0\) \(0,2,0\) none",
        ),
        (
            'sizes: 4 5 6\nspacings: 1 1 2\nunits: "um" "um" "um"\n',
            "must give the sides .* in mm, got the units um um um",
        ),
        ("sizes: 2 5 6 2\nkinds: vector domain domain domain\nspacings: nan 1 1 2\n", "must have one channel"),
        (
            "sizes: 4 5 6\nkinds: list domain domain\nspacings: 1 1 2\n",
            "must have one channel, got axes of the kinds list",
        ),
    ],
)
def test_an_nrrd_without_sides_or_of_several_channels(case, lines, said):
    """ITK takes 1 mm, or numbers as mm, for the former, and numbers that are no channel's for the latter."""
    dimension = len(lines.split("\n")[0].split()) - 1
    start = f"NRRD0004\n# spacings: 1 1 1\ntype: uint16\ndimension: {dimension}\nendian: little\nencoding: raw\n"
    (case / "a.nrrd").write_bytes((start + lines + "\n").encode() + RAW)
    with pytest.raises(ValueError, match=rf"a\.nrrd {said}"):
        read_volume(case / "a.nrrd")
