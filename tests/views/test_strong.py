"""Strong views: each operation by name, its kind, direction and strength, and that labels follow the image."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from monai.transforms import ScaleIntensity
from plain_views import (
    BRAIN,
    brains,
    draws,
    evenly,
    places,
    plain_blur,
    plain_contrast,
    plain_gamma,
    plain_sharpening,
    smooth,
    taken,
)
from scipy.spatial.transform import Rotation
from scipy.special import erfinv

from common.views import Strong, Values, strong
from common.views.strong import Chosen, Moves

SHAPES = [(2, 1, 32, 24), (2, 1, 20, 16, 12)]
SIZES = [(8, 6), (5, 4, 3)]  # few pixels, for many movements
UNIT, WIDE = Values(), Values(-1.0, 3.0)
RANGES = [(UNIT, 1), (WIDE, 4), (BRAIN, 5)]
MAGNITUDES = [1.0, 0.5]


def seen(name, image, magnitude=1.0, values=UNIT, seed=0):
    """Images after one operation."""
    return Strong(1, magnitude, cutout=0, names=[name])(image, draws(seed), values).image


def movements(name, size, magnitude, number=1000):
    """Linear parts and shifts of one operation on many images."""
    image = torch.zeros(1, 1, *size).expand(number, 1, *size)
    viewed = Strong(1, magnitude, cutout=0, names=[name])(image, draws(), UNIT)
    matrix = viewed.change.changes[0].matrix
    return matrix[:, :-1, :-1], matrix[:, :-1, -1]


def one_of_each(amounts, limit):
    """Whether of each row's numbers just one is not 0, any one, drawn evenly from both directions; gives which."""
    assert ((np.abs(amounts) > 1e-12).sum(1) == 1).all()
    which = np.abs(amounts).argmax(1)
    count = np.bincount(which, minlength=amounts.shape[1])
    assert count.tolist() == pytest.approx([len(amounts) / amounts.shape[1]] * amounts.shape[1], rel=0.2)
    evenly(amounts.sum(1), -limit, limit)
    for axis in range(amounts.shape[1]):
        assert amounts[which == axis, axis].min() < -0.9 * limit and amounts[which == axis, axis].max() > 0.9 * limit


# ---- the table


def test_the_table_has_all_operations():
    names = ["identity", "autocontrast", "brightness", "contrast", "gamma", "sharpness", "blur", "noise"]
    assert (*names, "rotate", "shear", "translate") == strong.NAMES
    assert Strong().drawn_from == [*names, "rotate", "shear", "translate"]
    assert Strong(geometry=False).drawn_from == names
    table = Strong.__doc__.split("====\n")
    assert [line.split()[0] for line in table[2].splitlines()[:11]] == Strong().drawn_from


@pytest.mark.parametrize("shape", SHAPES)
def test_identity(shape):
    assert torch.equal(seen("identity", smooth(shape)), smooth(shape))


@pytest.mark.parametrize("magnitude", [0.0, *MAGNITUDES])
@pytest.mark.parametrize("shape", SHAPES)
def test_autocontrast(shape, magnitude):
    image = smooth(shape, low=0.2, high=0.4)
    for values in (UNIT, WIDE):
        expected = torch.stack([torch.as_tensor(ScaleIntensity(values.low, values.high)(one)) for one in image])
        torch.testing.assert_close(seen("autocontrast", image, magnitude, values), expected, atol=1e-5, rtol=0)
    scan = 3 * brains(shape) + 2 * (brains(shape) != 0)
    torch.testing.assert_close(seen("autocontrast", scan, magnitude, BRAIN), brains(shape), atol=1e-4, rtol=0)


@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize(("values", "unit"), RANGES)
def test_brightness(values, unit, magnitude):
    middle = (values.low + values.high) / 2 + 1e-3
    shift = seen("brightness", torch.full((1000, 1, 1, 1), middle), magnitude, values) - middle
    evenly(shift.flatten(), -0.4 * unit * magnitude, 0.4 * unit * magnitude)


@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize(("values", "unit"), RANGES)
def test_contrast(values, unit, magnitude):
    image = torch.tensor([0.45, 0.55]).view(1, 1, 2, 1).expand(1000, -1, -1, -1)
    found = seen("contrast", image, magnitude, values)
    torch.testing.assert_close(found.mean((1, 2, 3)), torch.full((1000,), 0.5))
    evenly((found[:, 0, 1] - found[:, 0, 0]).flatten() / 0.1, 1 - 0.9 * magnitude, 1 + 0.9 * magnitude)


