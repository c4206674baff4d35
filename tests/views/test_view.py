"""Views in a row and side by side."""

from __future__ import annotations

import itertools

import pytest
import torch
from methods.plain_terms import Pixels, losses, random_batch
from plain_views import BRAIN, brains, draws, smooth

from common.methods import FixMatch
from common.views import (
    Affine,
    Chain,
    CutOut,
    FeatureDropout,
    Flip,
    ImageQuality,
    IntensityJitter,
    Several,
    Strong,
    Values,
    Weak,
)
from common.views.strong import INTENSITY

SHAPES = [(4, 1, 24, 20), (4, 1, 12, 14, 10)]
UNIT = Values()


@pytest.mark.parametrize("view", [Flip(prob=0.0), Affine(prob=0.0), Chain([]), Chain([Flip(prob=0.0)])])
def test_an_image_that_happened_to_stay_is_learnt_from(labels, view):
    """The weak view's pass has no gradients; that of a strong view that moved nothing must have them."""
    batch, network = random_batch(labels), Pixels(3, labels.num_outputs)
    terms, _ = losses(FixMatch(labels, 0.6, view), network, batch)
    (gradient,) = torch.autograd.grad(terms["unsupervised"], network.final_conv.weight)
    assert gradient.abs().sum() > 0


def test_the_weak_view_is_the_image_itself():
    image = smooth(SHAPES[0])
    assert Weak()(image, draws()).image is image
    assert Chain([Weak()])(image, draws()).image is image


@pytest.mark.parametrize("shape", SHAPES)
def test_several_views_are_those_of_each_in_turn(shape):
    image, views = smooth(shape), [Affine(rotate=20), Chain([IntensityJitter(), CutOut(label="ignore")])]
    viewed, draw = Several(views)(image, draws(3)), draws(3)
    apart = [view(image, draw) for view in views]
    assert torch.equal(viewed.image, torch.cat([one.image for one in apart]))
    for weight in (None, torch.rand(len(image), 1, *shape[2:])):
        label, found = viewed.change.of_label(image, weight)
        expected = [one.change.of_label(image, weight) for one in apart]
        assert torch.equal(label, torch.cat([one for one, _ in expected]))
        weights = [torch.ones(len(image), 1, *shape[2:]) if one is None else one for _, one in expected]
        assert torch.equal(found, torch.cat(weights))
    assert torch.equal(viewed.change.of_image(image)[: len(image)], apart[0].change.of_image(image))
    label, weight = Several([Flip(prob=1.0), Weak()])(image, draws()).change.of_label(image, None)
    assert weight is None and torch.equal(label, torch.cat([image.flip(2), image]))


def test_several_views_change_images_alone():
    with pytest.raises(ValueError, match="one or more that change images alone, got FeatureDropout"):
        Several([Weak(), FeatureDropout()])
    with pytest.raises(ValueError, match="got none"):
        Several([])


VIEWS = [
    *[Strong(1, cutout=0, names=[name]) for name in INTENSITY if name != "noise"],
    Strong(3, geometry=False, names=[name for name in ("identity", *INTENSITY) if name != "noise"]),
    IntensityJitter(noise=0.0),
]


@pytest.mark.parametrize(("view", "shape"), itertools.product(VIEWS, SHAPES))
def test_all_images_at_once_as_on_a_gpu(monkeypatch, view, shape):
    """A GPU makes an operation on all images and takes those of some; what comes out is the same."""
    for image, values in ((smooth(shape), UNIT), (brains(shape), BRAIN)):
        expected = view(image, draws(2), values).image
        with monkeypatch.context() as patch:
            patch.setattr("common.views.intensity.all_at_once", lambda image: True)
            torch.testing.assert_close(view(image, draws(2), values).image, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_image_quality_of_all_images_at_once(monkeypatch, shape):
    """Up to the noise, of which whole images are drawn."""
    image = brains(shape)
    monkeypatch.setattr("common.views.intensity.noisy", lambda x, s, draw: x + s.view(-1, *[1] * (x.ndim - 1)))
    for seed in range(4):
        expected = ImageQuality(1.0, 1.0)(image, draws(seed), BRAIN).image
        with monkeypatch.context() as patch:
            patch.setattr("common.views.intensity.all_at_once", lambda image: True)
            found = ImageQuality(1.0, 1.0)(image, draws(seed), BRAIN).image
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert (expected - image).abs().amax(tuple(range(1, image.ndim))).min() > 0
