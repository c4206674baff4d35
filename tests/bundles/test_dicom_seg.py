"""Masks as DICOM Segmentation: they lie on their image's pixels and refer to it, and other files are refused."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import highdicom
import itk
import nibabel
import numpy as np
import oct_dicom
import pandas as pd
import pydicom
import pytest
import torch
from bundle_runs import FEATURES, ROOT, configs, run_here
from monai.bundle import ConfigParser
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    SegmentationStorage,
    generate_uid,
)

from common.data.convert import convert_dicom

SCRIPTS = runpy.run_path(str(ROOT / "bundles" / "jsrt_rpg" / "scripts" / "dicom_seg.py"))
JSRT = ["right_lung", "left_lung", "heart", "right_clavicle", "left_clavicle"]
RANDOM = np.random.default_rng(0)
RADIOGRAPH = RANDOM.integers(0, 4000, (37, 29))  # rows, columns: no multiple of 8
VOLUME = RANDOM.integers(0, 4000, (6, 21, 19))  # slices, rows, columns
ROW, COLUMN = np.array([0.8, 0.6, 0]), np.array([0, 0, -1.0])
SHUFFLED = (3, 0, 5, 1, 4, 2)


def write_slice(path: Path, values: np.ndarray, kind: str = MRImageStorage, **attributes: Any) -> Path:
    """A file of one slice, of a patient whose name is no ASCII."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, kind
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID, data.Modality = kind, meta.MediaStorageSOPInstanceUID, "MR"
    data.SpecificCharacterSet, data.PatientName, data.PatientID = "ISO_IR 100", "Müller^Jörg", "7"
    data.StudyInstanceUID, data.SeriesInstanceUID, data.SeriesNumber = generate_uid(), generate_uid(), 4
    data.Rows, data.Columns = values.shape
    data.SamplesPerPixel, data.BitsAllocated, data.BitsStored, data.HighBit = 1, 16, 12, 11
    data.PixelRepresentation, data.PixelSpacing, data.PhotometricInterpretation = 0, [0.5, 0.4], "MONOCHROME2"
    for name, value in attributes.items():
        setattr(data, name, value)
    if data.PhotometricInterpretation == "MONOCHROME1":
        values = 4095 - values
    data.PixelData = values.astype("<u2").tobytes()
    data.save_as(path, enforce_file_format=True)
    return path


def write_series(folder: Path, places: Any = None, **attributes: Any) -> Path:
    """An oblique series whose files' names tell nothing of the order; its slices lie 2 mm apart."""
    folder.mkdir()
    same = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    same |= {"FrameOfReferenceUID": generate_uid(), "SliceThickness": 2, **attributes}
    for number, (values, name) in enumerate(zip(VOLUME, SHUFFLED, strict=True)):
        along = 2 * number if places is None else places[number]
        place = {"ImagePositionPatient": (np.array([-20, 30, 40]) + along * np.cross(ROW, COLUMN)).tolist()}
        place["ImageOrientationPatient"] = [*(ROW + 1e-7 * number), *COLUMN]  # some scanners' digits differ
        write_slice(folder / f"{name}.dcm", values, **place, **same)
    return folder


def write_radiograph(path: Path, **attributes: Any) -> Path:
    return write_slice(path, RADIOGRAPH, ComputedRadiographyImageStorage, **{"Modality": "CR", **attributes})


@pytest.fixture
def infer(tmp_path):
    """Runs a bundle on ``images`` by a tiny network that nobody has trained; gives the folder of the masks."""

    def run(bundle: str, output_ext: str, shift: float = 0, images: str = "images", **changes: Any) -> Path:
        parser = ConfigParser()
        parser.read_config(configs("inference", bundle=bundle))
        parser.update({"network_def#features": FEATURES, **changes})
        torch.manual_seed(0)
        network = parser.get_parsed_content("network_def")
        network.final_conv.weight.data *= 100
        found = network.eval()(torch.rand(1, 1, *[32] * (3 if "patch_size" in parser.config else 2)))[0]
        network.final_conv.bias.data += shift - found.detach().flatten(1).median(dim=1).values
        torch.save(network.state_dict(), tmp_path / "model.pt")
        masks = tmp_path / f"masks{output_ext}"
        size = {"patch_size": [16, 16, 16]} if "patch_size" in parser.config else {"image_size": [32, 32]}
        settings = {"dataset_dir": tmp_path / images, "output_dir": masks, "ckpt_path": tmp_path / "model.pt"}
        settings = {name: str(value) for name, value in settings.items()} | {
            "output_ext": output_ext,
            **size,
            **changes,
        }
        settings |= {"bundle_root": f"bundles/{bundle}", "network_def#features": FEATURES}
        run_here("inferring", configs("inference", bundle=bundle), settings)
        return masks

    (tmp_path / "images").mkdir()
    return run


