"""Masks as DICOM Segmentation, which ``--output_ext .dcm`` asks for: this alone needs highdicom."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import monai
import numpy as np
from monai.data import FolderLayout, MetaTensor
from monai.transforms import MapTransform

NAMED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
MAY_BE_EMPTY = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID")
MAY_BE_EMPTY += ("StudyDate", "StudyTime", "ReferringPhysicianName", "SliceThickness")  # but highdicom asks for them
NO_IMAGES = ("SEG", "SR", "PR", "KO", "DOC", "REG", "FID", "RWV", "RTSTRUCT", "RTPLAN", "RTDOSE")
LONGEST = 64  # characters of DICOM's texts of one line
NEXT = 1000  # of a SEG's series number over that of its images
BODY, ILL = ("91723000", "SCT", "Anatomical Structure"), ("49755003", "SCT", "Morphologically Abnormal Structure")
OTHER = ("class", "99LOCAL", "Class of a segmentation")
SIDES = {"right": ("24028007", "SCT", "Right"), "left": ("7771000", "SCT", "Left")}
# the codes of SNOMED CT for classes, by their names without sides
KNOWN = {"aorta": "15825003", "bladder": "89837001", "brain": "12738006", "clavicle": "51299004", "heart": "80891009"}
KNOWN |= {"gallbladder": "28231008", "hippocampus": "5366008", "kidney": "64033007", "left atrium": "82471001"}
KNOWN |= {"left ventricle": "87878005", "liver": "10200004", "lung": "39607008", "myocardium": "74281007"}
KNOWN |= {"pancreas": "15776009", "prostate": "41216001", "right atrium": "73829009", "right ventricle": "53085002"}
KNOWN |= {"spleen": "78961009", "stomach": "69695003"}
LESIONS = {"cyst": "367643001", "edema": "79654002", "lesion": "52988006", "mass": "4147007", "nodule": "27925004"}
LESIONS |= {"tumor": "108369006", "tumour": "108369006", "neoplasm": "108369006"}


def require_dicom(files: Iterable[str | Path]) -> None:
    """Ends the run where masks cannot be DICOM.

    Raises:
        SystemExit: naming the first file that is not, or saying that highdicom is not there.
    """
    other = next((file for file in map(Path, files) if not (file.is_dir() or says_dicom(file))), None)
    if other is not None:
        sys.exit(f"Error: output_ext .dcm needs DICOM images, got {other}: take .nii.gz or .png, or remove the file.")
    if find_spec("highdicom") is None:
        sys.exit("Error: output_ext .dcm needs highdicom, which is not installed: pip install highdicom")


class CheckSourced(MapTransform):
    """Refuses, before it is read, what a DICOM Segmentation cannot refer to.

    Args:
        keys: keys of files, or of folders with a series.
        wanted: whether masks become DICOM; otherwise nothing is looked at.

    Raises:
        ValueError: naming the file.
    """

    def __init__(self, keys: Any, wanted: bool) -> None:
        super().__init__(keys)
        self.wanted = wanted

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key in self.key_iterator(data) if self.wanted else ():
            path = Path(data[key])
            headers = read_headers(path)
            placed = len(headers) > 1 or "ImagePositionPatient" in headers[0]
            if placed and not headers[0].get("FrameOfReferenceUID", None):
                raise ValueError(f"{path} must say its FrameOfReferenceUID, got none: export the series again.")
            if int(headers[0].NumberOfFrames or 1) > 1:
                frame_geometry(path)
        return dict(data)


class SaveSegmentationd(MapTransform):
    """Writes an image's masks as one file of DICOM Segmentation, which refers to the image that it lies on.

    Args:
        keys: key of the masks ``C W H [D]``, 0 and 1, in the image's own pixels, or of a label map ``1 W H [D]``.
        classes: names of the ``C`` classes.
        bundle_root: the bundle, whose metadata name the algorithm.
        ckpt_path: the weights, whose check sum is the serial number of the device.
        output_dir, output_postfix, data_root_dir: as of MONAI's ``SaveImaged``.

    Raises:
        ValueError: when the masks do not lie where the image does.
    """

    def __init__(
        self,
        keys: Any,
        classes: Sequence[str],
        bundle_root: str,
        ckpt_path: str,
        output_dir: str,
        output_postfix: str = "seg",
        data_root_dir: str = "",
    ) -> None:
        super().__init__(keys)
        self.classes, self.weights = classes, Path(ckpt_path)
        self.metadata = Path(bundle_root) / "configs" / "metadata.json"
        self.layout = FolderLayout(output_dir, output_postfix, ".dcm", makedirs=True, data_root_dir=data_root_dir)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        for key in self.key_iterator(data):
            source = Path(data[key].meta["filename_or_obj"])
            headers = read_headers(source)
            values = np.arange(1, len(self.classes) + 1).reshape(-1, *[1] * (data[key].ndim - 1))
            masks = np.asarray(data[key].cpu()) == (values if len(data[key]) == 1 else 1)
            frames = in_frames(source, headers, masks, np.asarray(data[key].affine))
            target = Path(self.layout.filename(source))
            temporary = target.with_name(f".{target.name}.{os.getpid()}")
            try:
                segmentation(headers, frames, self.classes, **self.device).save_as(temporary)
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
        return dict(data)

    @cached_property
    def device(self) -> dict[str, Any]:
        """What made the masks, by highdicom's names."""
        metadata = json.loads(self.metadata.read_text())
        return {
            "manufacturer": metadata["authors"][:LONGEST],
            "manufacturer_model_name": metadata["name"][:LONGEST],
            "software_versions": [metadata["version"][:LONGEST], f"MONAI {monai.__version__}"],
            "device_serial_number": hashlib.sha256(self.weights.read_bytes()).hexdigest(),
        }


