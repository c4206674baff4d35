"""The latent of an image: means of the bottleneck over patches of fixed regions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from common.methods.latents import grid_patches, image_latent
from common.networks import BasicUNet


class Means(nn.Module):
    """A 'bottleneck' with the patch itself and its square, so that means are known."""

    def forward(self, x, bottleneck_only):
        assert bottleneck_only
        assert not torch.is_grad_enabled()
        return torch.cat([x, x * x], dim=1)


def test_equals_means_over_the_patches():
    image = torch.from_numpy(np.random.default_rng(0).random((1, 40, 36, 32)).astype(np.float32) + 1)
    latent = image_latent(Means(), image, (16, 16, 16), grid=2)
    expected = []
    # centres at a quarter and three quarters of each side
    for x in (10 - 8, 30 - 8):
        for y in (9 - 8, 27 - 8):
            for z in (0, 16):
                patch = image[0, x : x + 16, y : y + 16, z : z + 16].numpy().astype(np.float64)
                expected += [patch.mean(), (patch**2).mean()]
    np.testing.assert_allclose(latent.numpy(), expected, rtol=1e-5)


def test_regions_follow_the_brain_not_the_volume():
    brain = torch.from_numpy(np.random.default_rng(1).random((1, 40, 36, 32)).astype(np.float32) + 1)
    around = torch.zeros(1, 80, 70, 60)
    around[:, 20:60, 10:46, 20:52] = brain
    moved = torch.zeros(1, 80, 70, 60)
    moved[:, 25:65, 20:56, 14:46] = brain
    one, other = (image_latent(Means(), image, (16, 16, 16)) for image in (around, moved))
    assert torch.equal(one, other)


@pytest.mark.parametrize("shape", [(12, 40, 10), (16, 16, 16)])
def test_images_smaller_than_a_patch(shape):
    patches = grid_patches(torch.ones(1, *shape), (16, 16, 16), 2)
    assert len(patches) == 8
    assert all(patch.shape == (1, 16, 16, 16) for patch in patches)
    assert patches[0].sum() == np.prod(np.minimum(shape, 16))


def test_an_empty_image_has_a_latent():
    assert torch.isfinite(image_latent(Means(), torch.zeros(1, 32, 32, 32), (16, 16, 16))).all()


def test_size_with_the_network_of_the_bundle():
    network = BasicUNet(3, 1, 1, (4, 4, 4, 4, 8, 4), norm="batch").train()
    latent = image_latent(network, torch.rand(1, 40, 36, 32), (16, 16, 16), grid=2)
    assert latent.shape == (8 * 8,)
    assert latent.dtype == torch.float32
    assert not network.training
