"""Writes invented OCT volumes of retinas with fluid in the layout of RETOUCH."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.data.layouts.retouch import CLASSES, find_retouch, retouch_datalist
from common.phantoms import Phantom
from common.phantoms.folder import made_beside, require_at_least, require_empty
from common.phantoms.oct import VENDORS, Drawn, Vendor, draw, scan
from common.phantoms.retina import FIELD, make_retina

SMALLEST = 48
# The fluids of one volume after another, from a start that the seed draws: among six in a row each occurs three times.
FLUIDS = ("P", "I", "IP", "ISP", "S", "IS", "SP", "", "IP", "ISP", "IS", "IS")
NUMBERED = 24  # volumes of a vendor, before its numbers run into the next one's
TYPES = {"uint8": "MET_UCHAR", "uint16": "MET_USHORT"}


def make_retouch_phantom(
    directory: str | Path,
    volumes: int = 14,
    size: int = 96,
    slices: int = 9,
    vendors: Sequence[str] = ("Spectralis",),
    seed: int = 0,
) -> Path:
    """Write OCT volumes of the macula, 6 x 6 mm, with fluids as in Bogunovic et al. (2019), and their label maps.

    ====================================================  =======================================================
    ``RETOUCH-TrainingSet-Spectralis/TRAIN025/oct.mhd``   the image with ``oct.raw``, ``X Y Z``: along a B-scan,
                                                          depth, B-scans; values 0 to 255
    ``.../TRAIN025/reference.mhd``, ``.raw``              1 intraretinal fluid (IRF), 2 subretinal fluid (SRF),
                                                          3 pigment epithelial detachment (PED)
    ====================================================  =======================================================

    Of twelve volumes one holds no fluid, and among six in a row each fluid occurs in three at least.

    Args:
        directory: folder to make; it must not hold anything yet.
        volumes: number of volumes of each vendor, one of each patient.
        size: pixels along a row of a B-scan, for 6 mm, and along its depth, for 1.9 to 2.3 mm.
        slices: number of B-scans.
        vendors: which devices: Spectralis (little speckle), Topcon, Cirrus (the most speckle, the least contrast).
        seed: the same seed gives the same volumes.

    Raises:
        FileExistsError: when the folder holds something.
        ValueError: when a number is out of its range, or a vendor is unknown.
    """
    folder = require_empty(directory)
    vendors = list(vendors)
    _require_sound(volumes, size, slices, seed, vendors)
    jobs = [(vendor, index) for vendor in vendors for index in range(volumes)]
    with made_beside(folder) as made:
        for vendor, index in tqdm(jobs, desc="phantoms", unit="volume", disable=None):
            case = made / f"RETOUCH-TrainingSet-{vendor}" / f"TRAIN{VENDORS[vendor].first + index:03d}"
            _write_case(case, vendor, index, size, slices, seed)
    return folder


def draw_volume(name: str, index: int, size: int, slices: int, seed: int) -> Drawn:
    """A vendor's volume by its place among the vendor's volumes, before the device has looked at it."""
    vendor = VENDORS[name]
    start = int(np.random.default_rng([seed, vendor.first, 50]).integers(len(FLUIDS)))
    retina = make_retina(_rng(vendor, index, seed, 51), FLUIDS[(start + index) % len(FLUIDS)])
    return draw(retina, vendor.depth, size, slices, _rng(vendor, index, seed, 52))


def save_metaimage(path: Path, values: np.ndarray, spacing: Sequence[float]) -> None:
    """Writes an MHD header in millimetres, its values ``X Y Z`` uncompressed beside it as .raw, and their folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = path.with_suffix(".raw")
    header = {
        "ObjectType": "Image",
        "NDims": values.ndim,
        "BinaryData": True,
        "BinaryDataByteOrderMSB": False,
        "CompressedData": False,
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "0 0 0",
        "CenterOfRotation": "0 0 0",
        "ElementSpacing": " ".join(f"{side:.6g}" for side in spacing),
        "DimSize": " ".join(map(str, values.shape)),
        "ElementType": TYPES[values.dtype.name],
        "ElementDataFile": data.name,
    }
    path.write_text("".join(f"{key} = {value}\n" for key, value in header.items()), newline="\n")
    data.write_bytes(values.astype(values.dtype.newbyteorder("<")).tobytes(order="F"))


def _require_sound(volumes: int, size: int, slices: int, seed: int, vendors: list[str]) -> None:
    require_at_least(seed, size=(size, SMALLEST), slices=(slices, 3), volumes=(volumes, 1))
    if not vendors or len(set(vendors)) < len(vendors) or not set(vendors) <= set(VENDORS):
        raise ValueError(f"vendors must be one or several of {', '.join(VENDORS)}, each once, got {vendors}.")
    if len(vendors) > 1 and volumes > NUMBERED:
        raise ValueError(
            f"volumes must be at most {NUMBERED} of each of several vendors, got {volumes}: RETOUCH numbers them "
            "through, so that two would have one number. Make a phantom of a single vendor."
        )


def _write_case(case: Path, name: str, index: int, size: int, slices: int, seed: int) -> None:
    drawn, vendor = draw_volume(name, index, size, slices, seed), VENDORS[name]
    spacing = (FIELD / size, vendor.depth / size, FIELD / slices)
    save_metaimage(case / "oct.mhd", scan(drawn, vendor, _rng(vendor, index, seed, 53)), spacing)
    save_metaimage(case / "reference.mhd", drawn.label, spacing)


def _rng(vendor: Vendor, index: int, seed: int, part: int) -> np.random.Generator:
    return np.random.default_rng([seed, vendor.first, index, part])


def phantom_datalist(
    directory: str | Path, labeled: int = 3, split: int = 0, seed: int = 0, output: str | Path | None = None
) -> dict | None:
    """A datalist of a phantom, of all its vendors: a fifth of the volumes for validation, and as many for test.

    Raises:
        FileNotFoundError: when the folder is no phantom.
        ValueError: when there are too few volumes, or B-scans.
    """
    fifth = max(1, round(len(find_retouch(directory)) / 5))
    name = f"RETOUCH phantom {Path(directory).name}"
    return retouch_datalist(directory, "all", labeled, fifth, fifth, split, seed=seed, name=name, output=output)


PHANTOM = Phantom(make_retouch_phantom, phantom_datalist, CLASSES, "multiclass")
