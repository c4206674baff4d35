"""What check sums, fingerprints and the search for copies cost when a data set is read for the first time.

    python benchmarks/integrity.py [--images 100] [--volumes 3] [--rounds 3]

Images are decoded, preprocessed and cached with the package's checks and without any, in turns. Files per second are of
the process's own time on one thread, the best of the rounds. ``copies`` is what `python -m common check` takes to
search the last fifth of the images, as a test part, in all others, as a share of the reading with checks.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import itk
import nibabel
import numpy as np
import pandas as pd
import torch
from monai.transforms import Compose, NormalizeIntensityd, Orientationd, Resized, ScaleIntensityRangePercentilesd
from PIL import Image
from scipy import ndimage

from common.data import DecodedImages
from common.data.near_duplicates import Seen, near_copies
from common.transforms import LoadRadiographd, LoadVolumed

SHAPE = (160, 192, 96)
FLAT = Compose(
    [
        LoadRadiographd("image"),
        Resized("image", (256, 256)),
        ScaleIntensityRangePercentilesd("image", 1, 99, 0, 1, True),
    ]
)
DEEP = Compose(
    [
        LoadVolumed("image"),
        Orientationd("image", axcodes="RAS", labels=None),
        NormalizeIntensityd("image", nonzero=True),
    ]
)


def smooth(shape: tuple[int, ...]) -> np.ndarray:
    """Noise like an image's, 12 bits, with zeros around."""
    rng = np.random.default_rng(0)
    coarse = ndimage.zoom(rng.random([side // 8 + 1 for side in shape]), 8, order=1)[tuple(slice(s) for s in shape)]
    place = np.stack(np.meshgrid(*[np.linspace(-1, 1, side) for side in shape], indexing="ij"))
    return ((2000 * coarse + rng.normal(0, 40, shape)).clip(1, 4095) * ((place**2).sum(0) < 0.9)).astype(np.uint16)


def write_picture(path: Path, values: np.ndarray) -> None:
    Image.fromarray((values // 16).astype(np.uint8)).save(path)


def write_nifti(path: Path, values: np.ndarray) -> None:
    nibabel.save(nibabel.Nifti1Image(values.astype(np.int16), np.eye(4)), path)


def write_itk(path: Path, values: np.ndarray) -> None:
    itk.imwrite(itk.image_from_array(np.ascontiguousarray(values.T)), str(path), compression="packed" in path.name)


CASES: list[tuple[str, Callable, Compose, tuple[int, ...]]] = [
    ("256.png", write_picture, FLAT, (256, 256)),
    ("512.png", write_picture, FLAT, (512, 512)),
    (".nii.gz", write_nifti, DEEP, SHAPE),
    (".nii", write_nifti, DEEP, SHAPE),
    ("packed.mha", write_itk, DEEP, SHAPE),
    ("packed.nrrd", write_itk, DEEP, SHAPE),
    ("plain.mha", write_itk, DEEP, SHAPE),
]


def open_picture(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        picture.load()
        return picture.copy()


def without_checks() -> ExitStack:
    """Reads files as the libraries do when they are left to themselves, and knows them by their path alone."""
    stack = ExitStack()
    for name, plain in (
        ("decoders.load_nifti", nibabel.load),
        ("volumes.load_nifti", nibabel.load),
        ("decoders._open_picture", open_picture),
        ("itk_files.check_metaimage", lambda path: None),
        ("itk_files.check_nrrd", lambda path: None),
        ("fingerprints._digest", lambda path: ""),
    ):
        stack.enter_context(mock.patch(f"common.data.{name}", plain))
    return stack


def seconds(items: list[dict], transform: Compose, cache: Path) -> float:
    start = time.process_time()
    DecodedImages(items, transform, cache, progress=False)
    return time.process_time() - start


def search(items: list[dict], transform: Compose) -> float:
    """Seconds for the thumbnails of all images and the likeness of pairs; that they are read is not counted."""
    spent, seen = 0.0, []
    for index, item in enumerate(items):
        image = transform.transforms[0](item)["image"][0].numpy()
        start = time.process_time()
        part = "test" if index >= len(items) * 4 // 5 else "unlabeled"
        seen.append(Seen.of({**item, "patient": index}, part, bytes(f"{index}", "ascii"), image))
        spent += time.process_time() - start
    start = time.process_time()
    near_copies(seen)
    return spent + time.process_time() - start


def measure(case: tuple, number: int, rounds: int, folder: Path) -> dict:
    name, write, transform, shape = case
    values, items = smooth(shape), []
    for index in range(number):
        path = folder / f"{index}{name}"
        write(path, np.roll(values, index))
        items.append({"image": str(path)})
    checked, plain = [], []
    for turn in range(rounds):
        checked.append(seconds(items, transform, folder / f"checked{turn}"))
        with without_checks():
            plain.append(seconds(items, transform, folder / f"plain{turn}"))
    rates = {"without /s": number / min(plain), "with /s": number / min(checked)}
    copies = min(search(items, transform) for _ in range(rounds)) / min(checked)
    return {
        "files": f"{number} {name}",
        **rates,
        "longer": f"{min(checked) / min(plain) - 1:+.0%}",
        "copies": f"{copies:.0%}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--volumes", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            number = arguments.images if case[2] is FLAT else arguments.volumes
            rows.append(measure(case, number, arguments.rounds, Path(folder)))
    print(pd.DataFrame(rows).to_string(index=False, float_format="%.1f"))


if __name__ == "__main__":
    main()
