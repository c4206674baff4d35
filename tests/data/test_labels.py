"""What labels' files hold, and whether a label is its image's; see also the tests of LoadLabeld."""

from __future__ import annotations

import pytest

from common.data.labels import same_shape_up_to_scale


@pytest.mark.parametrize(
    ("size", "other", "same"),
    [
        ((2048, 2048), (1024, 1024), True),
        ((511, 400), (256, 200), True),
        ((100, 81), (200, 161), True),
        ((512, 400), (400, 512), False),
        ((512, 512), (512, 500), False),
        ((64, 64), (1024, 900), False),
    ],
)
def test_same_shape_up_to_scale(size, other, same):
    assert same_shape_up_to_scale(size, other) is same
    assert same_shape_up_to_scale(other, size) is same
