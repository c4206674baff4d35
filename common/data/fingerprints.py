"""What files hold, as numbers that are computed again only when the file system says that a file has changed."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from common.data.files import file_suffix
from common.data.metaimage import data_file
from common.files import replacing

PIECE = 2**20  # bytes that are read at a time
logger = logging.getLogger(__name__)


class Fingerprints:
    """SHA-256 of files' contents, remembered in a file with each one's size, time and time of change.

    Size and time alone do not tell an exchanged file where both were kept, as ``cp -p`` and ``rsync -a`` do. The time
    of change (``ctime``) is the file system's own and cannot be set: writing to a file, and putting another in its
    place, move it. While size and times are those remembered, nothing is read; otherwise the content decides. (Windows
    has no such time: there, a file that keeps size and time passes for the same.)

    Args:
        memory: JSON file that remembers; several processes may share it. None to forget at the end.
    """

    def __init__(self, memory: str | Path | None = None) -> None:
        self.memory = None if memory is None else Path(memory)
        self._known, self._new = self._remembered(), {}

    def __call__(self, files: str | Path | Sequence[str | Path]) -> list[list[str]]:
        """Path and content of a file (of an MHD's data, too), of each of several files, or of all files of a folder.

        Raises:
            FileNotFoundError: naming the first that is missing.
        """
        paths = [Path(file) for file in ([files] if isinstance(files, (str, Path)) else files)]
        found = [part for path in paths for part in (_files(path) if path.is_dir() else [path])]
        found += [data_file(path) for path in found if file_suffix(path) == ".mhd" and path.is_file()]
        missing = [str(path) for path in found if not path.exists()]
        if missing:
            raise FileNotFoundError(f"{missing[0]} must be an image, got no such file: check the datalist's paths.")
        return [self._of_file(path.resolve()) for path in found]

    def save(self) -> None:
        """Remembers what is new, beside what other processes have remembered meanwhile."""
        if not self._new or self.memory is None:
            return
        try:
            with replacing(self.memory) as temporary:
                temporary.write_text(json.dumps(self._remembered() | self._new))
            self._new = {}
        except OSError as error:  # it costs the next run a second look
            logger.warning(f"{self.memory} could not be written: {error}")

    def _of_file(self, path: Path) -> list[str]:
        found = path.stat()  # before the content: what is written while it is read is noticed the next time
        state = [found.st_size, found.st_mtime_ns, found.st_ctime_ns]
        known = self._known.get(str(path))
        if known is None or known[:-1] != state:
            known = self._known[str(path)] = self._new[str(path)] = [*state, _digest(path)]
        return [str(path), known[-1]]

    def _remembered(self) -> dict[str, list]:
        if self.memory is None:
            return {}
        try:
            return json.loads(self.memory.read_text())
        except (OSError, ValueError):  # none yet, or damaged: all files are read again
            return {}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            found.update(piece)
    return found.hexdigest()
