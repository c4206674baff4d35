"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = 2**16  # bytes that are left on a device that is full


@contextmanager
def replacing(path: str | Path, durable: bool = True) -> Iterator[Path]:
    """Yields a temporary name beside ``path`` to write to, and renames it to ``path`` once all went well.

    Whoever reads ``path`` finds the old content or the new one, also when the process is killed in between.

    Args:
        path: the file.
        durable: wait until the disk has it, so that this is true even when the machine loses power; thousands of small
            files that can be made again are not worth that wait.

    Raises:
        OSError: when nothing is left of the device, whatever the writer raises then.

    Example::

        with replacing("scores.csv") as temporary:
            table.to_csv(temporary)
    """
    path = Path(path)
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
