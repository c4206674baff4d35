"""Features whose channels are dropped: whole ones, each on its own, the others scaled."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from plain_views import draws, smooth

from common.views import Changes, FeatureDropout


def levels(*shapes):
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.rand(shape, generator=generator) + 0.5 for shape in shapes)


def dropped(rate, features, seed=0):
    return FeatureDropout(rate)(torch.zeros(2, 1, 4, 4), draws(seed)).perturb(features)


def test_the_image_and_its_label_stay():
    image = smooth((2, 1, 6, 6))
    viewed = FeatureDropout()(image, draws())
    assert viewed.image is image and viewed.change.of_label(image, None) == (image, None)
    assert isinstance(viewed.change, Changes) and FeatureDropout.needs.features


@pytest.mark.parametrize("rate", [0.2, 0.5, 0.75])
def test_whole_channels_are_dropped_and_the_others_scaled(rate):
    features = levels((3, 1200, 2, 3), (3, 1000, 2, 1, 2))
    found = dropped(rate, features)
    assert isinstance(found, tuple) and len(found) == 2
    kept = []
    for one, before in zip(found, features, strict=True):
        assert one.shape == before.shape and one.dtype == torch.float32
        ratio = (one / before).flatten(2)
        torch.testing.assert_close(ratio, ratio[..., :1].expand_as(ratio))  # a channel is one thing
        kept.append(ratio[..., 0])
        stays = ratio[..., 0] > 0
        torch.testing.assert_close(ratio[..., 0][stays], torch.full((int(stays.sum()),), 1 / (1 - rate)))
        assert (one.flatten(2)[~stays] == 0).all()
        shares = (~stays).float().mean(1)
        assert shares.tolist() == pytest.approx([rate] * 3, abs=0.05)  # in each image
        for a, b in ((0, 1), (1, 2), (0, 2)):  # which are not the same in all images
            assert (stays[a] & stays[b]).float().mean().item() == pytest.approx((1 - rate) ** 2, abs=0.05)
    both = (kept[0][:, :1000] > 0) & (kept[1] > 0)  # nor at all levels
    assert both.float().mean().item() == pytest.approx((1 - rate) ** 2, abs=0.05)


def test_the_mean_stays():
    (found,) = dropped(0.5, (torch.ones(4, 5000, 1, 1),))
    assert found.mean().item() == pytest.approx(1, abs=0.03)


def test_the_usual_rate_and_none():
    features = (torch.ones(1, 2000, 1, 1),)
    assert FeatureDropout().rate == 0.5
    (usual,) = FeatureDropout()(torch.zeros(1, 1, 4, 4), draws()).perturb(features)
    assert set(usual.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(dropped(0, features)[0], features[0])


def test_each_pass_has_its_own_channels_and_a_seed_its_own():
    features = levels((2, 30, 2, 2))
    draw = draws(3)
    view = FeatureDropout()
    first, second = (view(torch.zeros(2, 1, 4, 4), draw).perturb(features)[0] for _ in range(2))
    assert torch.equal(first, dropped(0.5, features, 3)[0]) and not torch.equal(first, second)
    assert not torch.equal(first, dropped(0.5, features, 4)[0])


def test_precision_and_gradients():
    half = torch.ones(2, 20, 3, 3, dtype=torch.bfloat16, requires_grad=True)
    (found,) = dropped(0.5, (half,))
    assert found.dtype == torch.bfloat16
    found.float().sum().backward()
    np.testing.assert_array_equal(half.grad.float().numpy(), found.detach().float().numpy())  # 0 or 2 for ones


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5])
def test_other_rates_are_refused(rate):
    with pytest.raises(ValueError, match=rf"rate must be in \[0, 1\), got {rate}"):
        FeatureDropout(rate)
