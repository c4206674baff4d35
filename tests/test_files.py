"""Files are the old ones or the new ones, never half of one."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from common.files import read_json, replacing


def test_new_content_appears_at_the_end_only(tmp_path):
    path = tmp_path / "new" / "scores.csv"
    with replacing(path) as temporary:
        assert temporary.parent == path.parent  # the same file system, so that renaming is one step
        assert temporary.suffix == ".csv"
        temporary.write_text("half")
        assert not path.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_content_and_nothing_else(tmp_path, error):
    path = tmp_path / "scores.csv"
    path.write_text("old")
    with pytest.raises(error), replacing(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("free", "expected"), [(0, OSError), (2**30, RuntimeError)])
def test_a_full_device_is_named_whatever_the_writer_says(tmp_path, monkeypatch, free, expected):
    monkeypatch.setattr(
        shutil, "disk_usage", lambda folder: SimpleNamespace(free=free if folder == tmp_path else 2**40)
    )
    with pytest.raises(expected) as error, replacing(tmp_path / "model.pt"):
        raise RuntimeError("unexpected pos 65088 vs 64992")
    if expected is OSError:
        assert error.value.errno == errno.ENOSPC
        assert str(error.value) == f"[Errno 28] No space left on device: '{tmp_path / 'model.pt'}'"


def test_a_killed_process_leaves_the_old_content(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("old")
    program = (
        "import os, signal, sys\n"
        "from common.files import replacing\n"
        "with replacing(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert killed.returncode == -9
    assert path.read_text() == "old"


def test_a_writer_that_writes_nothing_is_an_error(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert path.read_text() == "old"


def test_a_folder_is_not_replaced(tmp_path):
    (tmp_path / "scores.csv").mkdir()
    message = r"scores\.csv must be a file to write, got a folder: remove it"
    with pytest.raises(IsADirectoryError, match=message), replacing(tmp_path / "scores.csv"):
        pytest.fail("there is nothing to write")
    assert [file.name for file in tmp_path.iterdir()] == ["scores.csv"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must be valid JSON, got Expecting value"),
        (b'{"a": ', "must be valid JSON"),
        ("{}".encode("utf-16"), "must be text in UTF-8, got other bytes"),
        (b'{"a": "\xe9"}', "must be text in UTF-8"),
        (b"[" * 100000, "must be valid JSON, got brackets within brackets without end"),
        (b"{}" + b"\0" * 50, "must be text in UTF-8, got 50 bytes of zero"),
    ],
)
def test_json_that_is_none_is_named_with_what_to_do(tmp_path, content, message):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"run\.json {message}.*: copy it again\.$"):
        read_json(tmp_path / "run.json", "copy it again")


def test_json_with_a_byte_order_mark_is_json(tmp_path):
    (tmp_path / "run.json").write_text('\ufeff{"a": "\u00e4"}', encoding="utf-8")
    assert read_json(tmp_path / "run.json", "") == {"a": "\u00e4"}
