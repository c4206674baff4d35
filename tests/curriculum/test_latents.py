"""The latent of an image: means of the bottleneck over patches of fixed regions."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from common.curriculum import image_latent
from common.curriculum.latents import grid_patches
from common.networks import BasicUNet


class Means(nn.Module):
    """A 'bottleneck' with the patch itself and its square, so that means are known."""

    def forward(self, x, bottleneck_only):
        assert bottleneck_only
        assert not torch.is_grad_enabled()
        return torch.cat([x, x * x], dim=1)


def random_image(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).random((1, *shape)).astype(np.float32) + 1)


def plain_latent(image, corners, side=16):
    """Mean and mean square of cubes (or squares), in NumPy float64."""
    expected = []
    for corner in product(*corners):
        patch = image[0].numpy().astype(np.float64)[tuple(slice(a, a + side) for a in corner)]
        expected += [patch.mean(), (patch**2).mean()]
    return expected


def test_equals_means_over_the_patches():
    image = random_image(0, 40, 36, 32)
    latent = image_latent(Means(), image, (16, 16, 16), grid=2)
    # centres at a quarter and three quarters of each side
    corners = [(10 - 8, 30 - 8), (9 - 8, 27 - 8), (0, 16)]
    np.testing.assert_allclose(latent.numpy(), plain_latent(image, corners), rtol=1e-5)


def test_equals_means_over_the_patches_in_2d():
    image = random_image(0, 60, 48)
    latent = image_latent(Means(), image, (16, 16), grid=3)
    corners = [(10 - 8, 30 - 8, 50 - 8), (0, 24 - 8, 40 - 8)]  # centres at 1, 3 and 5 sixths
    np.testing.assert_allclose(latent.numpy(), plain_latent(image, corners), rtol=1e-5)


def test_equals_means_over_slices():
    """With 1 as the patch's last side the network gets images of two axes, and the grid goes through the slices."""

    class Flat(Means):
        def forward(self, x, bottleneck_only):
            assert x.shape == (8, 1, 16, 16)
            return super().forward(x, bottleneck_only)

    image = random_image(3, 40, 36, 9)
    latent = image_latent(Flat(), image, (16, 16, 1), grid=2).numpy()
    expected = []
    for x, y, z in product((10 - 8, 30 - 8), (9 - 8, 27 - 8), (2, 6)):  # 9 / 4 - 1 / 2 and 27 / 4 - 1 / 2
        patch = image[0, x : x + 16, y : y + 16, z].numpy().astype(np.float64)
        expected += [patch.mean(), (patch**2).mean()]
    np.testing.assert_allclose(latent, expected, rtol=1e-5)
    network = BasicUNet(2, 1, 1, (4, 4, 4, 4, 8, 4), norm="batch")
    assert image_latent(network, image, (32, 32, 1), grid=1).shape == (8,)


@pytest.mark.parametrize("shape", [(32, 48), (16, 32, 16)])
def test_a_whole_image_is_one_patch(shape):
    image = random_image(2, *shape)
    image[:, :3] = 0
    latent = image_latent(Means(), image, shape, grid=1).numpy()
    np.testing.assert_allclose(latent, [image.mean(), image.square().mean()], rtol=1e-5)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_regions_follow_the_brain_not_the_volume(dimensions):
    brain = random_image(1, *(40, 36, 32)[:dimensions])
    found = []
    for starts in ((20, 10, 20), (25, 20, 14)):
        around = torch.zeros(1, *(80, 70, 60)[:dimensions])
        around[(0, *(slice(a, a + n) for a, n in zip(starts, brain.shape[1:], strict=False)))] = brain[0]
        found.append(image_latent(Means(), around, (16,) * dimensions))
    assert torch.equal(*found)
    assert len(found[0]) == 2 * 2**dimensions


@pytest.mark.parametrize("shape", [(12, 40, 10), (16, 16, 16), (12, 40), (9, 7)])
def test_images_smaller_than_a_patch(shape):
    """As many patches as of any other image, since latents are compared."""
    side = (16,) * len(shape)
    patches = grid_patches(torch.ones(1, *shape), side, 2)
    assert len(patches) == 2 ** len(shape)
    assert all(patch.shape == (1, *side) for patch in patches)
    assert patches[0].sum() == np.prod(np.minimum(shape, 16))
    inside = patches[0][0].nonzero()
    for axis, n in enumerate(shape):
        before = max(0, 16 - n) // 2
        assert inside[:, axis].min() == before and inside[:, axis].max() == before + min(n, 16) - 1


@pytest.mark.parametrize("dimensions", [2, 3])
def test_an_empty_image_has_a_latent(dimensions):
    image = torch.zeros(1, *[32] * dimensions)
    assert torch.isfinite(image_latent(Means(), image, (16,) * dimensions)).all()


@pytest.mark.parametrize("dimensions", [2, 3])
def test_size_with_the_network_of_the_bundle(dimensions):
    network = BasicUNet(dimensions, 1, 1, (4, 4, 4, 4, 8, 4), norm="batch").train()
    latent = image_latent(network, torch.rand(1, *(40, 36, 32)[:dimensions]), (16,) * dimensions, grid=2)
    assert latent.shape == (2**dimensions * 8,)
    assert latent.dtype == torch.float32
    assert not network.training and not latent.requires_grad
