"""Which values are those of a mask; see also the tests of the readers."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from common.data.readers import read_mask

MASK = np.zeros((64, 64), np.uint8)
MASK[20:41, 13:47] = 255


def test_what_a_jpeg_leaves_is_refused_with_the_number_of_levels(tmp_path):
    Image.fromarray(MASK).save(tmp_path / "m.jpg", quality=75)
    np.testing.assert_array_equal(read_mask(tmp_path / "m.jpg"), MASK.T > 0)
    with Image.open(tmp_path / "m.jpg") as picture:
        picture.save(tmp_path / "m.png")
        levels = len(np.unique(picture))
    assert levels > 10
    with pytest.raises(
        ValueError, match=rf"m\.png: .* got {levels} grey levels, and \d+ faint .* below 12\d(\.5)? to 0, .* as PNG"
    ):
        read_mask(tmp_path / "m.png")


# the waves that Lanczos leaves are noise, all of which would be inside
WAYS = [way for way in Image.Resampling if way != Image.Resampling.LANCZOS]
NUMBERS = np.zeros((64, 64), np.uint8)
for place, number in enumerate((3, 7, 20, 40, 41)):
    NUMBERS[4 : 4 + 2 * place + 4, 12 * place : 12 * place + 9] = number


@pytest.mark.parametrize(
    "values",
    [
        ndimage.gaussian_filter(MASK.astype(float), 0.8),
        ndimage.gaussian_filter(MASK.astype(float), 1.5),
        *(np.asarray(Image.fromarray(MASK[::4, ::4]).resize((64, 64), way)) for way in WAYS),
        NUMBERS,
        np.where(np.eye(64), 3, MASK),
    ],
)
def test_smooth_borders_and_numbers_of_regions_are_no_noise(tmp_path, values):
    Image.fromarray(values.astype(np.uint8)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), values.astype(np.uint8).T > 0)


def test_images_are_refused_with_the_number_of_levels(tmp_path):
    Image.fromarray(np.arange(4096).reshape(64, 64).astype(np.uint8)).save(tmp_path / "image.png")
    with pytest.raises(ValueError, match=r"image\.png: .* got 256 grey levels, values between in \d\d% of it. Is this"):
        read_mask(tmp_path / "image.png")