def says_dicom(path: Path) -> bool:
    """By its content."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_headers(source: Path) -> list[Any]:
    """Those of a file, or of each slice in a folder, with what highdicom asks for.

    Raises:
        ValueError: naming the file: it cannot be read, is no image or does not say which one.
    """
    import pydicom

    files = [source]
    if source.is_dir():
        files = sorted(file for file in source.iterdir() if file.is_file() and file.name != "DICOMDIR")
        files = [file for file in files if file.suffix.lower() in (".dcm", ".dicom", ".ima") or says_dicom(file)]
    headers = []
    for file in files:
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True)
        except Exception as error:  # pydicom raises a dozen types
            raise ValueError(f"{file} must be whole, got {error}: copy it again, or remove it.") from None
        kind = header.get("Modality", None)
        if kind in NO_IMAGES or "Rows" not in header:
            raise ValueError(f"{file} must be an image to segment, got DICOM of modality {kind}: remove it.")
        lost = next((name for name in NAMED if not header.get(name, None)), None)
        if lost is not None:
            raise ValueError(f"{file} must say its {lost}, got none: export it again.")
        headers.append(completed(header))
        if "ImageOrientationPatient" in header and len(files) > 1:  # highdicom asks for the very same digits
            header.ImageOrientationPatient = headers[0].get("ImageOrientationPatient", None)
    return headers


def completed(header: Any) -> Any:
    """A header that highdicom takes: with all that may be empty, and with groups where there are frames."""
    from pydicom import Dataset

    for name in MAY_BE_EMPTY:
        if name not in header:
            setattr(header, name, None)
    grouped, frames = "SharedFunctionalGroupsSequence" in header, header.get("NumberOfFrames", None) or 1
    header.NumberOfFrames = frames
    if not grouped:
        header.pop("SpacingBetweenSlices", None)  # the places of the slices are more reliable
        measures, group = Dataset(), Dataset()
        if header.get("PixelSpacing", None):
            measures.PixelSpacing = header.PixelSpacing
            measures.SliceThickness = header.SliceThickness
        group.PixelMeasuresSequence = [measures]
        header.SharedFunctionalGroupsSequence = [group]
    return header


def voxel_volume(image: MetaTensor) -> float:
    """Of what was read from a file of several frames, in mm3; ITK does not know it of every kind."""
    return float(frame_geometry(image.meta["filename_or_obj"]).voxel_volume)


def frame_geometry(path: str | Path) -> Any:
    """The box of voxels that the frames of a file are.

    Raises:
        ValueError: naming the file, whose frames are no box of voxels or do not say where they lie.
    """
    import highdicom

    try:
        geometry = highdicom.imread(path, lazy_frame_retrieval=True).get_volume_geometry(
            allow_duplicate_positions=False
        )
    except Exception as error:  # pydicom and highdicom raise a dozen types
        raise ValueError(f"{path} must say where its frames lie, got {error}: export it again.") from None
    if geometry is None:
        raise ValueError(
            f"{path} must hold frames at equal distances along their normal, with a frame of reference, got others: "
            "is a frame missing or there twice?"
        )
    return geometry


def in_frames(source: Path, headers: Sequence[Any], masks: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Masks ``C W H [D]`` as ``F H W C``, a frame for each header or for each frame of the only one.

    Args:
        affine: where the masks lie, in RAS.
    """
    frames = masks.reshape(*masks.shape[:3], -1).transpose(3, 2, 1, 0)
    first = headers[0]
    wanted = (first.NumberOfFrames if len(headers) == 1 else len(headers), first.Rows, first.Columns)
    if frames.shape[:3] != wanted:
        raise ValueError(f"{source} must have masks of its own {wanted} pixels, got {frames.shape[:3]}.")
    if len(headers) == 1:
        return frames
    to_voxels = np.linalg.inv(np.diag([-1, -1, 1, 1]) @ affine)
    order = []
    for header in headers:
        start, along, down = (np.array(value, float) for value in corners(header))
        ends = to_voxels @ np.stack([[*start, 1], [*start + along, 1], [*start + down, 1]], axis=1)
        order.append(round(ends[2, 0]))
        here = [[0, first.Columns - 1, 0], [0, 0, first.Rows - 1], [order[-1]] * 3]
        if not np.abs(ends[:3] - here).max() < 0.5:
            raise ValueError(f"{source} must have masks where its slices lie, got others: it was read another way.")
    if sorted(order) != list(range(len(headers))):
        raise ValueError(f"{source} must have a mask for each slice, got them for {len(set(order))} of {len(order)}.")
    return frames[order]


