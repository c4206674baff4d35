"""What inference over a folder needs beside MONAI: damaged images are refused, and all others are segmented."""

from __future__ import annotations

import gzip
import logging
import re
import zlib
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator
from monai.transforms import MapTransform

COPY = "copy it again, or remove it"
FAR = 0.25  # of the distance of slices: how far one may lie from where equal steps along their normal put it


class FolderEvaluator(SupervisedEvaluator):
    """Segments the images of a data loader, in batches of one, and goes on after one that cannot be segmented.

    To ignite each image is an epoch here: an error ends an epoch, and the next one begins with the next image.
    :attr:`failed` has what was wrong, by file.
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.failed: dict[str, str] = {}
        self.logger.addFilter(lambda record: record.levelno < logging.ERROR)  # ignite says that the run ends
        self.add_event_handler(Events.EXCEPTION_RAISED, self._note)

    def run(self, global_epoch: int = 1) -> None:
        self.state.max_epochs = None  # begin anew
        Engine.run(self, self.data_loader, max_epochs=len(self.data_loader), epoch_length=1)

    def report(self) -> str:
        """What was not segmented, one line for each image."""
        lines = [f"\n  {file}: {reason}" for file, reason in self.failed.items()]
        return f"Error: {len(lines)} of {len(self.data_loader)} images were not segmented:{''.join(lines)}"

    def _note(self, engine: Engine, error: Exception) -> None:
        if engine.state.epoch == 0:  # no image's fault: that of the weights, say
            raise error
        while error.__cause__ is not None:  # around it MONAI says what it was doing
            error = error.__cause__
        file = self.data_loader.dataset.data[engine.state.epoch - 1]["image"]
        self.failed[file] = " ".join(str(error).split())[-300:].removeprefix(f"{file} ") or type(error).__name__
        self.logger.warning(f"Not segmented: {file}: {self.failed[file]}")


def twins(files: Sequence[Path], names: Iterable[str]) -> list[str]:
    """Two files of which masks would have one name, as a.png and a.jpg; none where there are no such.

    Args:
        files: the images; of their names MONAI leaves out the ending, and ``.gz`` before it.
        names: what it puts behind, with an underscore between.
    """
    masks = {file: {f"{file.name.removesuffix('.gz').rsplit('.', 1)[0]}_{name}" for name in names} for file in files}
    for mask, number in Counter(mask for own in masks.values() for mask in own).most_common(1):
        return [str(file) for file in files if number > 1 and mask in masks[file]][:2]
    return []


class Wholed(MapTransform):
    """Refuses the path of an image that is damaged by its format's own check sum or length, before it is read.

    ITK, which reads most of them, does not look, and gives what is there, and zeros or noise for the rest. Slices in a
    folder of DICOM files must lie at equal distances along their normal.

    Raises:
        ValueError: naming the file.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key in self.key_iterator(data):
            path = Path(data[key])
            if path.is_dir():
                parts = sorted(part for part in path.iterdir() if part.is_file() and part.name != "DICOMDIR")
                parts = [part for part in parts if part.suffix.lower() in (".dcm", ".dicom", ".ima") or is_dicom(part)]
                require_equal_steps(path, [require_whole(part, require_pixels) for part in parts])
            else:
                require_whole(path, require_pixels if is_dicom(path) else CHECKS.get(path.suffix.lower()))
        return dict(data)


