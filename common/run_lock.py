"""One process at a time in the folder of a run."""

from __future__ import annotations

import atexit
import errno
import fcntl
import logging
import os
import re
import socket
from contextlib import suppress
from pathlib import Path
from typing import IO, ClassVar

logger = logging.getLogger(__name__)
LOCK_FILE = ".training.lock"  # .lock is a grid's, whose job holds the same folder
PART = re.compile(r"\..+\.(\d+)\.part(\.\w+)*")  # the temporary names of common.files.replacing


class RunLock:
    """Keeps other processes out of a run's folder, until it is released or this process ends in whatever way.

    The system's lock on a file in the folder (``flock``), which names its holder. A second lock of the same process
    takes over. Where the file system has no locks, a warning says so.

    Args:
        folder: the folder, made where it is missing.
        key: the setting that names it, for the error.

    Raises:
        ValueError: when another process holds it.
    """

    held: ClassVar[dict[Path, RunLock]] = {}

    def __init__(self, folder: str | Path, key: str = "output_dir") -> None:
        self.folder, self.key = Path(folder).resolve(), key
        self.path = self.folder / LOCK_FILE
        before = self.held.get(self.folder)
        self.made = before.made if before else not self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = before.file if before else self.opened()
        self.held[self.folder] = self
        atexit.register(self.release)

    def opened(self) -> IO[str]:
        """The lock's file, locked."""
        while True:
            file = self.path.open("a+")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                holder = file.read() or "another process"
                file.close()
                raise ValueError(
                    f"{self.folder} must be the folder of one training at a time, got one more while {holder} trains "
                    f"there: wait for it, stop it, or give another {self.key}."
                ) from error
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                    raise
                logger.warning(f"The file system of {self.folder} has no locks: start no second training there.")
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), self.path.stat()):
                    break
            file.close()  # its holder removed it after it was opened here: take the next one
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        return file

    def renew(self, moved: Path) -> None:
        """Takes the lock anew, after its folder was moved with the lock in it.

        Raises:
            ValueError: when another process was faster.
        """
        before = self.file
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = self.opened()
        (moved / LOCK_FILE).unlink(missing_ok=True)
        before.close()

    def release(self) -> None:
        """Removes the lock's file, and the folder where it was made for it and nothing else came."""
        if self.held.get(self.folder) is not self:  # released, or taken over
            return
        del self.held[self.folder]
        self.path.unlink(missing_ok=True)
        self.file.close()
        atexit.unregister(self.release)
        if self.made:
            with suppress(OSError):  # it is not empty: a run is in it
                self.folder.rmdir()


def clear_leftovers(folder: Path) -> None:
    """Removes what killed processes left half written, under temporary names; call it with the lock held.

    What belongs to a process that lives, and folders of other trainings below, are left alone.
    """
    for file in folder.rglob(".*.part*"):
        name = PART.fullmatch(file.name)
        folders = [parent for parent in file.parents if parent.is_relative_to(folder) and parent != folder]
        if name and not lives(int(name[1])) and not any((parent / LOCK_FILE).exists() for parent in folders):
            file.unlink(missing_ok=True)
            logger.info(f"Removed {file}, half written when an earlier process was killed.")


def lives(process: int) -> bool:
    """Whether there is a process of this number on this machine, other than this one."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return process != os.getpid()