@pytest.mark.parametrize("magnitude", MAGNITUDES)
def test_gamma(magnitude):
    exponents = seen("gamma", torch.full((1000, 1, 1, 1), 0.3), magnitude).double().log() / np.log(0.3)
    evenly((exponents.log() / np.log(3)).flatten(), -magnitude, magnitude)
    share = (seen("gamma", torch.full((1000, 1, 1, 1), 0.2), magnitude, WIDE).double() + 1) / 4
    evenly(((share.log() / np.log(0.3)).log() / np.log(3)).flatten(), -magnitude, magnitude)


def test_gamma_of_a_brain_keeps_mean_and_standard_deviation():
    image = brains((20, 1, 16, 16))
    found = seen("gamma", image, values=BRAIN)
    for one, before in zip(found, image, strict=True):
        assert one[before != 0].mean().item() == pytest.approx(0, abs=1e-4)
        assert one[before != 0].std(correction=0).item() == pytest.approx(1, abs=1e-4)
    assert (found - image).abs().amax((1, 2, 3)).max() > 1


@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize("size", [(12, 11), (7, 8, 6)])
def test_sharpness(size, magnitude):
    image = smooth((1, 1, *size), low=0.45, high=0.55)
    edges = plain_sharpening(image[0], 1.0) - image[0].double().numpy()
    gained = (seen("sharpness", image.expand(800, 1, *size), magnitude) - image)[:, 0].double().numpy()
    amount = (gained * edges).sum(tuple(range(1, gained.ndim))) / (edges**2).sum()
    evenly(amount, 0, 4 * magnitude)
    np.testing.assert_allclose(gained[:20], amount[:20].reshape(-1, *[1] * len(size)) * edges, atol=1e-4)