def corners(header: Any) -> tuple[Any, np.ndarray, np.ndarray]:
    """Where a slice's first pixel lies, and the ways from there to the last of its row and of its column, in mm."""
    row, column = np.reshape([float(part) for part in header.ImageOrientationPatient], (2, 3))
    high, wide = header.get("PixelSpacing", None) or (1, 1)
    return header.ImagePositionPatient, row * wide * (header.Columns - 1), column * high * (header.Rows - 1)


def segmentation(headers: Sequence[Any], frames: np.ndarray, classes: Sequence[str], **device: Any) -> Any:
    """A DICOM Segmentation, binary, with a segment for each class.

    Args:
        headers: of the image, see :func:`read_headers`.
        frames: ``F H W C``, in the order of the headers.
    """
    import highdicom
    from pydicom.sr.coding import Code

    family = Code("123110", "DCM", "Artificial Intelligence")
    name, versions = device["manufacturer_model_name"], device["software_versions"]
    algorithm = highdicom.AlgorithmIdentificationSequence(name, family, versions[0])
    made = highdicom.seg.Segmentation(
        source_images=list(headers),
        pixel_array=frames,
        segmentation_type="BINARY",
        segment_descriptions=[described(number, name, algorithm) for number, name in enumerate(classes, 1)],
        series_instance_uid=highdicom.UID(),
        series_number=(abs(int(headers[0].get("SeriesNumber", None) or 0)) + NEXT) % 2**31,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        content_label="SEGMENTATION",
        content_description=name,
        series_description=f"Segmentation: {', '.join(classes)}"[:LONGEST],
        specific_character_set="ISO_IR 192",  # whatever the names of classes hold
        **device,
    )
    shared = made.SharedFunctionalGroupsSequence[0]
    for sides in shared.get("PixelMeasuresSequence", ()):
        sides.SliceThickness = sides.get("SliceThickness", None) or sides.get("SpacingBetweenSlices", None)
        if None in (sides.SliceThickness, sides.get("PixelSpacing", None)):  # highdicom reads none without
            del shared.PixelMeasuresSequence  # the image that it refers to has what there is
    return made


def described(number: int, name: str, algorithm: Any) -> Any:
    """The segment of a class: by SNOMED CT where it is known, by its own name otherwise."""
    import highdicom
    from highdicom.sr import CodedConcept

    found, side = known(name)
    category = BODY if found in KNOWN else ILL if found in LESIONS else OTHER
    kind = CodedConcept(name, "99LOCAL", name[:LONGEST])
    if found is not None:
        kind = CodedConcept({**KNOWN, **LESIONS}[found], "SCT", found.capitalize())
    if side is not None:
        kind.SegmentedPropertyTypeModifierCodeSequence = [CodedConcept(*SIDES[side])]
    category = CodedConcept(*category)
    return highdicom.seg.SegmentDescription(number, name[:LONGEST], category, kind, "AUTOMATIC", algorithm)


def known(name: str) -> tuple[str | None, str | None]:
    """Which of the classes above one is, and on which side, if any: ``right_lung``, ``Lungs``, ``left_ventricle``."""
    words = re.split(r"[\W_]+", name.lower())
    sides = [word for word in words if word in SIDES]
    rest = " ".join(word for word in words if word not in SIDES)
    for text, side in ((" ".join(words), None), (rest, sides[0] if len(sides) == 1 else None)):
        for singular in (text, text.removesuffix("s")):
            if singular in KNOWN or singular in LESIONS:
                return singular, side
    return None, None