def by_segment(path: Path) -> dict[tuple[int, str, int], np.ndarray]:
    """The frames of a segmentation, as pydicom reads them, by segment, source and the frame of the source."""
    data = pydicom.dcmread(path)
    frames = data.pixel_array.reshape(-1, data.Rows, data.Columns)
    whole = frames.size // 8 * 8  # of a last byte that is not full ITK makes noise
    assert ((itk.array_from_image(itk.imread(str(path))) > 127).ravel()[:whole] == frames.ravel()[:whole]).all()
    shared = data.SharedFunctionalGroupsSequence[0]
    found = {}
    for frame, group in zip(frames, data.PerFrameFunctionalGroupsSequence, strict=True):
        identified = group.get("SegmentIdentificationSequence") or shared.SegmentIdentificationSequence
        (source,) = group.DerivationImageSequence[0].SourceImageSequence
        number = int(source.get("ReferencedFrameNumber", 1))
        found[identified[0].ReferencedSegmentNumber, source.ReferencedSOPInstanceUID, number] = frame
    return found


def require_valid(seg: Path, sources: list[Path], classes: list[str], bundle: str) -> None:
    """The same patient, study and place as the sources, and a new series that refers to each of them."""
    data, first = pydicom.dcmread(seg), pydicom.dcmread(sources[0])
    for name in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert (data.get(name) or None) == (first.get(name) or None), name
    assert (data.SOPClassUID, data.Modality, data.SegmentationType) == (SegmentationStorage, "SEG", "BINARY")
    assert data.SeriesInstanceUID != first.SeriesInstanceUID
    assert data.SeriesNumber == (first.get("SeriesNumber") or 0) + 1000
    (series,) = data.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == first.SeriesInstanceUID
    wanted = {pydicom.dcmread(file).SOPInstanceUID for file in sources}
    assert {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence} == wanted
    metadata = json.loads((ROOT / "bundles" / bundle / "configs" / "metadata.json").read_text())
    assert [segment.SegmentLabel for segment in data.SegmentSequence] == classes
    for segment in data.SegmentSequence:
        (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
        assert segment.SegmentAlgorithmType == "AUTOMATIC"
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (metadata["name"][:64], metadata["version"])
    assert all(data.get(name) for name in ("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber"))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_a_radiograph(infer, tmp_path, photometric):
    source = write_radiograph(tmp_path / "images" / "a.dcm", PhotometricInterpretation=photometric)
    masks, pictures = infer("jsrt_rpg", ".dcm"), infer("jsrt_rpg", ".png")
    assert sorted(file.name for file in masks.iterdir()) == ["a_preview.png", "a_seg.dcm"]
    seg = masks / "a_seg.dcm"
    require_valid(seg, [source], JSRT, "jsrt_rpg")
    uid, found = pydicom.dcmread(source).SOPInstanceUID, by_segment(seg)
    volume = highdicom.seg.segread(seg).get_pixels_by_source_instance([uid])
    assert volume.shape == (1, *RADIOGRAPH.shape, len(JSRT))
    shares = []
    for number, name in enumerate(JSRT, 1):
        wanted = np.asarray(Image.open(pictures / f"a_{name}.png")) > 0
        shares.append(wanted.mean())
        assert (found.get((number, uid, 1), np.zeros_like(wanted)) == wanted).all()
        assert (volume[0, ..., number - 1] == wanted).all()
    assert max(shares) > 0 and len({*shares}) > 2
    kinds = [segment.SegmentedPropertyTypeCodeSequence[0] for segment in pydicom.dcmread(seg).SegmentSequence]
    assert [kind.CodeMeaning for kind in kinds] == ["Lung", "Lung", "Heart", "Clavicle", "Clavicle"]
    sides = [kind.get("SegmentedPropertyTypeModifierCodeSequence") for kind in kinds]
    assert [side and side[0].CodeMeaning for side in sides] == ["Right", "Left", None, "Right", "Left"]


@pytest.mark.parametrize(
    ("bundle", "changes"),
    [
        ("ms_popcorn", {}),
        ("ms_popcorn", {"classes": ["lesion", "ödem 病变", "third"]}),
        ("acdc_unimatch", {}),
        ("acdc_rank_weighting", {}),
    ],
)
def test_a_series(infer, tmp_path, bundle, changes):
    """Oblique, and in an order that the names do not tell; of several classes, which may overlap."""
    folder = write_series(tmp_path / "images" / "head.1")
    masks, volumes = infer(bundle, ".dcm", **changes), infer(bundle, ".nii.gz", **changes)
    classes = changes.get("classes") or ConfigParser.load_config_file(configs("inference", bundle=bundle)[0])["classes"]
    (seg,) = masks.iterdir()
    assert seg.name == "head_seg.dcm"
    sources = sorted(folder.iterdir())
    require_valid(seg, sources, classes, bundle)
    found = by_segment(seg)
    headers = [pydicom.dcmread(file) for file in sources]
    read = highdicom.seg.segread(seg)
    pixels = read.get_pixels_by_source_instance(
        [header.SOPInstanceUID for header in headers], assert_missing_frames_are_empty=True
    )
    total = 0
    for number, name in enumerate(classes, 1):
        wanted = nibabel.load(volumes / f"head_{name}.nii.gz")
        values = np.asarray(wanted.dataobj) > 0
        total += values.sum()
        for header, picture in zip(headers, pixels[..., number - 1], strict=True):
            place = np.diag([-1, -1, 1, 1]) @ [*header.ImagePositionPatient, 1]
            voxel = np.linalg.inv(wanted.affine) @ place
            np.testing.assert_allclose(voxel[:2], 0, atol=1e-3)
            slice_ = values[..., round(voxel[2])].T
            assert (picture == slice_).all()
            assert (found.get((number, header.SOPInstanceUID, 1), np.zeros_like(slice_)) == slice_).all()
    assert 0 < total < len(classes) * VOLUME.size
    box = read.get_volume()
    assert box.frame_of_reference_uid == headers[0].FrameOfReferenceUID
    np.testing.assert_allclose(box.spacing, [2, 0.5, 0.4], atol=1e-4)
    if bundle == "ms_popcorn" and changes:
        assert pydicom.dcmread(seg).SegmentsOverlap == "YES"


def test_nothing_found(infer, tmp_path):
    """A segmentation without foreground says so in every frame."""
    folder = write_series(tmp_path / "images" / "head")
    (seg,) = infer("ms_popcorn", ".dcm", shift=-1000).iterdir()
    require_valid(seg, sorted(folder.iterdir()), ["lesion"], "ms_popcorn")
    found = by_segment(seg)
    assert len(found) == len(VOLUME) and not any(frame.any() for frame in found.values())
    assert not highdicom.seg.segread(seg).get_volume().array.any()


def write_oct(path: Path, **attributes: Any) -> Path:
    named = {"FrameOfReferenceUID": generate_uid(), "PatientID": "8", "SeriesNumber": None}
    values = RANDOM.integers(0, 250, (19, 23, 7))
    order, row, column = [4, 0, 2, 1, 6, 5, 3], *oct_dicom.OBLIQUE
    settings = {"order": order, "places": oct_dicom.PLACES, "row": row, "column": column, **named, **attributes}
    return oct_dicom.write(path, values, **settings)


def test_frames_of_one_file(infer, tmp_path):
    """OCT, whose frames lie in another order than they are stored in."""
    (tmp_path / "images" / "eye").mkdir()
    source = write_oct(tmp_path / "images" / "eye" / "a.dcm")
    masks = infer("retouch_rpg", ".dcm")
    seg = masks / "eye" / "a_fluid.dcm"
    require_valid(seg, [source], ["IRF", "SRF", "PED"], "retouch_rpg")
    convert_dicom(source, tmp_path / "converted")
    volumes = infer("retouch_rpg", ".nii.gz", images="converted")
    wanted = nibabel.load(volumes / "a_fluid.nii.gz")
    values = np.asarray(wanted.dataobj)
    data, found = pydicom.dcmread(source), by_segment(seg)
    pixels = highdicom.seg.segread(seg).get_pixels_by_source_frame(
        data.SOPInstanceUID, list(range(1, 8)), assert_missing_frames_are_empty=True
    )
    assert len(np.unique(values)) > 2
    for index, group in enumerate(data.PerFrameFunctionalGroupsSequence):
        place = np.diag([-1, -1, 1, 1]) @ [*group.PlanePositionSequence[0].ImagePositionPatient, 1]
        voxel = np.linalg.inv(wanted.affine) @ place
        np.testing.assert_allclose(voxel[:2], 0, atol=1e-3)
        picture = values[..., round(voxel[2])].T
        for number in (1, 2, 3):
            assert (pixels[index, ..., number - 1] == (picture == number)).all()
            frame = found.get((number, data.SOPInstanceUID, index + 1), np.zeros_like(picture))
            assert (frame == (picture == number)).all()
    sizes = [pd.read_csv(folder / "volumes.csv").iloc[0, 1:].to_numpy(float) for folder in (masks, volumes)]
    np.testing.assert_allclose(*sizes, rtol=1e-4)
    assert sizes[0].sum() > 0
    infer("retouch_rpg", ".dcm", output_dir=str(tmp_path / "images"))  # beside the images, twice
    infer("retouch_rpg", ".dcm", output_dir=str(tmp_path / "images"))
    with pytest.raises(SystemExit, match=r"DICOM must be made into volumes \(convert dicom\)"):
        infer("retouch_rpg", ".mhd")


@pytest.mark.parametrize(
    ("bundle", "name"),
    [("jsrt_rpg", "b.png"), ("lgg_segmatch", "b.png"), ("ms_popcorn", "b.nii"), ("retouch_rpg", "b.nii.gz")],
)
def test_other_images_are_refused_before_inference(infer, tmp_path, bundle, name, monkeypatch):
    path = tmp_path / "images" / name
    if name == "b.png":
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(path)
        if bundle == "jsrt_rpg":
            write_radiograph(tmp_path / "images" / "a.dcm")
    else:
        nibabel.save(nibabel.Nifti1Image(np.zeros((8, 8, 8), np.float32), np.eye(4)), path)
    said = rf"Error: output_ext .dcm needs DICOM images, got {path}: take .nii.gz or .png, or remove the file."
    for ending in (".dcm", "DCM"):
        with pytest.raises(SystemExit, match=said):
            infer(bundle, ending)
        assert not (tmp_path / f"masks{ending}").exists()


def test_without_highdicom_other_masks_are_written(infer, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    write_radiograph(tmp_path / "images" / "a.dcm")
    with pytest.raises(SystemExit, match=r"needs highdicom, which is not installed: pip install highdicom"):
        infer("jsrt_rpg", ".dcm")
    assert (infer("jsrt_rpg", ".png") / "a_heart.png").is_file()


def test_a_second_run_replaces_and_one_that_fails_does_not_end_it(infer, tmp_path):
    folder = tmp_path / "images"
    for name in ("a", "b", "c"):
        write_radiograph(folder / f"{name}.dcm")
    masks = infer("jsrt_rpg", ".dcm")
    before = pydicom.dcmread(masks / "a_seg.dcm")
    (masks / "b_seg.dcm").unlink()
    (masks / "b_seg.dcm").mkdir()  # nothing can be written there
    with pytest.raises(SystemExit) as ended:
        infer("jsrt_rpg", ".dcm")
    first, line = str(ended.value.code).splitlines()
    assert first == "Error: 1 of 3 images were not segmented:" and line.startswith(f"  {folder / 'b.dcm'}: ")
    after = pydicom.dcmread(masks / "a_seg.dcm")
    assert after.SeriesInstanceUID != before.SeriesInstanceUID and after.SOPInstanceUID != before.SOPInstanceUID
    assert after.PixelData == before.PixelData
    assert sorted(file.name for file in masks.iterdir() if file.suffix != ".png") == [f"{x}_seg.dcm" for x in "abc"]


def failures(infer, bundle: str) -> dict[str, str]:
    """What is said of each image that is not segmented, by its name."""
    with pytest.raises(SystemExit) as ended:
        infer(bundle, ".dcm")
    lines = [line.strip().split(": ", 1) for line in str(ended.value.code).splitlines()[1:]]
    return {Path(file).name: reason for file, reason in lines}


def test_files_that_masks_cannot_refer_to(infer, tmp_path):
    folder = tmp_path / "images"
    write_radiograph(folder / "a.dcm", FrameOfReferenceUID=generate_uid())  # without a position, as in mammography
    write_radiograph(folder / "b.dcm", SeriesNumber=None, PixelSpacing=None, Modality="DX")
    write_radiograph(folder / "c.dcm", StudyInstanceUID=None)
    write_radiograph(folder / "d.dcm", Modality="SR")
    (folder / "e.dcm").write_bytes((folder / "a.dcm").read_bytes()[:300])
    write_slice(folder / "f.dcm", RADIOGRAPH, FrameOfReferenceUID="1.2", ImagePositionPatient=[1, 2, 3],
                ImageOrientationPatient=[*ROW, *COLUMN])  # fmt: skip
    write_slice(folder / "h.dcm", RADIOGRAPH, ImagePositionPatient=[1, 2, 3], ImageOrientationPatient=[*ROW, *COLUMN])
    masks = tmp_path / "masks.dcm"
    said = failures(infer, "jsrt_rpg")
    assert said.keys() == {"c.dcm", "d.dcm", "e.dcm", "h.dcm"}
    assert said["h.dcm"] == "must say its FrameOfReferenceUID, got none: export the series again."
    assert said["c.dcm"] == "must say its StudyInstanceUID, got none: export it again."
    assert said["d.dcm"] == "must be an image to segment, got DICOM of modality SR: remove it."
    for name in "abf":
        require_valid(masks / f"{name}_seg.dcm", [folder / f"{name}.dcm"], JSRT, "jsrt_rpg")
        assert (
            highdicom.seg.segread(masks / f"{name}_seg.dcm")
            .get_pixels_by_source_instance(
                [pydicom.dcmread(folder / f"{name}.dcm").SOPInstanceUID], assert_missing_frames_are_empty=True
            )
            .any()
        )
    (folder / "g.dcm").write_bytes((masks / "a_seg.dcm").read_bytes())
    assert failures(infer, "jsrt_rpg")["g.dcm"] == "must be an image to segment, got DICOM of modality SEG: remove it."


def test_series_that_are_no_box_of_voxels(infer, tmp_path):
    folder = tmp_path / "images"
    write_series(folder / "good")
    write_series(folder / "gap", places=[0, 2, 4, 8, 10, 12])
    write_series(folder / "shifted", places=[0, 2, 5, 6, 8, 10])
    write_series(folder / "nowhere", FrameOfReferenceUID=None)
    tilted = write_series(folder / "tilted")
    for file in tilted.iterdir():
        data = pydicom.dcmread(file)
        data.ImagePositionPatient = (np.array(data.ImagePositionPatient) + int(file.stem) * COLUMN).tolist()
        data.save_as(file)
    mixed = write_series(folder / "mixed")
    data = pydicom.dcmread(mixed / "3.dcm")
    data.Modality = "PR"
    data.save_as(mixed / "3.dcm")
    said = failures(infer, "acdc_unimatch")
    assert said.keys() == {"gap", "shifted", "nowhere", "tilted", "mixed"}
    assert all("must hold slices at equal distances" in said[name] for name in ("gap", "shifted", "tilted"))
    assert said["nowhere"] == "must say its FrameOfReferenceUID, got none: export the series again."
    assert "3.dcm must be an image to segment, got DICOM of modality PR" in said["mixed"]
    assert [file.name for file in (tmp_path / "masks.dcm").iterdir()] == ["good_seg.dcm"]


def test_frames_that_are_no_box_of_voxels(infer, tmp_path):
    write_oct(tmp_path / "images" / "good.dcm")
    write_oct(tmp_path / "images" / "gap.dcm", places=np.array([0, 1, 2, 3, 5, 6, 7]))
    write_oct(tmp_path / "images" / "nowhere.dcm", places=None)
    said = failures(infer, "retouch_rpg")
    assert said.keys() == {"gap.dcm", "nowhere.dcm"}
    assert "must hold frames at equal distances along their normal" in said["gap.dcm"]
    assert "frames" in said["nowhere.dcm"]


def test_codes_are_those_of_the_standard():
    """As pydicom has them; it has no myocardium."""
    for name, value in (SCRIPTS["KNOWN"] | SCRIPTS["LESIONS"]).items():
        if name == "myocardium":
            assert value == "74281007"
        else:
            word = {"tumour": "Tumor"}.get(name, name.title().replace(" ", ""))
            assert getattr(codes.SCT, word).value == value


@pytest.mark.parametrize(
    ("name", "found", "side"),
    [
        ("right_lung", "lung", "right"),
        ("Lungs", "lung", None),
        ("left_ventricle", "left ventricle", None),
        ("right ventricle", "right ventricle", None),
        ("kidney-left", "kidney", "left"),
        ("pancreas", "pancreas", None),
        ("tumour", "tumour", None),
        ("left_right_lung", "lung", None),
    ],
)
def test_classes_that_are_known(name, found, side):
    assert SCRIPTS["known"](name) == (found, side)


def test_classes_that_are_not_known():
    for name in ("IRF", "left_thing", "1", "x" * 100, "病变"):
        assert SCRIPTS["known"](name) == (None, None)
        algorithm = highdicom.AlgorithmIdentificationSequence("A", codes.DCM.ArtificialIntelligence, "1")
        segment = SCRIPTS["described"](1, name, algorithm)
        kind = segment.segmented_property_type
        assert (kind.scheme_designator, kind.value, kind.meaning) == ("99LOCAL", name, name[:64])