@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize("size", [(96, 33), (9, 13, 48)])
def test_blur(size, magnitude):
    """A Gaussian's part on its own pixel says how wide it is; the longest side counts, wherever it is."""
    image = torch.zeros(500, 1, *size)
    centre = tuple(side // 2 for side in size)
    image[(..., *centre)] = 1
    found = seen("blur", image, magnitude).double().numpy()[:, 0]
    for axis in range(len(size)):
        others = tuple(1 + other for other in range(len(size)) if other != axis)
        share = found.sum(others)[:, centre[axis]] / found.sum(tuple(range(1, found.ndim)))
        sigma = 0.5 / (np.sqrt(2) * erfinv(np.minimum(share, 1 - 1e-9)))
        evenly(sigma[sigma > 0.2], 0.2, magnitude * max(size) / 48, atol=0.03)
        assert np.mean(sigma <= 0.2) == pytest.approx(0.2 / (magnitude * max(size) / 48), abs=0.05)
    np.testing.assert_allclose(found[0], plain_blur(image[0], sigma[0])[0], atol=1e-4)


@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize(("values", "unit"), RANGES)
def test_noise(values, unit, magnitude):
    middle = (values.low + values.high) / 2 + 1e-3
    noise = seen("noise", torch.full((400, 1, 40, 50), middle), magnitude, values) - middle
    evenly(noise.flatten(1).std(1), 0, 0.15 * unit * magnitude, atol=0.004 * unit)
    assert noise.mean((1, 2, 3)).abs().max() < 0.02 * unit


@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize("size", SIZES)
def test_rotate(size, magnitude):
    linear, shift = movements("rotate", size, magnitude)
    assert not shift.any()
    if len(size) == 2:
        np.testing.assert_allclose(linear @ linear.transpose(0, 2, 1), np.tile(np.eye(2), (1000, 1, 1)), atol=1e-12)
        evenly(np.rad2deg(np.arctan2(linear[:, 1, 0], linear[:, 0, 0])), -30 * magnitude, 30 * magnitude)
    else:
        one_of_each(Rotation.from_matrix(linear).as_rotvec(degrees=True), 30 * magnitude)


@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize("size", SIZES)
def test_shear(size, magnitude):
    linear, shift = movements("shear", size, magnitude, 2000)
    assert not shift.any() and (np.diagonal(linear, axis1=1, axis2=2) == 1).all()
    one_of_each(linear[:, ~np.eye(len(size), dtype=bool)], 0.3 * magnitude)


@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize("size", SIZES)
def test_translate(size, magnitude):
    linear, shift = movements("translate", size, magnitude)
    assert (linear == np.eye(len(size))).all()
    one_of_each(shift / size, 0.3 * magnitude)


@pytest.mark.parametrize("name", strong.GEOMETRY)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_image_moves_as_the_change_says(shape, name):
    image = smooth(shape)
    viewed = Strong(1, cutout=0, names=[name])(image, draws(1), UNIT)
    for one, before, matrix in zip(viewed.image, image, viewed.change.changes[0].matrix, strict=True):
        np.testing.assert_allclose(one, taken(before, places(matrix, shape[2:])), atol=1e-4)
        assert (one - before).abs().max() > 0.02


# ---- several operations


def test_operations_are_drawn_with_equal_probability_and_for_each_image():
    image = torch.full((3000, 1, 1, 1), 0.5)
    found = Strong(1, cutout=0, names=["brightness", "identity", "contrast", "noise"])(image, draws()).image
    changed = (found != image).float().mean().item()
    assert changed == pytest.approx(0.5, abs=0.04)  # contrast does nothing to an image of one pixel
    found = Strong(3, cutout=0, names=["brightness", "identity"])(image, draws()).image
    assert (found == image).float().mean().item() == pytest.approx(1 / 8, abs=0.03)
    assert torch.equal(Strong(0, cutout=0)(image, draws()).image, image)


def test_each_operation_has_a_strength_of_its_own():
    image = torch.full((4000, 1, 1, 1), 0.5)
    shift = (Strong(3, 0.2, cutout=0, names=["brightness"])(image, draws()).image - 0.5).flatten()
    assert shift.std().item() == pytest.approx(np.sqrt(3 * (0.4 * 0.2) ** 2 / 3), rel=0.05)
    assert shift.abs().max() > 0.8 * 3 * 0.4 * 0.2


def test_two_operations_unless_more_are_asked_for():
    usual = Strong()
    assert (usual.operations, usual.magnitude, usual.cutout, usual.cutout_label) == (2, 1.0, 0.5, "background")
    image = torch.full((3000, 1, 1, 1), 0.5)
    found = Strong(cutout=0, names=["brightness", "identity"])(image, draws()).image
    assert (found == image).float().mean().item() == pytest.approx(1 / 4, abs=0.03)


def chosen(image, names, strengths, values=UNIT):
    operations = Chosen(np.array(names)[:, None], np.array(strengths)[:, None])
    return operations(image, draws(), values).image


def test_intensities_are_changed_in_turn_and_stay_in_the_range_each_time():
    image = smooth((1, 1, 12, 12), low=0.2, high=0.8)
    for first, second in itertools.permutations([("gamma", 0.8), ("contrast", 0.7), ("brightness", -0.6)], 2):
        expected = image[0].double().numpy()
        for name, s in (first, second):
            expected = {
                "gamma": lambda x, s: plain_gamma(x, 3**s, 0, 1),
                "contrast": lambda x, s: plain_contrast(x, 1 + 0.9 * s),
                "brightness": lambda x, s: x + 0.4 * s,
            }[name](expected, s).clip(0, 1)
        found = chosen(image, [first[0], second[0]], [first[1], second[1]])
        np.testing.assert_allclose(found[0], expected, atol=1e-5)
    there = chosen(image, ["brightness", "brightness"], [1.0, -1.0])  # what was cut off does not come back
    np.testing.assert_allclose(there, image.clamp(max=0.6), atol=1e-6)
    there = chosen(image, ["brightness", "brightness"], [1.0, -1.0], BRAIN)
    np.testing.assert_allclose(there, image, atol=1e-6)


def test_the_background_stays_in_turn():
    image = brains((1, 1, 16, 16))
    found = chosen(image, ["brightness", "autocontrast"], [1.0, 0.0], BRAIN)
    torch.testing.assert_close(found, image, atol=1e-4, rtol=0)
    found = chosen(image, ["brightness", "contrast"], [1.0, -1.0], BRAIN)
    torch.testing.assert_close(found, torch.where(image == 0, 0, 2 + 0.1 * image), atol=1e-4, rtol=0)


def test_movements_are_made_in_turn():
    size = (20, 30)
    names = np.array([["translate", "rotate"], ["rotate", "translate"], ["blur", "shear"]])
    strengths = np.array([[1.0, 0.5], [0.5, 1.0], [1.0, -1.0]])
    matrices, displacement = Moves(names, strengths).motion(2, size, draws(1), torch.device("cpu"))
    assert displacement is None
    turn = matrices[0][:2, :2]
    np.testing.assert_allclose(turn, [[np.cos(np.pi / 12), -np.sin(np.pi / 12)], [np.sin(np.pi / 12), turn[0, 0]]])
    shift = matrices[0][:2, 2]  # M = T R: the shift is not turned
    assert sorted(np.abs(shift)) in ([0, pytest.approx(6)], [0, pytest.approx(9)])
    linear, shift = matrices[1][:2, :2], matrices[1][:2, 2]
    turned_back = turn.T @ shift  # R T: it is
    assert np.abs(turned_back).min() == pytest.approx(0, abs=1e-9) and np.abs(turned_back).max() in (
        pytest.approx(6),
        pytest.approx(9),
    )
    shear = turn.T @ linear
    assert shear[0, 0] == pytest.approx(1) and shear[1, 1] == pytest.approx(1)
    assert sorted([shear[0, 1], shear[1, 0]]) == pytest.approx([-0.3, 0], abs=1e-9)


# ---- the whole view


@pytest.mark.parametrize("shape", SHAPES)
def test_views_stay_in_range_and_finite(shape):
    image = smooth((40, *shape[1:]))
    for values in (UNIT, WIDE):
        found = Strong(operations=3)(image * values.unit + values.low, draws(), values).image
        assert found.isfinite().all()
        assert [found.min().item(), found.max().item()] == pytest.approx([values.low, values.high], abs=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_brains_keep_their_range_roughly_and_are_not_cut_off(shape):
    image = brains((60, *shape[1:]))
    found = Strong(cutout=0)(image, draws(), BRAIN).image
    assert found.isfinite().all()
    low, high = found.flatten(1).amin(1), found.flatten(1).amax(1)
    assert low.median() < -1 and high.median() > 1 and low.min() < -2.6 and high.max() > 2.6
    assert found.abs().max() < 40  # an edge sharpened twice
    spread = torch.stack([one[before != 0].std() for one, before in zip(found, image, strict=True)])
    assert 0.5 < spread.median() < 1.5 and spread.max() < 4
    still = Strong(geometry=False, cutout=0)(image, draws(), BRAIN).image
    assert ((still == 0) == (image == 0)).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_labels_follow_the_image(shape):
    """With geometry alone, an image made of its label's values stays in step with the changed label."""
    label = (smooth((20, *shape[1:])) > 0.5).float()
    viewed = Strong(operations=2, names=strong.GEOMETRY)(label, draws())
    changed, weight = viewed.change.of_label(label, torch.ones_like(label))
    assert set(changed.unique().tolist()) <= {0.0, 1.0}
    (_, cut) = viewed.change.changes
    box = cut.of_image(torch.full_like(label, 2)) == 0.5
    counts = (weight > 0) & ~box
    agreements = torch.stack(
        [(a == b)[c].float().mean() for a, b, c in zip(viewed.image > 0.5, changed > 0.5, counts, strict=True)]
    )
    assert agreements.min() > 0.9 and agreements.mean() > 0.95
    assert (viewed.image[box] == 0.5).all() and box.any()  # cut last, whatever moved before
    assert (changed[box] == 0).all() and (weight[box] == 1).all()
    assert (weight == 0).any() and (counts.flatten(1).float().mean(1) > 0.3).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_without_geometry_labels_stay_where_they_are(shape):
    label = (smooth((10, *shape[1:])) > 0.5).float()
    viewed = Strong(geometry=False, cutout=0, operations=4)(smooth((10, *shape[1:])), draws())
    changed, weight = viewed.change.of_label(label, torch.ones_like(label))
    assert torch.equal(changed, label) and weight.min() == 1


def test_a_magnitude_of_zero_changes_nothing_but_the_range():
    image = smooth((20, 1, 16, 16), low=0.1, high=0.9)
    names = [name for name in Strong().drawn_from if name != "autocontrast"]
    found = Strong(5, magnitude=0, cutout=0, names=names)(image, draws()).image
    torch.testing.assert_close(found, image, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("label", "weight"), [("background", 1.0), ("ignore", 0.0)])
def test_the_box_is_as_large_as_said(label, weight):
    image = torch.full((400, 1, 40, 40), 0.9)
    viewed = Strong(0, cutout=0.3, cutout_label=label)(image, draws(), UNIT)
    cut = viewed.image == 0.5
    sides = cut.flatten(1).sum(1).sqrt() / 40
    assert sides.max().item() == pytest.approx(0.3, abs=0.01) and sides.mean().item() == pytest.approx(0.15, abs=0.02)
    changed, counted = viewed.change.of_label(torch.ones_like(image), torch.full_like(image, 0.4))
    assert torch.equal(changed == 0, cut)
    assert torch.equal(counted, torch.full_like(image, 0.4).masked_fill(cut, weight))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_seed_gives_the_same_view(shape):
    image, view, draw = smooth(shape), Strong(), draws(3)
    first, second = view(image, draw), view(image, draw)
    again = Strong()(image, draws(3))
    assert torch.equal(first.image, again.image)
    for one, other in zip(first.change.changes, again.change.changes, strict=True):
        for name, value in vars(one).items():
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(value, getattr(other, name))
    assert not torch.equal(first.image, second.image)
    assert not torch.equal(first.image, view(image, draws(4)).image)
    assert type(first.image) is torch.Tensor and first.image.shape == image.shape and first.image.dtype == image.dtype


def test_images_of_a_group_get_the_same_operations():
    image = smooth((1, 1, 20, 20)).expand(6, -1, -1, -1)
    groups = np.array([4, 0, 2, 4, 0, 2])
    names = [name for name in Strong().drawn_from if name != "noise"]
    found = Strong(3, cutout=0, names=names)(image, draws(2), UNIT, groups)
    assert torch.equal(found.image[:3], found.image[3:])
    assert all(not torch.equal(found.image[a], found.image[b]) for a, b in itertools.combinations(range(3), 2))
    matrix = found.change.changes[0].matrix
    assert len(matrix) == 6 and (matrix[:3] == matrix[3:]).all() and (matrix[0] != matrix[1]).any()
    noise = Strong(1, cutout=0, names=["noise"])(image, draws(2), UNIT, groups).image
    assert not torch.equal(noise[0], noise[3])  # but not the same noise


@pytest.mark.parametrize("name", strong.NAMES)
def test_views_are_the_same_in_mixed_precision(name):
    image = smooth((2, 1, 24, 24))
    view = Strong(names=[name])
    expected = view(image, draws(1))
    with torch.autocast("cpu", torch.bfloat16):
        found = view(image, draws(1))
        label = found.change.of_label(image, image)[0]
    assert torch.equal(found.image, expected.image)
    assert torch.equal(label, expected.change.of_label(image, image)[0])
    assert view(image.bfloat16(), draws(1)).image.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"operations": -1}, "operations must not be negative, .* got -1"),
        ({"magnitude": 1.5}, r"magnitude must be in \[0, 1\], got 1.5"),
        ({"magnitude": -0.1}, "magnitude"),
        ({"cutout": -0.1}, "cutout"),
        ({"cutout_label": "nothing"}, "cutout_label"),
        ({"names": ["blurr", "blur"]}, "names must be of identity, .*translate, got blurr"),
        ({"names": ["rotate"], "geometry": False}, "names must be of identity, .*noise, got rotate"),
    ],
)
def test_settings_out_of_range_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        Strong(**option)


