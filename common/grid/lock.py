"""A lock on a folder that ends with the processes that hold it, however they end."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def lock(file: Path, wait: bool = False) -> Iterator[int]:
    """Holds ``file`` alone; gives its descriptor, with which a child process can hold it on.

    The system gives the lock back when the last process with the descriptor is gone, so that none is left by a kill.

    Raises:
        BlockingIOError: when another process holds it, unless ``wait``.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield held.fileno()
