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


def test_specks_are_refused_and_smooth_borders_are_not(tmp_path):
    smooth = ndimage.gaussian_filter(MASK.astype(float), 0.8).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "smooth.png")
    assert (MASK.T > 0)[read_mask(tmp_path / "smooth.png")].mean() > 0.7
    for values in (np.where(MASK, 255, 50), np.where(np.eye(64), 3, MASK)):
        Image.fromarray(values.astype(np.uint8)).save(tmp_path / "noisy.png")
        with pytest.raises(
            ValueError, match=r"noisy\.png: a mask must be 0 outside and high inside, got \d grey levels"
        ):
            read_mask(tmp_path / "noisy.png")


def test_images_are_refused_with_the_number_of_levels(tmp_path):
    Image.fromarray(np.arange(4096).reshape(64, 64).astype(np.uint8)).save(tmp_path / "image.png")
    with pytest.raises(ValueError, match=r"image\.png: .* got 256 grey levels, values between in \d\d% of it. Is this"):
        read_mask(tmp_path / "image.png")