def test_the_number_of_operations_may_be_drawn_for_each_image(monkeypatch):
    view, chosen, kind = Strong(operations=(1, 3), names=["brightness"], cutout=0), [], strong.Chosen
    monkeypatch.setattr(strong, "Chosen", lambda names, strengths: chosen.append(names) or kind(names, strengths))
    for index in range(300):
        view(smooth((2, 1, 16, 16)), draws(index))
    numbers = np.concatenate([(names == "brightness").sum(0) for names in chosen])
    found, counts = np.unique(numbers, return_counts=True)
    assert found.tolist() == [1, 2, 3] and counts.min() > 0.8 * counts.mean()
    for names in chosen:  # those that are left out come last
        assert (np.diff((names == "brightness").astype(int), axis=0) <= 0).all()


@pytest.mark.parametrize("operations", [(2, 1), (-1, 2), (1, 2, 3)])
def test_ranges_of_operations_that_are_none(operations):
    with pytest.raises(ValueError, match="or be the least and the largest number"):
        Strong(operations=operations)


def test_boxes_of_a_beta_distribution():
    """AugSeg's second box: 1 - lambda of the image on average, with the image's aspect."""
    from common.views import CutMix

    image = torch.arange(400.0).view(-1, 1, 1, 1).expand(400, 1, 40, 60).contiguous()
    viewed = CutMix(beta=(4, 4), aspect=(1, 1), prob=1)(image, draws()).image
    foreign = (viewed != image)[:, 0]
    shares = foreign.flatten(1).float().mean(1)
    assert shares.mean().item() == pytest.approx(0.5, abs=0.02) and shares.std().item() == pytest.approx(
        1 / 6, abs=0.02
    )
    heights, widths = foreign.any(2).sum(1) / 40, foreign.any(1).sum(1) / 60
    assert (heights - widths).abs().max() < 0.05
    with pytest.raises(ValueError, match="beta must be two positive numbers"):
        CutMix(beta=(1,))
