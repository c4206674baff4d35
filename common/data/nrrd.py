"""Looks at the header of an NRRD file before ITK reads it, which reads whatever file the header names."""

from __future__ import annotations

import re
from pathlib import Path

LONGEST = 2**16  # characters of a line
_DETACHED = re.compile(rb"^data ?file:\s*(.*)$", re.IGNORECASE)


def check_nrrd(path: str | Path) -> None:
    """Refuses a file with an NRRD header whose voxels are in another file; passes over files of other kinds.

    Raises:
        ValueError: naming the file.
    """
    with Path(path).open("rb") as file:
        if not file.readline(64).startswith(b"NRRD"):
            return
        for line in iter(lambda: file.readline(LONGEST).strip(), b""):  # an empty line ends the header
            match = _DETACHED.match(line)
            if match:
                raise ValueError(
                    f"{path} must hold its voxels itself, got a header that says they are in "
                    f"{match.group(1).decode('latin-1')}: write it again as one .nrrd file, as itk.imwrite does."
                )
