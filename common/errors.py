"""What a person reads last when a run fails: the cause."""

from __future__ import annotations

import errno
import sys
from types import TracebackType

# Errors that this repository words itself; others are shown with what MONAI was doing.
WORDED = (ValueError, OSError, FloatingPointError)


def end_with_cause() -> None:
    """From now on an error that ends the process is printed once more, in one line after its traceback.

    MONAI's bundles wrap an error in one for each transform, component and expression around it, so that the sentence
    that says what to do stands dozens of lines above the end. Call it as the first step of a bundle's ``initialize``.
    """
    if sys.excepthook is not print_error:
        sys.excepthook = print_error


def print_error(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Prints the traceback as Python does, and the cause after it."""
    sys.__excepthook__(kind, error, traceback)
    if isinstance(error, Exception):
        print(f"\nError: {cause(error)}", file=sys.stderr, flush=True)


def cause(error: BaseException) -> str:
    """The sentence of the outermost error that is not MONAI's wrapping (a bare ``RuntimeError`` with a cause)."""
    wrapper = None
    while type(error) is RuntimeError and error.__cause__ is not None:
        wrapper, error = error, error.__cause__
    text = told(error)
    if wrapper is None or isinstance(error, WORDED):
        return text
    return f"{text} ({str(wrapper).splitlines()[0]})"


def told(error: BaseException) -> str:
    """An error's sentence; of one that the operating system words, the file with what was expected and what to do."""
    if not isinstance(error, OSError) or error.errno is None or error.filename is None:
        return str(error) or type(error).__name__
    file = error.filename if error.filename2 is None else error.filename2
    folder = f"{file} must be a folder that can be made, got a file there: give another."
    short = f"{str(file)[:80]}... must be a name that the system takes, got a longer one: shorten it."
    room = "make room, or write elsewhere; a training goes on with --resume true"
    sentences = {
        errno.EISDIR: f"{file} must be a file, got a folder: remove it, or give another.",
        errno.ENOTDIR: folder,
        errno.EEXIST: folder,
        errno.ENOENT: f"{file} must be there, got no such file or folder: check the path.",
        errno.EACCES: f"{file} must be a file or folder with the right to read and write it, got none: change it.",
        errno.ENAMETOOLONG: short,
        errno.ENOSPC: f"{file} must fit on the disk, got no space left: {room}.",
        errno.EDQUOT: f"{file} must fit within the quota, got none left: {room}.",
        errno.EROFS: f"{file} must be on a disk that can be written, got a read-only one: write elsewhere.",
    }
    return sentences.get(error.errno, f"{file}: {error.strerror}.")
