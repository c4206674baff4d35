"""Copies are alike whatever became of them, and other images are not."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from common.data.likeness import likeness, nearest, thumbnail
from common.data.near_duplicates import COPY
from common.data.patients import read_patients

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "child_lungs"


def invented(seed, shape=(150, 130)):
    """Something with details of several sizes."""
    rng = np.random.default_rng(seed)
    image = sum(ndimage.gaussian_filter(rng.normal(size=shape), size) * size for size in (2, 4, 8))
    image = (image - image.min()) / (image.max() - image.min())
    return (image * 255).round().astype(np.float32)


def jpeg(image):
    buffer = io.BytesIO()
    Image.fromarray(image.astype(np.uint8)).save(buffer, "JPEG", quality=70)
    return np.asarray(Image.open(buffer)).astype(np.float32)


def resized(image, factor):
    return ndimage.zoom(image, factor, order=1)


COPIES = {
    "equal": lambda image: image,
    "jpeg": jpeg,
    "smaller": lambda image: resized(image, 0.6),
    "larger, another shape": lambda image: resized(image, (1.5, 1.1)),
    "16 bit, brighter": lambda image: (image / 255) ** 0.7 * 60000,
    "cropped": lambda image: image[5:-5, 4:-4],
    "cropped at one side": lambda image: image[:-8],
    "flipped": lambda image: image[::-1],
    "upside down": lambda image: image[:, ::-1],
    "turned": lambda image: image[::-1, ::-1],
    "all": lambda image: jpeg(resized(image, 0.8))[3:, -2::-1],
    "transposed in memory": np.asfortranarray,
}
VOLUMES = {
    "equal": lambda volume: volume,
    "smaller": lambda volume: resized(volume, 0.8),
    "cropped": lambda volume: volume[2:, 1:-1, :-1],
    "flipped": lambda volume: volume[:, ::-1, ::-1],
    "brighter": lambda volume: (volume / 255) ** 0.7 * 1000 - 20,
}


@pytest.fixture(scope="module")
def pictures():
    return np.stack([thumbnail(invented(seed)) for seed in range(30)])


@pytest.fixture(scope="module")
def volumes():
    return np.stack([thumbnail(invented(seed, (40, 44, 36))) for seed in range(6)])


def compared(ones, others):
    """The nearest of each other image, and how alike they are."""
    rows, columns, flips = nearest(ones, others, np.ones((len(ones), len(others)), bool), count=1)
    assert columns.tolist() == list(range(len(others)))
    return rows, likeness(ones[rows], others, flips)


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_of_a_picture(pictures, name):
    copies = np.stack([thumbnail(COPIES[name](invented(seed))) for seed in range(4)])
    rows, alike = compared(pictures, copies)
    assert rows.tolist() == list(range(4))
    assert alike.min() > COPY
    rows, alike = compared(np.concatenate([pictures[4:], copies]), pictures[:4])  # the copy is searched
    assert rows.tolist() == [26, 27, 28, 29]
    assert alike.min() > COPY


@pytest.mark.parametrize("name", VOLUMES)
def test_a_copy_of_a_volume(volumes, name):
    copies = np.stack([thumbnail(VOLUMES[name](invented(seed, (40, 44, 36)))) for seed in range(2)])
    rows, alike = compared(volumes, copies)
    assert rows.tolist() == [0, 1]
    assert alike.min() > COPY


def test_others_are_not_alike(pictures, volumes):
    for images in (pictures, volumes):
        half = len(images) // 2
        assert compared(images[:half], images[half:])[1].max() < 0.7


def test_equal_images_are_as_alike_as_can_be(pictures):
    assert compared(pictures[:3], pictures[:3])[1] == pytest.approx(np.ones(3), abs=1e-3)


def test_a_shape_in_common_is_not_enough():
    """As of two heads: an outline that is the same, and other things in it."""
    outline = np.hypot(*np.meshgrid(np.linspace(-1.2, 1.2, 130), np.linspace(-1.2, 1.2, 150))) < 1
    images = np.stack([thumbnail(outline * (100 + invented(seed))) for seed in range(10)])
    assert compared(images[:5], images[5:])[1].max() < 0.85


def test_what_is_not_allowed_is_not_found(pictures):
    allowed = np.zeros((30, 2), bool)
    allowed[[3, 4, 5], 1] = True
    rows, columns, flips = nearest(pictures, pictures[:2], allowed, count=5)
    assert sorted(rows) == [3, 4, 5]
    assert columns.tolist() == [1, 1, 1]
    assert flips.shape == (3,)
    assert [len(found) for found in nearest(pictures, pictures[:0], np.zeros((30, 0), bool))] == [0, 0, 0]


def test_many_are_compared_in_pieces(pictures, monkeypatch):
    from common.data import likeness as module

    rows, columns, flips = nearest(pictures, pictures[:8], ~np.eye(30, 8, dtype=bool))
    alike = likeness(pictures[rows], pictures[columns], flips)
    monkeypatch.setattr(module, "ASKED", 3)
    monkeypatch.setattr(module, "BATCH", {2: 5})
    pieces = nearest(pictures, pictures[:8], ~np.eye(30, 8, dtype=bool))
    order, other = np.lexsort((rows, columns)), np.lexsort(pieces[:2])
    for whole, piece in zip((rows, columns, flips), pieces, strict=True):
        assert whole[order].tolist() == piece[other].tolist()
    assert likeness(pictures[rows], pictures[columns], flips) == pytest.approx(alike, abs=1e-5)


def test_a_thumbnail_holds_means_from_0_to_1():
    image = np.zeros((128, 192), np.float32)
    image[0, 0], image[-1, -1] = 6, -6
    small = thumbnail(image)
    assert small.shape == (64, 64) and small.dtype == np.float16
    assert small[0, 0] == 1 and small[-1, -1] == 0 and small[5, 5] == 0.5
    assert thumbnail(np.zeros((5, 7, 9))).shape == (32, 32, 32)
    assert not thumbnail(np.full((9, 9), 70000)).any()


@pytest.mark.skipif(not REAL.is_dir(), reason="the real radiographs (../shared/data/child_lungs) are not here")
def test_real_radiographs():
    """Of different children, which are of one kind; and copies of some."""
    patients = read_patients(REAL / "images.csv")
    files = {patients[file.stem]: file for file in sorted((REAL / "images").iterdir())}  # one of each
    images = [np.asarray(Image.open(file).convert("L"), np.float32) for file in list(files.values())[:60]]
    real = np.stack([thumbnail(image) for image in images])
    assert compared(real[:40], real[40:])[1].max() < COPY - 0.05
    copies = np.stack([thumbnail(jpeg(resized(image, 0.5))[6:, ::-1]) for image in images[:8]])
    rows, alike = compared(real, copies)
    assert rows.tolist() == list(range(8))
    assert alike.min() > COPY
