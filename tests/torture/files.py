"""Files of every format that were cut off, have a flipped bit or zeros at their end; volumes that lie."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator
from pathlib import Path

import damaged
import itk
import nibabel
import numpy as np
import pydicom
from bundle_runs import ROOT
from monai.transforms import Compose, LoadImaged
from test_damaged_images import series
from tried import ACCEPTED, REFUSED, SAME, Setting, Tried, verdict

from common.data.readers import read_image, read_label
from common.data.volumes import read_volume, read_volume_labels

DAMAGES = {"cut off": damaged.cut, "a bit flipped": damaged.flipped, "zeros at the end": damaged.without_end}
VERDICTS = {"refused": REFUSED, "the same": SAME, "others": ACCEPTED}


def image(path: Path) -> np.ndarray:
    return read_image(path) if path.name in damaged.FLAT else np.asarray(read_volume(path).dataobj)


def label(path: Path) -> np.ndarray:
    return read_label(path) if path.name in damaged.FLAT else np.asarray(read_volume_labels(path).dataobj)


def inference() -> Callable[[Path], np.ndarray]:
    """As the bundles' inference reads, without ``common``."""
    scripts = runpy.run_path(str(ROOT / "bundles" / "jsrt_rpg" / "scripts" / "folder.py"))
    reader = LoadImaged("image", reader="ITKReader")
    load = Compose([scripts["CheckWholed"]("image"), reader, scripts["CheckFinited"]("image")])
    return lambda path: np.asarray(load({"image": str(path)})["image"])


def damaged_files(setting: Setting) -> Iterator[Tried]:
    whole, copies = setting.folder / "whole", setting.folder / "copies"
    whole.mkdir(parents=True)
    copies.mkdir()
    damaged.write_whole(whole)
    readers = {"image": image, "label": label, "image for inference": inference()}
    for name in damaged.CHECKED + damaged.LENGTH_ALONE:
        for said, damage in DAMAGES.items():
            if name in damaged.LENGTH_ALONE and damage is not damaged.cut:
                continue  # uncompressed values have a length, and nothing else by which they could be checked
            for purpose, read in readers.items():
                found = damaged.outcomes(whole / name, damage, copies, read, setting.rng, setting.times)
                for outcome, count in found.items():
                    kind = f"{said}: {name.split('.', 1)[1]}{', compressed' * ('packed' in name)}"
                    yield from [Tried(kind, VERDICTS[outcome], f"{name} as {purpose}")] * count


def volumes_that_lie(setting: Setting) -> Iterator[Tried]:
    for number in range(setting.times):
        folder = setting.folder / str(number)
        folder.mkdir(parents=True)
        for kind, path in written(folder, setting.rng):
            for purpose, read in {"training": image, "inference": inference()}.items():
                try:
                    found = verdict(
                        lambda read=read, path=path: read(path), *([path.name] if purpose == "training" else [])
                    )
                except Exception as error:  # a raw error is no refusal
                    found, purpose = ACCEPTED, f"{purpose}: {type(error).__name__}: {error}"
                yield Tried(kind, found, f"{path.name} in {purpose}")


def written(folder: Path, rng: np.random.Generator) -> Iterator[tuple[str, Path]]:
    """One volume of each kind that must be refused."""
    for value in (np.nan, np.inf):
        values = rng.random((9, 8, 7)).astype(np.float32)
        values[tuple(rng.integers(values.shape))] = value
        for name in (f"{value}.nii.gz", f"{value}.nii"):
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / name)
            yield "one voxel NaN or infinite", folder / name
        for name in (f"{value}.mha", f"{value}.nrrd"):
            itk.imwrite(itk.image_from_array(values), str(folder / name))
            yield "one voxel NaN or infinite", folder / name
    inner = int(rng.integers(1, 5))
    missing = series(folder / "missing")
    (missing / f"slice{inner}.dcm").unlink()
    yield "DICOM series: a slice is missing", missing
    step = {f"slice{inner}": {"ImagePositionPatient": [0, 0, 3 * inner + float(rng.choice([-1.5, 1.5]))]}}
    yield "DICOM series: a slice is shifted", series(folder / "shifted", **step)
    fine = {f"slice{inner}": {"PixelSpacing": [float(rng.uniform(0.3, 0.8)), 1]}}
    yield "DICOM series: a slice of other spacing", series(folder / "spacing", **fine)
    lean = float(rng.uniform(0.8, 3))
    tilted = {f"slice{i}": {"ImagePositionPatient": [0, lean * i, 3 * i]} for i in range(6)}
    yield "DICOM series: gantry tilt", series(folder / "tilt", **tilted)
    short = series(folder / "short")
    header = pydicom.dcmread(short / f"slice{inner}.dcm")
    header.PixelData = header.PixelData[: 2 * int(rng.integers(1, len(header.PixelData) // 2))]
    header.save_as(short / f"slice{inner}.dcm")
    yield "DICOM: short PixelData", short
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    itk.imwrite(itk.image_from_array(values), str(elsewhere / "a.mhd"))
    text = (elsewhere / "a.mhd").read_text()
    (elsewhere / "a.raw").rename(folder / "a.raw")
    for place in ("../a.raw", str(folder / "a.raw")):
        path = elsewhere / f"{len(place)}.mhd"
        path.write_text(text.replace("a.raw", place))
        yield "MHD: its data lie elsewhere", path
