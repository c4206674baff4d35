"""File names of images: which suffixes are read, stems, and what a folder holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

JSRT_SUFFIX = ".img"
PICTURE_SUFFIXES = (".png", ".tif", ".tiff", ".gif", ".jpg", ".jpeg", ".bmp")
JPEG_SUFFIXES = (".jpg", ".jpeg")
DICOM_SUFFIXES = (".dcm", ".dicom")
NIFTI_SUFFIXES = (".nii.gz", ".nii")
ITK_SUFFIXES = (".mhd", ".mha", ".nrrd")
SUFFIXES = (JSRT_SUFFIX, *PICTURE_SUFFIXES, *DICOM_SUFFIXES, *NIFTI_SUFFIXES, *ITK_SUFFIXES)


def file_suffix(path: str | Path) -> str:
    """The suffix in lower case, ``.nii.gz`` as one."""
    name = Path(path).name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def file_stem(path: str | Path) -> str:
    """The file's name without its suffix, ``.nii.gz`` taken as one; a name such as 'Fig2.a' keeps its dot."""
    name = Path(path).name
    suffix = file_suffix(path)
    return name[: -len(suffix)] if suffix in SUFFIXES else name


def is_dicom(path: str | Path) -> bool:
    """Whether the file says that it is DICOM; many such files have no suffix."""
    with Path(path).open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def is_series(directory: Path) -> bool:
    """Whether a folder holds several DICOM files."""
    slices = (path for path in directory.iterdir() if path.is_file() and is_dicom(path))
    return next(slices, None) is not None and next(slices, None) is not None


def list_images(directory: str | Path) -> dict[str, Path]:
    """The images directly in a folder, by file stem, as sorted absolute paths; a DICOM file may lack a
    suffix, and a folder with several DICOM files is an image, called as the folder.

    Raises:
        FileNotFoundError: when there is no such folder.
        ValueError: when two files differ by their suffix alone.
    """
    directory = Path(directory).expanduser().absolute()
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory} must be a folder of images or masks, got no such folder: check the path.")
    found: dict[str, Path] = {}
    for path in sorted(directory.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if not is_series(path):
                continue
        elif not path.is_file() or (file_suffix(path) not in SUFFIXES and not is_dicom(path)):
            continue
        stem = path.name if path.is_dir() else file_stem(path)
        if stem in found:
            raise ValueError(
                f"{directory}: each image must have a name of its own, got '{found[stem].name}' and '{path.name}'. "
                "Keep one of them."
            )
        found[stem] = path
    return found


def first_few(values: Iterable, count: int = 5) -> str:
    """The first values for an error message, and how many more there are."""
    values = [str(value) for value in values]
    more = f" and {len(values) - count} more" if len(values) > count else ""
    return ", ".join(values[:count]) + more


def times(sizes: Sequence[float]) -> str:
    """Sizes as people write them: ``512 x 512 x 9``."""
    return " x ".join(f"{size:.9g}" for size in sizes)
