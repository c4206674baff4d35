"""What was seen of several batches in one pass, for each of them."""

from __future__ import annotations

import pytest
import torch

from common.networks import Seen


def test_each_part_gets_its_images_of_every_field():
    outputs, bottleneck = torch.rand(5, 2, 8, 8), torch.rand(5, 7, 2, 2)
    levels = torch.rand(5, 6, 2, 2), torch.rand(5, 4, 4, 4)
    one, other, last = Seen(outputs, None, bottleneck, levels).split([2, 0, 3])
    for part, rows in ((one, slice(0, 2)), (other, slice(2, 2)), (last, slice(2, 5))):
        assert torch.equal(part.outputs, outputs[rows]) and torch.equal(part.bottleneck, bottleneck[rows])
        assert part.features is None
        assert [level.shape for level in part.levels] == [level[rows].shape for level in levels]
        assert all(torch.equal(mine, whole[rows]) for mine, whole in zip(part.levels, levels, strict=True))


def test_what_nobody_asked_for_stays_none():
    for part in Seen(torch.rand(3, 1, 4, 4)).split([1, 2]):
        assert part[1:] == (None, None, None)


def test_sizes_must_be_the_images():
    with pytest.raises(RuntimeError, match="split_sizes"):
        Seen(torch.rand(3, 1, 4, 4)).split([1, 1])
