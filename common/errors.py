"""What a person reads last when a run fails: the cause."""

from __future__ import annotations

import errno
import sys
from types import TracebackType

# Errors that this repository words itself; others are shown with what MONAI was doing.
WORDED = (ValueError, OSError, FloatingPointError)
REMEDIES = {
    errno.ENOSPC: "make room, or write elsewhere; a training goes on with --resume true",
    errno.EDQUOT: "make room, or write elsewhere; a training goes on with --resume true",
    errno.EROFS: "write elsewhere (output_dir, ckpt_dir, cache_dir), or mount it so that it can be written",
    errno.EACCES: "write elsewhere (output_dir, ckpt_dir, cache_dir), or ask for the permission",
}


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
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.errno in REMEDIES:
        text = f"{text}: {REMEDIES[error.errno]}."
    if wrapper is None or isinstance(error, WORDED):
        return text
    return f"{text} ({str(wrapper).splitlines()[0]})"
