"""What inference over a folder needs besides MONAI: damaged images are refused, and all others are segmented."""

from __future__ import annotations

import gzip
import logging
import re
import sys
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator
from monai.transforms import MapTransform

COPY = "copy it again, or remove it"
FAR = 0.25  # of the distance of slices: how far one may lie from where equal steps along their normal put it
ALIKE = 1e-3  # by how much slices' directions, and the sides of their pixels in mm, may differ
# what makes several series of files to ITK, of which MONAI reads the first
SERIES = ("SeriesInstanceUID", "SeriesNumber", "SequenceName", "SliceThickness", "SeriesDate", "Rows", "Columns")


class FolderEvaluator(SupervisedEvaluator):
    """Segments the images of a data loader, in batches of one, and goes on after one that cannot be segmented.

    To ignite each image is an epoch here: an error ends an epoch, and the next one begins with the next image.
    :attr:`failed` has what was wrong, by file.

    Args:
        names: what the names of an image's masks end in. Images whose masks would have one name are not segmented.
    """

    def __init__(self, *arguments: Any, names: Sequence[str], **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.files = [item["image"] for item in self.data_loader.dataset.data]
        self.twins, self.failed = twins(self.files, names), {}
        self.logger.addFilter(lambda record: record.levelno < logging.ERROR)  # ignite says that the run ends
        self.add_event_handler(Events.ITERATION_STARTED, self._refuse_twin)
        self.add_event_handler(Events.EXCEPTION_RAISED, self._note)

    def run(self, global_epoch: int = 1) -> None:
        self.failed.clear()
        self.state.max_epochs = None  # begin anew
        Engine.run(self, self.data_loader, max_epochs=len(self.files), epoch_length=1)

    def report(self) -> str:
        """What was not segmented, one line for each image."""
        lines = [f"\n  {file}: {reason}" for file, reason in self.failed.items()]
        return f"Error: {len(lines)} of {len(self.files)} images were not segmented:{''.join(lines)}"

    def _refuse_twin(self, engine: Engine) -> None:
        file = self.files[engine.state.epoch - 1]
        if file in self.twins:
            raise ValueError(f"{file} must have masks of other names than those of {self.twins[file]}: rename one.")

    def _note(self, engine: Engine, error: BaseException) -> None:
        if engine.state.epoch == 0 or not isinstance(error, Exception):  # no image's fault: that of the weights, say
            raise error
        while error.__cause__ is not None:  # around it MONAI says what it was doing
            error = error.__cause__
        file = self.files[engine.state.epoch - 1]
        self.failed[file] = " ".join(str(error).split()).removeprefix(f"{file} ")[-300:] or type(error).__name__
        self.logger.warning(f"Not segmented: {file}: {self.failed[file]}")


def load_weights(path: str) -> dict[str, Any]:
    """The weights of a file, after a look at its check sums, which torch writes and does not look at.

    Raises:
        SystemExit: when they are not as they were written.
    """
    try:
        with zipfile.ZipFile(path) as file:
            if changed := file.testzip():
                raise ValueError(f"another check sum of {changed}")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile and torch raise a handful of types
        reason = " ".join(str(error).split())[:200]
        sys.exit(f"Error: ckpt_path must be weights as they were written, got {path}: {reason}. Copy them again.")


def twins(files: Iterable[str], names: Sequence[str]) -> dict[str, str]:
    """Files of which a mask would have the name of another's, as a.png and a.jpg, each with that other file.

    Args:
        files: the images; MONAI leaves out the ending of their names, and ``.gz`` after it.
        names: what it puts behind, with an underscore between.
    """
    owners = defaultdict(list)
    for file in files:
        stem = Path(file).name.removesuffix(".gz").rsplit(".", 1)[0]
        for name in names:
            owners[Path(file).with_name(f"{stem}_{name}")].append(file)
    return {file: own[file == own[0]] for own in owners.values() if len(own) > 1 for file in own}


def bands(file: Path) -> int | None:
    """How many channels a picture has, without transparency; 0 for a palette, None where it cannot be opened."""
    from PIL import Image

    try:
        with Image.open(file) as picture:
            return len({*picture.getbands()} - {"A", "P"})
    except Exception:  # what is wrong is said when it is read
        return None


class CheckWholed(MapTransform):
    """Refuses, before it is read, an image that is damaged by its format's own check sum or length.

    ITK, which reads most of them, does not look: it gives what is there, and zeros or noise for the rest. Slices in a
    folder of DICOM files must lie at equal distances along their normal.

    Raises:
        ValueError: naming the file.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key in self.key_iterator(data):
            if not str(data[key]):  # which would be the working directory
                raise ValueError("an image must have a name, got none: is one called so in the folder of studies?")
            path = Path(data[key])
            if path.is_dir():
                parts = sorted(part for part in path.iterdir() if part.is_file() and part.name != "DICOMDIR")
                parts = [part for part in parts if part.suffix.lower() in (".dcm", ".dicom", ".ima") or is_dicom(part)]
                require_equal_steps(path, [require_whole(part, require_pixels) for part in parts])
            else:
                require_whole(path, require_pixels if is_dicom(path) else CHECKS.get(path.suffix.lower()))
        return dict(data)


class CheckFinited(MapTransform):
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
    """The header of a DICOM file that has all its pixels; compressed ones must have their end."""
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
    """Refuses slices that ITK would stack as if they were one box of voxels, or of which it would leave some out."""
    if len(slices) < 2:
        return
    different = [name for name in SERIES if len({str(part.get(name, None)) for part in slices}) > 1]
    if different:
        raise ValueError(f"{folder} must hold one series, got several by {', '.join(different)}: a folder for each.")
    if not all(part.get(f"Image{name}Patient", None) for part in slices for name in ("Position", "Orientation")):
        raise ValueError(f"{folder} must hold slices that say where they lie, got some that do not: export them again.")
    sides = [part.get("PixelSpacing", None) or (1, 1) for part in slices]
    pixels = np.array([[*part.ImageOrientationPatient, *side] for part, side in zip(slices, sides, strict=True)], float)
    if np.ptp(pixels, axis=0).max() > ALIKE:
        raise ValueError(f"{folder} must hold slices of one direction and pixel size, got several: export them again.")
    normal = np.cross(*pixels[0, :6].reshape(2, 3))
    places = np.array(sorted((part.ImagePositionPatient for part in slices), key=normal.dot), float)
    line = places - places[0]
    along = np.linspace(0, line[-1] @ normal, len(line))
    far = np.linalg.norm(line - np.outer(along, normal), axis=1).max()
    if not far <= FAR * along[1]:
        raise ValueError(
            f"{folder} must hold slices at equal distances along their normal, got one {far:.2f} mm from its place: "
            "is a slice missing or there twice, or was the gantry tilted?"
        )


def require_picture(path: Path) -> None:
    from PIL import Image

    with Image.open(path) as picture:
        picture.verify()  # check sums
    with Image.open(path) as picture:
        if (frames := getattr(picture, "n_frames", 1)) != 1:
            raise ValueError(f"{frames} frames instead of one")
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
    header, *rest = re.split(rb"\r?\n\r?\n", path.read_bytes(), maxsplit=1)
    voxels = rest[0] if rest else b""
    encoding = re.search(rb"^encoding: *(gz|raw)", header, re.MULTILINE)
    elsewhere = re.search(rb"^(data ?file|(line|byte) ?skip):", header, re.MULTILINE | re.IGNORECASE)
    if elsewhere is not None:
        raise ValueError(f"a header with '{elsewhere[1].decode()}', so that its voxels are not right behind it")
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
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"), require_picture),
    **dict.fromkeys((".mha", ".mhd"), require_metaimage),
    **dict.fromkeys((".gz", ".nii"), require_nifti),
    ".nrrd": require_nrrd,
}
