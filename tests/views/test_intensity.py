"""Operations on intensities against plain ones in float64 and those of MONAI, with a strength for each image."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.transforms import (
    AdjustContrast,
    GaussianSmooth,
    NormalizeIntensity,
    RandBiasField,
    ScaleIntensity,
    ScaleIntensityFixedMean,
    ShiftIntensity,
)
from plain_views import (
    BRAIN,
    Recorded,
    brains,
    draws,
    evenly,
    plain_bias,
    plain_blur,
    plain_contrast,
    plain_gamma,
    plain_sharpening,
    plain_thick_slices,
    smooth,
)

from common.views import Chain, IntensityJitter, Values, intensity

SHAPES = [(3, 2, 14, 17), (3, 1, 9, 12, 10)]
UNIT, WIDE = Values(), Values(-1.0, 3.0)


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def close(found, expected, atol=1e-5):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.asarray(one, np.float64), np.asarray(other), atol=atol, rtol=0)


def monai(transform, image):
    return torch.as_tensor(transform(image)).numpy()


# ---- one operation after the other


@pytest.mark.parametrize("shape", SHAPES)
def test_brightness(shape):
    image, shift = smooth(shape), [0.1, -0.4, 0.0]
    found = intensity.brightened(image, numbers(*shift))
    close(found, [one.double().numpy() + s for one, s in zip(image, shift, strict=True)])
    close(found, [monai(ShiftIntensity(s), one) for one, s in zip(image, shift, strict=True)])


@pytest.mark.parametrize("shape", SHAPES)
def test_contrast_is_about_the_mean(shape):
    image, factor = smooth(shape), [0.1, 1.9, 1.0]
    found = intensity.contrasted(image, numbers(*factor), UNIT)
    close(found, [plain_contrast(one, f) for one, f in zip(image, factor, strict=True)])
    fixed_mean = [ScaleIntensityFixedMean(f - 1, fixed_mean=True, preserve_range=False) for f in factor]
    close(found, [monai(scale, one) for one, scale in zip(image, fixed_mean, strict=True)])


def test_contrast_is_about_the_mean_of_what_is_not_background():
    image, factor = brains(SHAPES[1]) + 2 * (brains(SHAPES[1]) != 0), [0.1, 1.9, 1.0]
    found = intensity.contrasted(image, numbers(*factor), BRAIN)
    inside = (image != 0).numpy()
    expected = [plain_contrast(one, f, mask) for one, f, mask in zip(image, factor, inside, strict=True)]
    close(found.numpy()[inside][None], np.stack(expected)[inside][None])
    for one, before in zip(found, image, strict=True):
        assert one[before != 0].mean() == pytest.approx(2, abs=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_gamma_is_that_of_the_range(shape):
    exponent = [1 / 3, 3.0, 1.0]
    image = smooth(shape)
    found = intensity.gamma_corrected(image, numbers(*exponent), UNIT)
    close(found, [plain_gamma(one, g, 0, 1) for one, g in zip(image, exponent, strict=True)], 1e-4)
    single = image[:, :1]  # MONAI's is that of each image's own range, which here is the whole one
    assert single.amin() == 0 and single.amax() == 1
    close(
        intensity.gamma_corrected(single, numbers(*exponent), UNIT),
        [monai(AdjustContrast(g), one) for one, g in zip(single, exponent, strict=True)],
        1e-4,
    )
    part = smooth(shape, low=0.2, high=1.7)
    found = intensity.gamma_corrected(part, numbers(*exponent), WIDE)
    close(found, [plain_gamma(one, g, -1, 3) for one, g in zip(part, exponent, strict=True)], 1e-4)
    beyond = intensity.gamma_corrected(numbers(-0.5, 1.5).view(2, 1, 1, 1), numbers(0.5, 0.5), UNIT)
    assert beyond.flatten().tolist() == [0, 1]


@pytest.mark.parametrize("shape", SHAPES)
def test_gamma_without_a_range_keeps_mean_and_standard_deviation(shape):
    image, exponent = brains(shape), [0.5, 2.0, 1.0]
    image[0] = image[0] * 3 + 1 * (image[0] != 0)
    found = intensity.gamma_corrected(image, numbers(*exponent), BRAIN)
    for one, before, g in zip(found, image, exponent, strict=True):
        inside = before != 0
        values, old = one[inside], before[inside]
        assert values.mean().item() == pytest.approx(old.mean().item(), abs=1e-4)
        assert values.std().item() == pytest.approx(old.std().item(), abs=1e-4)
        close([values], [monai(AdjustContrast(g, retain_stats=True), old)], 2e-4)
        share = plain_gamma(old, g, old.min().item(), old.max().item())
        close([values], [(share - share.mean()) / share.std() * old.double().numpy().std() + old.mean().item()], 2e-4)
        assert (values[old.argsort()].diff() >= -1e-5).all()  # the order of grey values
    assert (found[0] - image[0]).abs().max() > 0.1
    torch.testing.assert_close(found[2] * (image[2] != 0), image[2], atol=1e-5, rtol=0)


@pytest.mark.parametrize("shift", [4.0, -4.0])
def test_gamma_is_that_of_the_range_inside(shift):
    """The background is below or above everything there is, and has no part in it."""
    image = brains((1, 1, 15, 18))
    image[image != 0] += shift
    inside = image != 0
    assert image[inside].amin() > 0 or image[inside].amax() < 0
    found = intensity.gamma_corrected(image, numbers(2.0), BRAIN)[inside]
    close([found], [monai(AdjustContrast(2.0, retain_stats=True), image[inside])], 2e-4)
    assert found.isfinite().all()


def test_gamma_of_empty_and_constant_images_is_finite():
    image = torch.zeros(3, 1, 4, 4)
    image[1] = 2
    image[2, :, :2] = 0.5
    found = Chain(IntensityJitter((2, 2), 0, 0, 0, prob=1))(image, draws(), BRAIN).image
    torch.testing.assert_close(found, image)
    assert torch.equal(intensity.contrasted(image[:1], numbers(2), BRAIN), image[:1])


@pytest.mark.parametrize("shape", SHAPES)
def test_stretching(shape):
    image = smooth(shape, low=0.3, high=0.4)
    image[1] = image[1] * 2
    close(intensity.stretched(image, UNIT), [monai(ScaleIntensity(0, 1), one) for one in image], 1e-4)
    close(intensity.stretched(image, WIDE), [monai(ScaleIntensity(-1, 3), one) for one in image], 1e-4)
    assert (intensity.stretched(torch.ones(1, 1, 3, 3), UNIT) == 0).all()
    scan = 3 * brains(shape) + 2 * (brains(shape) != 0)
    found = intensity.stretched(scan, BRAIN) * (scan != 0)
    close(found, [monai(NormalizeIntensity(nonzero=True), one) for one in scan], 1e-4)


@pytest.mark.parametrize("shape", [(3, 1, 23, 27), (3, 2, 13, 15, 12)])
def test_blur(shape):
    image, sigma = smooth(shape) + torch.rand(shape, generator=torch.Generator().manual_seed(0)), [0.4, 1.3, 0.8]
    found = intensity.blurred(image, numbers(*sigma))
    close(found, [plain_blur(one, s) for one, s in zip(image, sigma, strict=True)], 1e-4)
    for one, before, s in zip(found, image, sigma, strict=True):
        edge = math.ceil(4 * s)
        inner = (..., *[slice(edge, -edge)] * (len(shape) - 2))
        close([one[inner]], [monai(GaussianSmooth(s), before)[inner]], 1e-3)


def test_blur_is_as_wide_as_said_and_cut_off_at_four_sigma():
    image = torch.zeros(4, 1, 61, 61)
    image[:, :, 30, 30] = 1
    sigma = [0.5, 1.0, 2.0, 4.0]
    place = np.arange(61) - 30.0
    for one, s in zip(intensity.blurred(image, numbers(*sigma))[:, 0].double().numpy(), sigma, strict=True):
        assert one.sum() == pytest.approx(1, abs=1e-5)
        for line in (one.sum(0), one.sum(1)):
            assert (line * place**2).sum() == pytest.approx(s**2 + 1 / 12, rel=0.03)  # a Gaussian's and a pixel's
            assert np.flatnonzero(line).max() - 30 == 4 * s


@pytest.mark.parametrize("shape", SHAPES)
def test_no_blur_and_constant_images_stay(shape):
    image = smooth(shape)
    torch.testing.assert_close(intensity.blurred(image, torch.zeros(3)), image)
    constant = torch.full(shape, 0.7)
    torch.testing.assert_close(intensity.blurred(constant, numbers(0.5, 2, 40)), constant)
    flat = intensity.blurred(image, torch.full((3,), 1e4))  # wider than the image: the mean
    torch.testing.assert_close(flat, image.mean(tuple(range(2, len(shape))), keepdim=True).expand(shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_edges_are_enhanced(shape):
    image, amount = smooth(shape), [0.0, 1.5, 4.0]
    found = intensity.sharpened(image, numbers(*amount))
    close(found, [plain_sharpening(one, a) for one, a in zip(image, amount, strict=True)], 1e-4)
    close(found[:1], image[:1])
    rough = found.diff(dim=-1).abs().flatten(1).mean(1) / image.diff(dim=-1).abs().flatten(1).mean(1)
    assert rough[0].item() == pytest.approx(1) and rough[2] > rough[1] > 1.2


@pytest.mark.parametrize("size", [(100, 100), (30, 20, 20)])
def test_noise_has_the_standard_deviation_it_says(size):
    image, spread = torch.full((4, 1, *size), 0.5), [0.0, 0.02, 0.15, 1.0]
    noise = intensity.noisy(image, numbers(*spread), draws()) - image
    assert torch.equal(noise[0], torch.zeros_like(noise[0]))
    for one, s in zip(noise[1:], spread[1:], strict=True):
        assert one.std().item() == pytest.approx(s, rel=0.03)
        assert one.mean().item() == pytest.approx(0, abs=0.05 * s)
        assert (one.abs() < s).float().mean().item() == pytest.approx(0.683, abs=0.02)  # a normal one's
    images = torch.stack([one / s for one, s in zip(noise[1:], spread[1:], strict=True)]).flatten(1)
    assert torch.corrcoef(images).fill_diagonal_(0).abs().max() < 0.05
    lines = images[2].view(size[0], -1)
    assert torch.corrcoef(lines).fill_diagonal_(0).abs().max() < 0.5  # each pixel has its own


def test_noise_is_that_of_its_generator():
    image, spread = torch.zeros(2, 1, 8, 8), torch.ones(2)
    draw = draws(3)
    first, second = intensity.noisy(image, spread, draw), intensity.noisy(image, spread, draw)
    torch.manual_seed(1)  # torch's own numbers have no part in it
    assert torch.equal(first, intensity.noisy(image, spread, draws(3))) and not torch.equal(first, second)


@pytest.mark.parametrize("shape", [(4, 2, 16, 23), (4, 1, 11, 9, 20)])
def test_thick_slices(shape):
    image, factor = smooth(shape), [2.0, 3.7, 1.0, 1000.0]
    for axis in range(len(shape) - 2):
        found = intensity.thickened(image, axis, numbers(*factor))
        size = shape[2 + axis]
        for one, before, f in zip(found, image, factor, strict=True):
            close([one], [plain_thick_slices(before, axis, f)])
            lines = before.movedim(1 + axis, -1)
            pooled = F.adaptive_avg_pool1d(lines.reshape(1, -1, size), max(1, round(size / f)))
            expected = F.interpolate(pooled, size, mode="linear", align_corners=False)
            torch.testing.assert_close(one, expected.view(lines.shape).movedim(-1, 1 + axis), atol=1e-5, rtol=0)
        assert (found[0] - image[0]).abs().max() > 0.02
        torch.testing.assert_close(found[2], image[2], atol=1e-6, rtol=0)
        torch.testing.assert_close(found[3], image[3].mean(1 + axis, keepdim=True).expand_as(image[3]))


def test_thick_slices_by_hand():
    image = torch.arange(8.0).view(1, 1, 8, 1, 1).expand(1, 1, 8, 2, 3)
    changed = intensity.thickened(image, 0, numbers(2))
    # means of two are 0.5, 2.5, 4.5, 6.5 at 0.5, 2.5, 4.5, 6.5; linear between, constant at the ends
    expected = torch.tensor([0.5, 1, 2, 3, 4, 5, 6, 6.5]).view(8, 1, 1).expand(8, 2, 3)
    torch.testing.assert_close(changed[0, 0], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("dimensions", "degree"), [(2, 1), (2, 3), (3, 2), (3, 3)])
def test_terms_of_a_bias_field(dimensions, degree):
    terms = intensity.field_terms(dimensions, degree)
    assert len(terms) == len(set(terms)) == math.comb(degree + dimensions, dimensions) - 1
    assert all(len(term) == dimensions and 0 < sum(term) <= degree for term in terms)


@pytest.mark.parametrize("shape", SHAPES)
def test_bias_field(shape):
    image, terms = smooth(shape), intensity.field_terms(len(shape) - 2, 3)
    coefficients = np.random.default_rng(0).uniform(-0.4, 0.4, (3, len(terms)))
    found = intensity.biased(image, torch.from_numpy(coefficients).float())
    for one, before, numbers_of_one in zip(found, image, coefficients, strict=True):
        close([one], [plain_bias(before, dict(zip(terms, numbers_of_one, strict=True)))])
        assert (one / before - 1)[before > 0].abs().max() > 0.1
        if len(shape) == 5:  # in 2D MONAI's has no other terms, but not all of them
            field = RandBiasField()._generate_random_field(shape[2:], 3, [0, *numbers_of_one])
            close([one], [before.numpy() * np.exp(field)])
    fewer = intensity.field_terms(len(shape) - 2, 1)
    found = intensity.biased(image, torch.from_numpy(coefficients[:, : len(fewer)]).float(), degree=1)
    close(found[:1], [plain_bias(image[0], dict(zip(fewer, coefficients[0], strict=False)))])


@pytest.mark.parametrize("values", [UNIT, BRAIN])
@pytest.mark.parametrize("shape", SHAPES)
def test_each_image_is_changed_as_if_it_were_alone(shape, values):
    image = (brains(shape) if values is BRAIN else smooth(shape)) * torch.tensor([0.8, 0.6, 0.3]).view(
        -1, *[1] * (len(shape) - 1)
    )
    strength, terms = numbers(0.4, 1.3, 2.2), len(intensity.field_terms(len(shape) - 2, 3))
    coefficients = 0.1 * torch.rand(3, terms, generator=torch.Generator().manual_seed(0))
    for operation, amount in (
        (intensity.brightened, strength),
        (lambda x, s: intensity.contrasted(x, s, values), strength),
        (lambda x, s: intensity.gamma_corrected(x, s, values), strength),
        (lambda x, s: intensity.stretched(x, values), strength),
        (intensity.blurred, strength),
        (intensity.sharpened, strength),
        (lambda x, s: intensity.thickened(x, 1, s), strength + 1),
        (intensity.biased, coefficients),
    ):
        found = operation(image, amount)
        assert found.shape == image.shape and found.dtype == torch.float32
        for row in range(3):
            alone = operation(image[row : row + 1], amount[row : row + 1])
            torch.testing.assert_close(found[row : row + 1], alone, atol=1e-5, rtol=0)
        assert (found - image).flatten(1).abs().amax(1).min() > 0.01


# ---- some of a batch


@pytest.mark.parametrize("rows", list(itertools.product([False, True], repeat=3)))
def test_an_operation_on_some_images(rows):
    image, strength, given = smooth((3, 1, 5, 6)), np.array([0.1, 0.2, 0.9]), []

    def operation(x, s):
        given.append((len(x), s.tolist()))
        return x + s.view(-1, 1, 1, 1)

    found = intensity.on_rows(image.clone(), np.array(rows), operation, strength, UNIT)
    expected = [
        np.minimum(x.numpy() + s, 1) if row else x.numpy() for x, s, row in zip(image, strength, rows, strict=True)
    ]
    close(found, expected, 1e-6)
    amounts = [s for s, row in zip(strength, rows, strict=True) if row]
    assert given == ([(len(amounts), pytest.approx(amounts))] if amounts else [])


@pytest.mark.parametrize("rows", [[True, True], [False, True]])
def test_background_stays_after_each_operation(rows):
    image = brains((2, 1, 12, 12))
    found = intensity.on_rows(image, np.array(rows), intensity.brightened, np.array([4.0, 5.0]), BRAIN)
    for one, before, row, shift in zip(found, image, rows, (4, 5), strict=True):
        torch.testing.assert_close(one, torch.where(before == 0, 0, before + shift) if row else before)


# ---- what differs between exposures

NONE = {"gamma": (1, 1), "contrast": 0.0, "brightness": 0.0, "noise": 0.0, "prob": 1.0}


def jittered(image, values=None, seed=0, **options):
    return IntensityJitter(**{**NONE, **options})(image, draws(seed), values).image


def test_no_jitter_changes_nothing():
    image = smooth((3, 1, 8, 8))
    torch.testing.assert_close(jittered(image), image, atol=1e-6, rtol=0)
    assert torch.equal(IntensityJitter(prob=0)(image, draws()).image, image)


def test_exponents_of_a_jitter():
    image = torch.full((1000, 1, 1, 1), 0.5)
    exponents = jittered(image, gamma=(0.6, 1.5)).log() / np.log(0.5)
    evenly(exponents.flatten(), 0.6, 1.5)
    wide = (jittered(image, WIDE, gamma=(0.6, 1.5)) + 1) / 4
    evenly(wide.log().flatten() / np.log(1.5 / 4), 0.6, 1.5)


@pytest.mark.parametrize("values", [UNIT, WIDE])
def test_contrast_of_a_jitter(values):
    image = numbers(0.4, 0.6).view(1, 1, 2, 1).expand(1000, -1, -1, -1)
    found = jittered(image, values, contrast=0.3)
    evenly((found[:, 0, 1] - found[:, 0, 0]).flatten() / 0.2, 0.7, 1.3)
    torch.testing.assert_close(found.mean((1, 2, 3)), torch.full((1000,), 0.5))


@pytest.mark.parametrize(("values", "unit"), [(UNIT, 1), (WIDE, 4), (BRAIN, 5)])
def test_brightness_and_noise_of_a_jitter_are_shares_of_the_range(values, unit):
    image = torch.full((1000, 1, 1, 1), 0.5)
    evenly((jittered(image, values, brightness=0.1) - image).flatten(), -0.1 * unit, 0.1 * unit)
    image = torch.full((500, 1, 30, 40), 0.5)
    spread = (jittered(image, values, noise=0.05) - image).flatten(1).std(1)
    evenly(spread, 0, 0.05 * unit, atol=0.002 * unit)


def test_each_of_the_four_happens_with_its_probability():
    image = torch.cat([torch.full((2000, 1, 1, 1), 0.3), torch.full((2000, 1, 1, 1), 0.6)], 2)
    for one in ({"gamma": (2, 2)}, {"contrast": 0.3}, {"brightness": 0.1}, {"noise": 0.1}):
        found = jittered(image, **one, prob=0.3)
        changed = (found - image).flatten(1).abs().amax(1) > 1e-6
        assert changed.float().mean().item() == pytest.approx(0.3, abs=0.04)
    same = (IntensityJitter(prob=0.3)(image, draws()).image - image).flatten(1).abs().amax(1) < 1e-7
    assert same.float().mean().item() == pytest.approx(0.7**4, abs=0.04)  # each on its own
    same = (IntensityJitter()(image, draws()).image - image).flatten(1).abs().amax(1) < 1e-7
    assert same.float().mean().item() == pytest.approx(0.5**4, abs=0.03)


def test_the_usual_jitter():
    image = torch.full((2000, 1, 1, 1), 0.5)
    usual = IntensityJitter()
    assert (usual.gamma, usual.contrast, usual.brightness, usual.noise) == ((0.7, 1.4), 0.2, 0.1, 0.05)
    assert (usual(image, draws()).image - 0.5).abs().max() < 0.12 + 0.1 + 0.25


@pytest.mark.parametrize("shape", SHAPES)
def test_gamma_first_then_contrast_then_brightness(shape):
    image, draw = smooth(shape), Recorded()
    found = IntensityJitter((0.5, 2.5), 0.9, 0.3, 0, prob=1.0)(image, draw, WIDE).image
    drawn = (draw.drawn[0.5, 2.5], 1 + draw.drawn[-0.9, 0.9], 4 * draw.drawn[-0.3, 0.3])
    for one, before, exponent, factor, shift in zip(found, image, *drawn, strict=True):
        expected = plain_contrast(plain_gamma(before, exponent, -1, 3), factor).clip(-1, 3)
        close([one], [(expected + shift).clip(-1, 3)], 1e-4)


def test_contrast_behind_a_gamma_does_not_see_the_background():
    """A gamma gives all pixels a value; those of the background must not join the mean."""
    image, draw = brains((3, 1, 10, 12, 14)), Recorded()
    image = image + 2 * (image != 0)
    found = IntensityJitter((0.5, 2.5), 0.9, 0, 0, prob=1.0)(image, draw, BRAIN).image
    for one, before, factor in zip(found, image, 1 + draw.drawn[-0.9, 0.9], strict=True):
        inside = before != 0
        assert (one[~inside] == 0).all()
        assert one[inside].mean().item() == pytest.approx(2, abs=1e-4)
        assert one[inside].std().item() == pytest.approx(factor * before[inside].std().item(), rel=1e-3)


@pytest.mark.parametrize("shape", [(20, 1, 16, 16), (20, 1, 8, 8, 8)])
def test_images_stay_in_their_range_and_brains_have_none(shape):
    view = IntensityJitter((0.2, 5), 0.9, 0.5, 0.3, prob=0.7)
    found = view(smooth(shape), draws()).image
    assert found.min() == 0 and found.max() == 1
    found = view(smooth(shape, low=-1, high=3), draws(), WIDE).image
    assert found.min() == -1 and found.max() == 3
    image = brains(shape)
    found = view(image, draws(), BRAIN).image
    assert found.min() < -3 and found.max() > 3 and found.isfinite().all()
    assert ((found == 0) == (image == 0)).all()


def test_the_same_seed_gives_the_same_jitter():
    image, view, draw = smooth((4, 1, 8, 8)), IntensityJitter(), draws(3)
    first, second = view(image, draw).image, view(image, draw).image
    assert torch.equal(first, view(image, draws(3)).image) and not torch.equal(first, second)
    one = view(image[:1].expand(4, -1, -1, -1), draws(3)).image
    assert all(not torch.equal(one[a], one[b]) for a, b in itertools.combinations(range(4), 2))


def test_nothing_moves():
    image = smooth((2, 1, 8, 8))
    viewed = IntensityJitter(prob=1.0)(image, draws())
    assert viewed.change.of_label(image, image) == (image, image) and viewed.perturb is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": (0, 1)}, "gamma must be a range of positive exponents, got .0, 1."),
        ({"gamma": (2, 1)}, "gamma must be a range"),
        ({"gamma": (1,)}, "gamma must be a range"),
        ({"gamma": (1, 2, 3)}, "gamma must be a range"),
        ({"contrast": -0.1}, "got -0.1, 0.1, 0.05 and 0.5"),
        ({"brightness": -0.1}, "got 0.2, -0.1, 0.05 and 0.5"),
        ({"noise": -0.1}, "got 0.2, 0.1, -0.1 and 0.5"),
        ({"prob": -0.1}, "got 0.2, 0.1, 0.05 and -0.1"),
        ({"prob": 1.1}, "prob must be in .0, 1., got 0.2, 0.1, 0.05 and 1.1"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        IntensityJitter(**options)
