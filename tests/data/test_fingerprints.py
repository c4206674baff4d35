"""Contents of files are read once, and again when the file system says that they may have changed."""

from __future__ import annotations

import hashlib
import os

import pytest

from common.data import fingerprints as module
from common.data.fingerprints import Fingerprints


@pytest.fixture
def file(tmp_path):
    (tmp_path / "scan.nii").write_bytes(b"some voxels")
    return tmp_path / "scan.nii"


@pytest.fixture
def read(monkeypatch):
    """The files that were read."""
    paths, digest = [], module._digest
    monkeypatch.setattr(module, "_digest", lambda path: paths.append(path.name) or digest(path))
    return paths


def exchange(path, content):
    """Puts other content of the same length into a file, which keeps its size and time."""
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_it_is_the_sha_256_of_the_content(file, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PIECE", 4)  # read in three pieces
    expected = hashlib.sha256(b"some voxels").hexdigest()
    assert Fingerprints(tmp_path / "memory.json")(file) == [[str(file), expected]]


def test_nothing_is_read_twice(file, tmp_path, read):
    first = Fingerprints(tmp_path / "memory.json")
    assert first(file) == first(str(file)) == first([file])
    first.save()
    assert Fingerprints(tmp_path / "memory.json")(file) == first(file)
    assert read == ["scan.nii"]


@pytest.mark.parametrize("how", ["written", "replaced"])
def test_an_exchanged_file_of_the_same_size_and_time_is_noticed(file, tmp_path, read, how):
    prints = Fingerprints(tmp_path / "memory.json")
    before = prints(file)
    if how == "written":
        exchange(file, b"SOME VOXELS")
    else:
        (tmp_path / "other").write_bytes(b"SOME VOXELS")
        os.utime(tmp_path / "other", ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
        (tmp_path / "other").replace(file)
    assert prints(file) != before
    assert read == ["scan.nii"] * 2


def test_another_time_costs_a_second_look_and_changes_nothing(file, tmp_path, read):
    prints = Fingerprints(tmp_path / "memory.json")
    before = prints(file)
    file.touch()
    assert prints(file) == before == prints(file)
    assert read == ["scan.nii"] * 2


def test_a_folder_is_its_files_and_an_mhd_file_its_data_too(file, tmp_path):
    (tmp_path / "series" / "deeper").mkdir(parents=True)
    for name in ("b", "a"):
        (tmp_path / "series" / name).write_bytes(name.encode())
    text = "NDims = 3\nDimSize = 1 1 1\nElementType = MET_UCHAR\nElementDataFile = a.raw\n"
    (tmp_path / "a.mhd").write_text(text)
    (tmp_path / "a.raw").write_bytes(b"x")
    found = Fingerprints(tmp_path / "memory.json")([tmp_path / "series", tmp_path / "a.mhd"])
    expected = ["series/a", "series/b", "a.mhd", "a.raw"]
    assert [path for path, _ in found] == [str(tmp_path / name) for name in expected]
    with pytest.raises(FileNotFoundError, match=r"none.nii must be an image, got no such file"):
        Fingerprints(tmp_path / "memory.json")(tmp_path / "none.nii")


def test_two_processes_remember_together(file, tmp_path, read):
    (tmp_path / "two.nii").write_bytes(b"other voxels")
    one, two = (Fingerprints(tmp_path / "memory.json") for _ in range(2))
    one(file), two(tmp_path / "two.nii")
    one.save(), two.save()
    Fingerprints(tmp_path / "memory.json")([file, tmp_path / "two.nii"])
    assert read == ["scan.nii", "two.nii"]


def test_a_damaged_memory_is_forgotten_and_one_that_cannot_be_written_is_said(file, tmp_path, caplog):
    (tmp_path / "memory.json").write_text("{")
    prints = Fingerprints(tmp_path / "memory.json")
    expected = prints(file)
    prints.save()
    assert Fingerprints(tmp_path / "memory.json")(file) == expected
    lost = Fingerprints(file / "memory.json")  # below a file
    assert lost(file) == expected
    lost.save()
    assert "memory.json could not be written" in caplog.text
