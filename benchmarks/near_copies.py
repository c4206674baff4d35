"""How alike images of different patients are, and copies of images: what `python -m common check` tells near copies by.

    python benchmarks/near_copies.py DATA/child_lungs "images/*.jpg" --patients DATA/child_lungs/images.csv
    python benchmarks/near_copies.py DATA/cxr_lungs "images/*.png" --patients DATA/cxr_lungs/images.csv
    python benchmarks/near_copies.py DATA/acdc "images/*.png" --name "(patient(?!076)[0-9]+)"
    python benchmarks/near_copies.py DATA/lgg64 "*/*_[0-9]*[0-9].tif" --name "([^/]+)/[^/]+$"
    python benchmarks/near_copies.py DATA/hippocampus "imagesTr/*.nii.gz" --name "([^/]+)$" --copies 12
    python benchmarks/near_copies.py DATA/ms_lesions "*/*flair.nii.gz" --name "(patient[0-9]+)" --copies 11

Every image is searched in those of all other patients, and copies of some images in all images. It prints the highest
likeness of different patients, and of each kind of copy the lowest likeness and the share that is found; a copy whose
image is not among the two most alike at a glance has a likeness of 0.
"""

from __future__ import annotations

import argparse
import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from common.data.files import file_stem
from common.data.likeness import likeness, nearest, thumbnail
from common.data.near_duplicates import COPY
from common.data.patients import read_patients
from common.data.readers import read_image
from common.data.volumes import is_volume, read_volume

FOLDS = 4  # parts of the patients, each of which is searched in the others
Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def eight_bits(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As JPEG, a volume as whole numbers."""
    whole = (scaled(image) * 255).round().astype(np.uint8)
    if image.ndim == 3:
        return whole.astype(np.float32)
    buffer = io.BytesIO()
    Image.fromarray(whole).save(buffer, "JPEG", quality=75)
    return np.asarray(Image.open(buffer)).astype(np.float32)


def scaled(image: np.ndarray) -> np.ndarray:
    return (image - image.min()) / (image.max() - image.min())


def cropped(image: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Without a share of each axis at its begin and end."""
    return image[tuple(slice(round(a * n), n - round(b * n)) for (a, b), n in zip(shares, image.shape, strict=True))]


def resized(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return ndimage.zoom(ndimage.gaussian_filter(image, 0.7), 0.5, order=1)


COPIES: dict[str, Change] = {
    "equal": lambda image, rng: image,
    "JPEG or 8 bits": eight_bits,
    "half of the size": resized,
    "3 % off each side": lambda image, rng: cropped(image, np.full((image.ndim, 2), 0.03)),
    "5 % off each side": lambda image, rng: cropped(image, np.full((image.ndim, 2), 0.05)),
    "up to 6 % off": lambda image, rng: cropped(image, rng.random((image.ndim, 2)) * 0.06),
    "flipped, gamma 0.6": lambda image, rng: scaled(image)[::-1] ** 0.6 * 60000,
}


def read(file: str) -> np.ndarray:
    return np.asarray(read_volume(file).dataobj) if is_volume(file) else read_image(file)


def others(thumbnails: np.ndarray, patients: np.ndarray) -> float:
    """The highest likeness of two images of different patients."""
    number = np.unique(patients, return_inverse=True)[1]
    highest = 0.0
    for fold in range(FOLDS):
        asked = np.flatnonzero(number % FOLDS == fold)
        allowed = np.broadcast_to((number % FOLDS != fold)[:, None], (len(number), len(asked)))
        rows, columns, flips = nearest(thumbnails, thumbnails[asked], allowed)
        highest = max(highest, float(likeness(thumbnails[rows], thumbnails[asked[columns]], flips).max()))
    return highest


def copies(thumbnails: np.ndarray, changed: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """How alike copies are to the images that they are of."""
    rows, columns, flips = nearest(thumbnails, changed, np.ones((len(thumbnails), len(changed)), bool))
    own = rows == chosen[columns]
    found = np.zeros(len(changed), np.float32)
    found[columns[own]] = likeness(thumbnails[rows[own]], changed[columns[own]], flips[own])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("pattern", help="of the images' files in the folder")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--patients", help="CSV with a column image and a column patient")
    who.add_argument("--name", help="expression whose group is the patient, of a file's path; others are left out")
    parser.add_argument("--copies", type=int, default=40, help="images that are copied")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    files = sorted(map(str, Path(arguments.folder).glob(arguments.pattern)))
    table = read_patients(arguments.patients) if arguments.patients else {}
    found = [(file, re.search(arguments.name, file)) for file in files if not table]
    named = [(f, table[file_stem(f)]) for f in files] if table else [(f, match[1]) for f, match in found if match]
    chosen = np.sort(rng.choice(len(named), min(arguments.copies, len(named)), replace=False))
    thumbnails, changed, skipped = [], {name: [] for name in COPIES}, []
    for place, (file, _) in enumerate(named):
        try:
            image = read(file)
        except ValueError:  # of one value everywhere, as the ends of a head
            skipped.append(place)
            continue
        thumbnails.append(thumbnail(image))
        if place in chosen:
            for name, change in COPIES.items():
                changed[name].append(thumbnail(change(image, rng)))
    kept = np.setdiff1d(np.arange(len(named)), skipped)
    chosen = np.searchsorted(kept, np.setdiff1d(chosen, skipped))
    patients, small = np.array([named[place][1] for place in kept]), np.stack(thumbnails)
    cells = [f"{others(small, patients):.2f}"]
    for images in changed.values():
        alike = copies(small, np.stack(images), chosen)
        cells.append(f"{alike.min():.2f}, {(alike >= COPY).mean():.0%}")
    print("| images | patients | different patients | " + " | ".join(COPIES) + " |")
    print(f"| {len(small)} | {len(set(patients))} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
