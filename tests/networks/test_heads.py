"""Heads beside the network's own: their kind, their first weights, and that they leave other draws alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from common.networks import pixelwise_head


@pytest.mark.parametrize("convolution", [nn.Conv2d, nn.Conv3d])
def test_a_head_is_of_the_other_s_kind_with_weights_of_its_seed(convolution):
    like, state = convolution(3, 2, 1).double(), torch.get_rng_state()
    head = pixelwise_head(like, 6, 5, torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), state)
    assert type(head) is convolution and head.weight.shape == (5, 6, *[1] * (head.weight.ndim - 2))
    assert (head.bias == 0).all() and head.weight.abs().max() <= math.sqrt(6 / 11)  # Xavier's bound
    torch.rand(3)
    twin = pixelwise_head(like, 6, 5, torch.Generator().manual_seed(1))
    other = pixelwise_head(like, 6, 5, torch.Generator().manual_seed(2))
    assert torch.equal(twin.weight, head.weight) and not torch.equal(other.weight, head.weight)


def test_one_generator_gives_each_head_weights_of_its_own():
    draw = torch.Generator().manual_seed(0)
    one, other = (pixelwise_head(nn.Conv2d(1, 1, 1), 4, 4, draw) for _ in range(2))
    assert not torch.equal(one.weight, other.weight)
