"""Reads files by ITK once their headers have been looked at, and looks at the voxels that it gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.data.metaimage import check_metaimage
from common.data.nrrd import check_nrrd


def read_itk(path: str | Path) -> Any:
    """An ITK image of one channel; MHD, MHA and NRRD in the type that is stored, where ITK has images of it.

    Raises:
        ValueError: naming a file that ITK cannot read, or would read wrongly without a word.
    """
    import itk  # imported here: it takes seconds, and most data sets do without

    path = Path(path)
    stored = check_metaimage(path) or check_nrrd(path)
    if stored is None:
        return imread(path, str(path), itk.F)
    try:
        image = itk.imread(str(path))
    except itk.TemplateTypeError:  # it has no images of this type
        stored.require_whole()
        return imread(path, str(path), itk.D)  # exact for whole numbers up to 2^53
    except Exception as error:  # SWIG wraps all of ITK's exceptions
        stored.require_whole()
        raise unread(path, error) from error
    stored.require_whole(itk.array_view_from_image(image))
    return image


def imread(path: Path, source: str | list[str], kind: Any) -> Any:
    """An ITK image of a file, or of the files of a series.

    Raises:
        ValueError: naming the file or folder that ITK cannot read.
    """
    import itk

    try:
        return itk.imread(source, kind)
    except Exception as error:  # SWIG wraps all of ITK's exceptions
        raise unread(path, error) from error


def unread(path: Path, error: Exception) -> ValueError:
    """What to say of a file that ITK cannot read."""
    reason = " ".join(str(error).split())[-200:] or type(error).__name__  # which comes last
    return ValueError(
        f"{path} must be an image that ITK reads, got one it cannot ({reason}): copy it again, or write it anew, as "
        "itk.imwrite does."
    )


def itk_header(path: Path) -> Any:
    """What ITK knows of an image before it reads the voxels.

    Raises:
        ValueError: naming a file that it knows nothing about.
    """
    import itk

    try:
        header = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
        header.SetFileName(str(path))
        header.ReadImageInformation()
    except Exception as error:  # None where no reader takes the file
        raise unread(path, error) from error
    return header
