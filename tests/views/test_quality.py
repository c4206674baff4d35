"""Image-quality augmentation: what each step does, that shapes and the outside stay, and that a seed fixes it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.transforms import RandAdjustContrast
from scipy import ndimage

from common.transforms import ImageQualityd
from common.transforms.image_quality import Contrast, RandEdgeEnhancement, RandLowResolutionAxis


@pytest.fixture
def brain():
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.normal(size=(1, 24, 20, 16)).astype(np.float32))
    image[:, :4], image[:, :, -3:] = 0, 0
    return image


def test_thick_slices_by_hand():
    image = torch.arange(8.0).reshape(1, 8, 1, 1).expand(1, 8, 2, 2)
    transform = RandLowResolutionAxis((2.0, 2.0)).set_random_state(seed=0)
    for _ in range(20):
        changed = transform(image)
        assert changed.shape == image.shape
        if not torch.equal(changed, image):  # the axis along which something changes
            break
    # means of two are 0.5, 2.5, 4.5, 6.5 at 0.5, 2.5, 4.5, 6.5; linear between, constant at the ends
    np.testing.assert_allclose(changed[0, :, 0, 0], [0.5, 1, 2, 3, 4, 5, 6, 6.5], atol=1e-6)


def test_low_resolution_is_along_one_axis_drawn_anew(brain):
    transform = RandLowResolutionAxis((4.0, 4.0)).set_random_state(seed=0)
    smooth = []
    for _ in range(12):
        changed = transform(brain)
        roughness = [changed.diff(dim=axis).abs().mean() / brain.diff(dim=axis).abs().mean() for axis in (1, 2, 3)]
        smooth.append(int(np.argmin(roughness)))
        assert min(roughness) < 0.4
    assert set(smooth) == {0, 1, 2}


def test_contrast_keeps_mean_and_spread_inside(brain):
    changed = Contrast(RandAdjustContrast(gamma=(2.0, 2.0), prob=1.0))(brain)
    inside = brain != 0
    assert changed[inside].mean().item() == pytest.approx(brain[inside].mean().item(), abs=1e-4)
    assert changed[inside].std().item() == pytest.approx(brain[inside].std().item(), abs=1e-4)
    assert (changed[~inside] == 0).all()
    assert (changed[inside] - brain[inside]).abs().max() > 0.1
    # a gamma keeps the order of grey values
    order = brain[inside].argsort()
    assert (changed[inside][order].diff() >= -1e-4).all()


def test_the_outside_stays_zero_and_the_rest_is_finite(brain):
    transform = ImageQualityd(resolution_prob=1.0, intensity_prob=1.0)
    for seed in range(30):
        transform.set_random_state(seed=seed)
        changed = transform({"image": brain, "label": brain})
        assert changed["label"] is brain
        assert (changed["image"][brain == 0] == 0).all()
        assert torch.isfinite(changed["image"]).all()
        assert changed["image"].shape == brain.shape
        assert changed["image"].dtype == brain.dtype
        assert not torch.equal(changed["image"], brain)


def test_a_seed_fixes_it(brain):
    transform, other = ImageQualityd(), ImageQualityd()
    for seed in range(20):
        transform.set_random_state(seed=seed)
        one = transform({"image": brain})["image"]
        other.set_random_state(seed=seed)
        assert torch.equal(one, other({"image": brain})["image"])


def test_probabilities(brain):
    transform = ImageQualityd(resolution_prob=0.5, intensity_prob=0.5)
    same = 0
    for seed in range(200):
        transform.set_random_state(seed=seed)
        same += torch.equal(transform({"image": brain})["image"], brain)
    assert 30 < same < 70  # a quarter
    never = ImageQualityd(resolution_prob=0, intensity_prob=0)
    assert torch.equal(never({"image": brain})["image"], brain)


def test_strength_says_how_much(brain):
    def change(strength):
        transform = ImageQualityd(resolution_prob=0.0, intensity_prob=1.0, strength=strength)
        changes = []
        for seed in range(30):
            transform.set_random_state(seed=seed)
            changes.append((transform({"image": brain})["image"] - brain).abs().mean().item())
        return np.mean(changes)

    assert change(0.25) < change(0.5) < change(1.0)
    assert change(0.0) == 0


def test_nothing_changes_at_strength_zero(brain):
    transform = ImageQualityd(resolution_prob=1.0, intensity_prob=1.0, strength=0.0)
    for seed in range(12):
        transform.set_random_state(seed=seed)
        assert torch.equal(transform({"image": brain})["image"], brain)


def test_edges_are_enhanced(brain):
    smooth = torch.from_numpy(ndimage.gaussian_filter(brain[0].numpy(), 1.0))[None]
    transform = RandEdgeEnhancement((1.0, 1.0)).set_random_state(seed=0)
    changed = transform(smooth)
    expected = 2 * smooth[0].numpy() - ndimage.gaussian_filter(smooth[0].numpy(), 1.0, mode="constant")
    np.testing.assert_allclose(changed[0, 5:-5, 5:-5, 5:-5], expected[5:-5, 5:-5, 5:-5], atol=2e-2)
    assert changed.diff(dim=1).abs().mean() > 1.2 * smooth.diff(dim=1).abs().mean()


def test_empty_patches_pass(brain):
    transform = ImageQualityd(resolution_prob=1.0, intensity_prob=1.0)
    for seed in range(12):
        transform.set_random_state(seed=seed)
        assert (transform({"image": torch.zeros_like(brain)})["image"] == 0).all()


def test_refuses():
    with pytest.raises(ValueError, match="strength must not be negative"):
        ImageQualityd(strength=-1)
    with pytest.raises(ValueError, match="factor must be a range"):
        RandLowResolutionAxis((0.5, 2.0))
