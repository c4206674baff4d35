"""Image quality: which operations, how strong, how often, that nothing moves and that the outside stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from plain_views import (
    BRAIN,
    brains,
    draws,
    evenly,
    plain_bias,
    plain_blur,
    plain_gamma,
    plain_sharpening,
    plain_thick_slices,
    smooth,
)

from common.views import Chain, Flip, ImageQuality, Values, intensity
from common.views.quality import with_bias

UNIT, WIDE = Values(), Values(-1.0, 3.0)
FIRST, SECOND = ("blurred", "sharpened", "thickened"), ("noisy", "biased", "gamma_corrected")


@pytest.fixture
def asked(monkeypatch):
    """Names and arguments of the operations that are asked for, but not of those that they ask in turn."""
    calls, depth = [], [0]

    def noted(name, plain):
        def operation(image, *arguments):
            if depth[0] == 0:
                calls.append((name, image.shape[0], arguments))
            depth[0] += 1
            found = plain(image, *arguments)
            depth[0] -= 1
            return found

        return operation

    for name in FIRST + SECOND:
        monkeypatch.setattr(intensity, name, noted(name, getattr(intensity, name)))
    return calls


def strengths(calls, name, position=0):
    """The strengths of all images that an operation was asked for."""
    found = [arguments[position] for asked, _, arguments in calls if asked == name]
    return torch.cat(found) if found else torch.empty(0)


# ---- how often and how strong


def test_one_of_three_twice_each_with_its_probability(asked):
    ImageQuality(0.4, 0.8)(torch.rand(3000, 1, 3, 3), draws())
    number = {name: sum(count for asked_for, count, _ in asked if asked_for == name) for name in FIRST + SECOND}
    for names, prob in ((FIRST, 0.4), (SECOND, 0.8)):
        assert [number[name] / 3000 for name in names] == pytest.approx([prob / 3] * 3, abs=0.03)


def test_the_usual_probabilities():
    view = ImageQuality()
    assert (view.resolution_prob, view.intensity_prob, view.strength) == (0.5, 0.7, 1.0)
    image = smooth((1, 1, 8, 8)).expand(1500, -1, -1, -1)
    same = (view(image, draws()).image == image).flatten(1).all(1)
    assert same.float().mean().item() == pytest.approx(0.5 * 0.3, abs=0.03)


def test_the_two_steps_happen_on_their_own():
    image = smooth((1, 1, 8, 8)).expand(1500, -1, -1, -1)
    for first, second in ((0, 0), (0.5, 0), (0, 0.5), (0.5, 0.5), (1, 0.5)):
        same = (ImageQuality(first, second)(image, draws()).image == image).flatten(1).all(1)
        assert same.float().mean().item() == pytest.approx((1 - first) * (1 - second), abs=0.04)


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_how_strong_each_operation_is(asked, strength):
    for values in (UNIT, BRAIN):
        asked.clear()
        ImageQuality(1, 1, strength)(torch.rand(3000, 1, 3, 3), draws(), values)
        evenly(strengths(asked, "blurred"), 0.3, 0.3 + 0.9 * strength)
        evenly(strengths(asked, "sharpened"), 0.3 * strength, 1.5 * strength)
        evenly(strengths(asked, "thickened", 1), 1 + strength, 1 + 3 * strength)
        evenly(strengths(asked, "noisy"), 0, 0.05 * values.unit * strength)
        evenly(strengths(asked, "gamma_corrected").log(), -np.log(1 + 0.6 * strength), np.log(1 + 0.6 * strength))
        coefficients = strengths(asked, "biased")
        assert coefficients.shape[1] == len(intensity.field_terms(2, 3)) == 9
        for column in coefficients.T:
            evenly(column, 0, 0.1 * strength)
        assert np.abs(np.corrcoef(coefficients.T) - np.eye(9)).max() < 0.15


def test_slices_are_thick_along_any_axis(asked):
    ImageQuality(1, 0)(torch.rand(900, 1, 3, 4, 2), draws())
    number = [sum(n for name, n, args in asked if name == "thickened" and args[0] == axis) for axis in range(3)]
    assert [n / 900 for n in number] == pytest.approx([1 / 9] * 3, abs=0.03)


# ---- what each does


@pytest.mark.parametrize("values", [UNIT, BRAIN])
@pytest.mark.parametrize("size", [(12, 15), (8, 10, 11)])
def test_each_image_is_what_its_two_operations_make_of_it(monkeypatch, size, values):
    """Each alone against the plain form, then one behind the other; the background stays in between."""
    image = (brains if values is BRAIN else smooth)((60, 1, *size))
    steps = []  # for each call: the rows it is for, and the plain form of what it does to one of them

    def row_steps(image_, rows, operation, strength, values_):
        found = plain_rows(image_, rows, operation, strength, values_)
        steps.append((np.flatnonzero(rows), strength, image_, found))
        return found

    plain_rows = intensity.on_rows
    monkeypatch.setattr("common.views.quality.on_rows", row_steps)
    found = ImageQuality(1, 1)(image, draws(1), values).image
    axes = range(len(size))
    names = ["blurred", "sharpened", *[("thickened", axis) for axis in axes], "noisy", "biased", "gamma"]
    assert len(steps) == len(names)
    done = {name: len(step[0]) for name, step in zip(names, steps, strict=True)}
    assert min(done.values()) >= 2 and sum(done.values()) == 2 * len(image)
    for name, (rows, strength, before, after) in zip(names, steps, strict=True):
        others = np.setdiff1d(np.arange(len(image)), rows)
        assert torch.equal(before[others], after[others])
        for row in rows[:3]:
            close_to_plain(name, before[row], after[row], strength[row], values)
            assert not torch.equal(before[row], after[row])
    assert torch.equal(steps[-1][3], found)
    if values is BRAIN:
        assert ((found == 0) == (image == 0)).all() and found.min() < -2.5
    else:
        assert found.min() >= 0 and found.max() <= 1


def close_to_plain(name, before, after, strength, values):
    """Compares one image with the plain form of an operation."""
    inside = (before != 0).numpy() if values.background == 0 else np.ones(before.shape, bool)
    old = before.double().numpy()
    if name == "noisy":
        noise = (after - before)[torch.from_numpy(inside)]
        if values is BRAIN:
            assert noise.std().item() == pytest.approx(strength, rel=0.25)
        assert noise.abs().max() < 5 * strength
        return
    if name == "blurred":
        new = plain_blur(before, strength)
    elif name == "sharpened":
        new = plain_sharpening(before, strength)
    elif name == "biased":
        terms = dict(zip(intensity.field_terms(before.ndim - 1, 3), strength, strict=True))
        new = normalised_as(plain_bias(old - old.min(), terms), old, inside) if values is BRAIN else None
        new = plain_bias(before, terms) if new is None else new
    elif name == "gamma":
        low, high = (old[inside].min(), old[inside].max()) if values is BRAIN else (0, 1)
        new = np.zeros_like(old)
        new[inside] = plain_gamma(old[inside], strength, low, high)
        new = normalised_as(new, old, inside) if values is BRAIN else new
    else:
        new = plain_thick_slices(before, name[1], strength)
    new = np.where(inside, new, 0) if values is BRAIN else new.clip(0, 1)
    np.testing.assert_allclose(after.numpy(), new, atol=2e-4)


def normalised_as(new, old, inside):
    """With the mean and the standard deviation inside that the image had."""
    return (new - new[inside].mean()) / new[inside].std() * old[inside].std() + old[inside].mean()


@pytest.mark.parametrize("size", [(24, 20), (14, 12, 16)])
def test_a_bias_field_acts_on_what_is_above_the_lowest_value(size):
    terms = intensity.field_terms(len(size), 3)
    coefficients = torch.rand(2, len(terms), generator=torch.Generator().manual_seed(0)) * 0.2
    numbers = [dict(zip(terms, row.tolist(), strict=True)) for row in coefficients]
    image = smooth((2, 1, *size), low=-1, high=3)
    for one, before, given in zip(with_bias(image, coefficients, WIDE), image, numbers, strict=True):
        np.testing.assert_allclose(one.numpy(), plain_bias(before + 1, given) - 1, atol=1e-4)
    image = 2 * brains((2, 1, *size)) + 5 * (brains((2, 1, *size)) != 0)
    for one, before, given in zip(with_bias(image, coefficients, BRAIN), image, numbers, strict=True):
        inside, old = (before != 0).numpy(), before.double().numpy()
        assert one[before != 0].mean().item() == pytest.approx(5, abs=1e-3)
        assert one[before != 0].std(correction=0).item() == pytest.approx(2, abs=1e-3)
        expected = normalised_as(plain_bias(old - old.min(), given), old, inside)
        np.testing.assert_allclose(one.numpy()[inside], expected[inside], atol=1e-3)
        assert np.abs(one.numpy() - old)[inside].max() > 0.05


# ---- what stays


@pytest.mark.parametrize("shape", [(40, 1, 24, 20, 16), (40, 2, 24, 20)])
def test_the_outside_stays_zero_and_the_rest_is_finite(shape):
    image = brains(shape)
    found = ImageQuality(1, 1)(image, draws(), BRAIN).image
    assert found.isfinite().all() and found.shape == image.shape and found.dtype == image.dtype
    assert ((found == 0) == (image == 0)).all()
    assert (found != image).flatten(1).any(1).all()
    assert found.min() < -2.6  # nothing is cut off


def test_mean_and_standard_deviation_stay_but_for_noise(asked):
    """Of the image that the first step gave, whatever rim it has."""
    image = brains((60, 1, 12, 12, 12))
    for first in (0.0, 1.0):
        before = ImageQuality(first, 0)(image, draws(2), BRAIN).image
        asked.clear()
        after = ImageQuality(first, 1)(image, draws(2), BRAIN).image
        inside = (image != 0).flatten(1)
        gained = (after - before).flatten(1)
        assert (gained.abs().amax(1) > 1e-3).all()
        number = inside.sum(1)
        mean = (gained * inside).sum(1) / number
        spread = [x[m].std() / y[m].std() for x, y, m in zip(after.flatten(1), before.flatten(1), inside, strict=True)]
        kept = (mean.abs() < 1e-4) & ((torch.stack(spread) - 1).abs() < 1e-4)
        noisy = sum(count for name, count, _ in asked if name == "noisy")
        assert 10 < noisy < 30 and int((~kept).sum()) == noisy


def test_images_stay_in_their_range():
    image = smooth((60, 1, 16, 16), low=-1, high=3)
    found = ImageQuality(1, 1, strength=2.0)(image, draws(), WIDE).image
    assert found.min() == -1 and found.max() == 3


def test_nothing_moves():
    image = brains((3, 1, 12, 12))
    viewed = ImageQuality(1, 1)(image, draws(), BRAIN)
    assert viewed.change.of_label(image, image) == (image, image) and viewed.perturb is None
    groups = np.array([0, 0, 1])
    both = Chain([Flip([0]), ImageQuality(1, 1)])(image[:1].expand(3, -1, -1, -1), draws(), BRAIN, groups).image
    assert not torch.equal(both[0], both[1])  # images of a group differ in quality


def test_a_seed_fixes_it():
    image, view, draw = brains((4, 1, 12, 12)), ImageQuality(1, 1), draws(3)
    first, second = view(image, draw, BRAIN).image, view(image, draw, BRAIN).image
    assert torch.equal(first, view(image, draws(3), BRAIN).image) and not torch.equal(first, second)


def test_strength_says_how_much():
    image = brains((40, 1, 12, 12))

    def change(strength):
        return (ImageQuality(1, 1, strength)(image, draws(), BRAIN).image - image).abs().mean().item()

    assert 0.01 < change(0.25) < change(0.5) < change(1.0)
    assert change(0.0) == 0


def test_nothing_changes_at_strength_zero():
    image = brains((12, 1, 12, 12))
    assert torch.equal(ImageQuality(1, 1, strength=0.0)(image, draws(), BRAIN).image, image)


def test_empty_patches_pass():
    image = torch.zeros(30, 1, 8, 8, 8)
    assert (ImageQuality(1, 1)(image, draws(), BRAIN).image == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": -0.1}, "strength must not be negative, got -0.1"),
        ({"resolution_prob": 1.1}, "resolution_prob must be a probability"),
        ({"intensity_prob": -0.1}, "intensity_prob must be a probability"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ImageQuality(**options)
