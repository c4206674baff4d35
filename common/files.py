"""Writing files so that a reader never sees half of one, and reading those that people and programs have spoilt."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FULL = 2**16  # bytes that are left on a device that is full


@contextmanager
def replacing(path: str | Path, durable: bool = True) -> Iterator[Path]:
    """Yields a temporary name beside ``path`` to write to, and renames it to ``path`` once all went well.

    Whoever reads ``path`` finds the old content or the new one, also when the process is killed in between.

    Args:
        path: the file.
        durable: wait until the disk has it, so that this is true even when the machine loses power; thousands of small
            files that can be made again are not worth that wait.

    Example::

        with replacing("scores.csv") as temporary:
            table.to_csv(temporary)

    Raises:
        IsADirectoryError: when there is a folder of that name.
        OSError: when nothing is left of the device, whatever the writer raises then.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} must be a file to write, got a folder: remove it, or give another.")
    path.parent.mkdir(parents=True, exist_ok=True)
    # the suffix stays, since several writers choose the format by it
    suffix = ".nii.gz" if path.name.endswith(".nii.gz") else path.suffix
    temporary = path.with_name(f".{path.name.removesuffix(suffix)}.{os.getpid()}.part{suffix}")
    try:
        yield temporary
        with temporary.open("rb") as written:
            if durable:
                os.fsync(written.fileno())
        temporary.replace(path)
    except Exception as error:
        if not isinstance(error, OSError) and shutil.disk_usage(path.parent).free < FULL:  # torch, ITK have others
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def read_text(path: str | Path, advice: str) -> str:
    """What a text file in UTF-8 holds, with or without a byte order mark.

    Raises:
        ValueError: naming the file, when it is in another encoding or holds zeros; `advice` says what to do.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be text in UTF-8, got other bytes ({error}): {advice}.") from error
    if "\0" in text:  # UTF-16 without a mark, or what a disk has lost
        raise ValueError(f"{path} must be text in UTF-8, got {text.count(chr(0))} bytes of zero: {advice}.")
    return text


def read_json(path: str | Path, advice: str) -> Any:
    """What a JSON file holds.

    Raises:
        ValueError: naming the file, when it is no JSON in UTF-8; `advice` says what to do.
    """
    try:
        return json.loads(read_text(path, advice))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} must be valid JSON, got {error}: {advice}.") from error
    except RecursionError as error:
        raise ValueError(f"{path} must be valid JSON, got brackets within brackets without end: {advice}.") from error
