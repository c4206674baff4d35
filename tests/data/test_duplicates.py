"""What is learnt from is not, byte by byte, among what is scored."""

from __future__ import annotations

import re
import shutil
from itertools import permutations

import pytest

from common.data import fingerprints
from common.data.datalist_rules import PARTS
from common.data.duplicates import refuse_duplicates

ALLOWED = ({"labeled"}, {"unlabeled"}, {"labeled", "unlabeled"}, {"validation"}, {"test"})


@pytest.fixture
def datalist(tmp_path):
    """Two images in each part, all of one size and of their own content."""
    made = {}
    for part in PARTS:
        files = [tmp_path / f"{part}{index}.png" for index in range(2)]
        for file in files:
            file.write_text(f"{file.name:>20}")
        made[part] = [{"image": str(file), "patient": file.stem} for file in files]
    return made


@pytest.fixture
def read(monkeypatch):
    """The names of files that were read."""
    names, digest = [], fingerprints._digest
    monkeypatch.setattr(fingerprints, "_digest", lambda path: names.append(path.name) or digest(path))
    return names


def copy(datalist, one, other):
    shutil.copy(datalist[one[0]][one[1]]["image"], datalist[other[0]][other[1]]["image"])


def test_images_of_their_own_pass(datalist):
    refuse_duplicates(datalist)
    refuse_duplicates({"labeled": datalist["labeled"]})


@pytest.mark.parametrize(("one", "other"), permutations(PARTS, 2))
def test_copies_in_two_parts(datalist, one, other):
    """Only where one of them is scored: who learns from an image twice learns nothing that is asked."""
    copy(datalist, (one, 0), (other, 1))
    if {one, other} in ALLOWED:
        refuse_duplicates(datalist)
        return
    with pytest.raises(ValueError, match="must be another image than") as raised:
        refuse_duplicates(datalist)
    for part, index in ((one, 0), (other, 1)):
        assert f"{datalist[part][index]['image']} ({part})" in str(raised.value)
    assert "Take one of each pair out of the datalist." in str(raised.value)
    assert "more such pairs" not in str(raised.value)


@pytest.mark.parametrize("part", PARTS)
def test_copies_within_a_part_pass(datalist, part):
    copy(datalist, (part, 0), (part, 1))
    refuse_duplicates(datalist)


def test_several_pairs_are_counted(datalist):
    copy(datalist, ("labeled", 0), ("test", 0))
    copy(datalist, ("unlabeled", 1), ("test", 1))
    with pytest.raises(ValueError, match="and 1 more such pairs: what is learnt from must not be scored"):
        refuse_duplicates(datalist)


def test_files_of_other_sizes_and_of_one_kind_of_part_are_not_read(datalist, tmp_path, read):
    for place, item in enumerate(item for part in PARTS for item in datalist[part]):
        (tmp_path / item["image"]).write_bytes(bytes(1 if "labeled" in item["image"] else place))
    refuse_duplicates(datalist)
    assert read == []


def test_what_the_cache_remembers_is_not_read_again(datalist, tmp_path, read):
    refuse_duplicates(datalist, tmp_path / "cache")
    assert len(read) == 8
    refuse_duplicates(datalist, tmp_path / "cache")
    assert len(read) == 8


def series(folder, *contents):
    folder.mkdir()
    for index, content in enumerate(contents):
        (folder / f"{index}.dcm").write_bytes(bytes(128) + b"DICM" + content)
    (folder / "read.me").write_text("the same everywhere")
    return str(folder)


def test_a_slice_of_a_dicom_series_is_enough(datalist, tmp_path):
    datalist["labeled"][0]["image"] = series(tmp_path / "one", b"a", b"b")
    datalist["test"][0]["image"] = series(tmp_path / "two", b"c", b"d")
    refuse_duplicates(datalist)
    datalist["test"][1]["image"] = series(tmp_path / "three", b"e", b"f", b"b")
    with pytest.raises(ValueError, match=r"three \(test\) must be another image than .*one \(labeled\)"):
        refuse_duplicates(datalist)


def test_an_mhd_file_is_its_data(datalist, tmp_path):
    """Headers are alike where each patient's data have one name, and differ where they are called otherwise."""
    text = "NDims = 3\nDimSize = 1 1 1\nElementType = MET_UCHAR\nElementDataFile = {}\n"
    for name, data, content in (("one", "a.raw", b"x"), ("two", "a.raw", b"y"), ("three", "b.raw", b"x")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "scan.mhd").write_text(text.format(data))
        (tmp_path / name / data).write_bytes(content)
    datalist["unlabeled"][0]["image"] = str(tmp_path / "one" / "scan.mhd")
    datalist["test"][0]["image"] = str(tmp_path / "two" / "scan.mhd")
    refuse_duplicates(datalist)
    datalist["test"][0]["image"] = str(tmp_path / "three" / "scan.mhd")
    said = f"{re.escape(datalist['test'][0]['image'])} .*than {re.escape(datalist['unlabeled'][0]['image'])}"
    with pytest.raises(ValueError, match=said):
        refuse_duplicates(datalist)


def test_what_cannot_be_read_is_left_to_who_decodes_it(datalist, tmp_path):
    datalist["unlabeled"][0]["image"] = str(tmp_path / "missing.nii.gz")
    (tmp_path / "bad.mhd").write_text("NDims = what")
    datalist["unlabeled"][1]["image"] = str(tmp_path / "bad.mhd")
    refuse_duplicates(datalist)


def test_slices_of_a_volume_that_is_also_unlabelled_pass(datalist):
    whole = datalist["unlabeled"][0]
    datalist["labeled"] = [{**whole, "slice": index} for index in range(2)]
    refuse_duplicates(datalist)