class Finited(MapTransform):
    """Refuses an image that holds NaN or infinity, once it is read.

    Raises:
        ValueError: saying in how many of its pixels or voxels.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key in self.key_iterator(data):
            bad = int((~data[key].isfinite()).sum())
            if bad:
                raise ValueError(f"must hold finite values, got NaN or infinity {bad} times: repair or remove it.")
        return dict(data)


def require_whole(path: Path, check: Any) -> Any:
    """What a check gives; what it raises, as one kind of error."""
    try:
        return None if check is None else check(path)
    except Exception as error:  # each format's library has exceptions of its own
        raise ValueError(f"{path} must be whole, got {str(error) or type(error).__name__}: {COPY}.") from None


def is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def require_pixels(path: Path) -> Any:
    """The header of a DICOM file that has all pixels; of compressed ones it must have the end."""
    import pydicom

    header = pydicom.dcmread(path)
    found, syntax = len(header.PixelData), header.file_meta.get("TransferSyntaxUID", None)
    bits = header.Rows * header.Columns * header.get("SamplesPerPixel", 1) * header.BitsAllocated
    needed = bits * int(header.get("NumberOfFrames", None) or 1) // 8
    if found < needed and not (syntax is not None and syntax.is_compressed):
        raise ValueError(f"{found} bytes of pixels instead of {needed}")
    del header.PixelData
    return header


def require_equal_steps(folder: Path, slices: Sequence[Any]) -> None:
    """Refuses slices that ITK would stack as if they were one box of voxels."""
    if len(slices) < 2:
        return
    normal = np.cross(*np.reshape(slices[0].ImageOrientationPatient, (2, 3)).astype(float))
    places = sorted((np.array(part.ImagePositionPatient, float) for part in slices), key=normal.dot)
    line = np.array(places) - places[0]
    along = np.linspace(0, line[-1] @ normal, len(line))
    far = np.linalg.norm(line - np.outer(along, normal), axis=1).max()
    if len({part.SeriesInstanceUID for part in slices}) > 1 or not far <= FAR * along[1]:
        raise ValueError(
            f"{folder} must hold one series with slices at equal distances along their normal, got one {far:.2f} mm "
            "from its place: is a slice missing or there twice, was the gantry tilted, or are there several series?"
        )


def require_picture(path: Path) -> None:
    from PIL import Image

    with Image.open(path) as picture:
        picture.verify()  # check sums
    with Image.open(path) as picture:
        picture.load()  # length


def require_nifti(path: Path) -> None:
    import nibabel

    data = path.read_bytes()
    if path.suffix.lower() == ".gz":
        data = gzip.decompress(data)
    kind = nibabel.Nifti1Image if nibabel.Nifti1Header.may_contain_header(data) else nibabel.Nifti2Image
    values = np.asarray(kind.from_bytes(data).dataobj)
    if values.dtype.kind == "f" and not np.isfinite(values).all():  # ITK makes zeros of them
        raise ValueError("NaN or infinity")


def require_metaimage(path: Path) -> None:
    data = path.read_bytes()
    last = re.search(rb"ElementDataFile[ \t]*[=:][ \t]*([^\r\n]+?)[ \t]*(\r?\n|$)", data)
    if last is None:
        return  # ITK will say so
    header, voxels = data[: last.end()], data[last.end() :]
    local = last[1].lower() == b"local"
    if not local:
        voxels = (path.parent / last[1].decode()).read_bytes()
    if re.search(rb"CompressedData[ \t]*[=:][ \t]*(t|true|1)\s", header, re.IGNORECASE):
        size = re.search(rb"CompressedDataSize[ \t]*[=:][ \t]*(\d+)", header)
        if int(size[1]) != len(voxels) if size else local:
            raise ValueError(f"{len(voxels)} bytes of compressed data, and another CompressedDataSize in its header")
        voxels = zlib.decompress(voxels, zlib.MAX_WBITS | 32)
    require_size(path, len(voxels))


def require_nrrd(path: Path) -> None:
    header, _, voxels = path.read_bytes().partition(b"\n\n")
    encoding = re.search(rb"^encoding: *(gz|raw)", header, re.MULTILINE)
    if encoding is not None:
        require_size(path, len(gzip.decompress(voxels) if encoding[1] == b"gz" else voxels))


def require_size(path: Path, found: int) -> None:
    """Refuses another number of bytes than there are in the image by its header."""
    import itk

    header = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
    header.SetFileName(str(path))
    header.ReadImageInformation()
    if found != header.GetImageSizeInBytes():
        raise ValueError(f"{found} bytes of voxels instead of {header.GetImageSizeInBytes()}")


CHECKS = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".bmp"), require_picture),
    **dict.fromkeys((".mha", ".mhd"), require_metaimage),
    **dict.fromkeys((".gz", ".nii"), require_nifti),
    ".nrrd": require_nrrd,
}
