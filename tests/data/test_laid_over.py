"""What was cropped is found, by equal images of which one is sampled elsewhere."""

from __future__ import annotations

import pytest
import torch
from scipy import ndimage

from common.data.laid_over import halved, laid_over, sampled, smooth, tangents


def images(axes, side=32):
    noise = torch.randn(2, *[side] * axes, generator=torch.Generator().manual_seed(0)).numpy()
    return torch.from_numpy(ndimage.gaussian_filter(noise, (0, *[2] * axes))) * 10


@pytest.mark.parametrize("axes", [2, 3])
def test_scales_and_shifts_are_found(axes):
    ones = images(axes)
    place = torch.tensor([[0.94, 0.04], [0.97, -0.03], [1.0, 0.02]])[:axes].expand(2, axes, 2)
    others, inside = sampled(ones, place)
    start = torch.tensor([1.0, 0.0]).expand(2, axes, 2)
    found = laid_over(ones, others, start, 10)
    assert torch.allclose(found, place, atol=0.01)
    assert 0.8 < inside.mean() < 1


def test_sampling_where_the_pixels_are_changes_nothing():
    ones = images(2)
    there, inside = sampled(ones, torch.tensor([1.0, 0.0]).expand(2, 2, 2))
    assert torch.allclose(there, ones, atol=1e-5)
    assert inside[:, 1:-1, 1:-1].all()
    moved, inside = sampled(ones, torch.tensor([[1.0, 4 / 16], [1.0, 0.0]]).expand(2, 2, 2))  # by 4 of 32 pixels
    assert torch.allclose(moved[:, :-4], ones[:, 4:], atol=1e-5)
    assert not inside[:, -4:].any()


def test_tangents_are_differences():
    ones = images(2)
    scaled, shifted, *_ = tangents(ones)[0]
    pixel = 1 / 16  # of 32 from -1 to 1
    before, after = (sampled(ones, torch.tensor([[1.0, to], [1.0, 0.0]]).expand(2, 2, 2))[0] for to in (-pixel, pixel))
    assert torch.allclose((after - before)[0, 1:-1] / (2 * pixel), shifted[1:-1], atol=1e-3)
    place = (torch.arange(32) + 0.5) / 16 - 1
    assert torch.allclose(scaled, shifted * place[:, None])


def test_means():
    ones = torch.arange(16.0).reshape(1, 4, 4)
    assert halved(ones).tolist() == [[[2.5, 4.5], [10.5, 12.5]]]
    assert smooth(ones, 3)[0, 1, 1] == ones[0, :3, :3].mean()
    assert smooth(ones, 3)[0, 0, 0] == ones[0, :2, :2].mean()
    assert smooth(torch.ones(1, 5, 5, 5), 7).allclose(torch.ones(1))
