"""Movements of images: of which kind, how far, in which direction, and that several in a row are made in one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.transforms import Affine as MonaiAffine
from monai.transforms import Flip as MonaiFlip
from monai.transforms import Rotate90
from plain_views import BRAIN, Largest, Recorded, brains, draws, places, smooth, taken
from scipy.interpolate import RegularGridInterpolator
from scipy.spatial.transform import Rotation

from common.views import (
    Affine,
    Chain,
    Changes,
    CutOut,
    Elastic,
    FeatureDropout,
    Flip,
    Geometry,
    Intensity,
    IntensityJitter,
    Moved,
    QuarterTurn,
    Values,
    View,
    Viewed,
    Weak,
)

SIZES = [(14, 19), (10, 13, 16)]
CPU = torch.device("cpu")
# each with numbers of its own, so that the numbers drawn can be told from one another
KINDS = {
    "rotate": {"rotate": 31.0},
    "scale": {"scale": 0.29},
    "shear": {"shear": 0.21},
    "translate": {"translate": 0.17},
    "all": {"rotate": 31.0, "scale": 0.29, "shear": 0.21, "translate": 0.17},
}


def motions(view, size, number=1000, seed=0):
    """The linear parts and the shifts of many movements."""
    matrices, displacement = view.motion(number, size, draws(seed), CPU)
    assert displacement is None and matrices.shape == (number, len(size) + 1, len(size) + 1)
    bottom = np.eye(len(size) + 1)[-1]
    assert (matrices[:, -1] == bottom).all()
    return matrices[:, :-1, :-1], matrices[:, :-1, -1]


def even(amounts, limit):
    """Whether columns of numbers are drawn evenly from -limit to limit, each on its own."""
    amounts = np.asarray(amounts).reshape(len(amounts), -1)
    np.testing.assert_allclose(amounts.max(0), limit, rtol=0.02)
    np.testing.assert_allclose(amounts.min(0), -limit, rtol=0.02)
    np.testing.assert_allclose(amounts.std(0), limit / np.sqrt(3), rtol=0.05)
    assert np.abs(np.corrcoef(amounts.T) - np.eye(amounts.shape[1])).max() < 0.1


def euler(linear):
    """Angles in degrees about the axes, in 3D those about x, y and z of what turns with the image."""
    if linear.shape[-1] == 2:
        return np.rad2deg(np.arctan2(linear[:, 1, 0], linear[:, 0, 0]))[:, None]
    return Rotation.from_matrix(linear).as_euler("XYZ", degrees=True)


# ---- affine


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_affine_does_what_monai_does_with_the_same_numbers(kind, size):
    n, image, draw = len(size), smooth((3, 2, *size)), Recorded(1)
    view = Affine(**KINDS[kind])
    found = view(image, draw).image
    amounts = {name: draw.drawn[-getattr(view, name), getattr(view, name)] for name in KINDS[kind]}
    for index in range(3):
        drawn = {name: values[index] for name, values in amounts.items()}
        given = {
            "rotate_params": np.deg2rad(drawn["rotate"]).tolist() if "rotate" in drawn else None,
            "shear_params": drawn["shear"].tolist() if "shear" in drawn else None,
            "scale_params": (1 + drawn["scale"]).tolist() if "scale" in drawn else None,
            "translate_params": (drawn["translate"] * size).tolist() if "translate" in drawn else None,
        }
        if n == 2 and "rotate" in drawn:
            given["rotate_params"] = given["rotate_params"][0]
        theirs, _ = MonaiAffine(**given, padding_mode="border", mode="bilinear", device=CPU)(image[index])
        torch.testing.assert_close(found[index], theirs.as_tensor(), atol=2e-4, rtol=0)
        assert (found[index] - image[index]).abs().max() > 0.02


@pytest.mark.parametrize("size", SIZES)
def test_angles_are_degrees_about_each_axis(size):
    linear, shift = motions(Affine(rotate=30), size)
    angles = euler(linear)
    assert angles.shape[1] == {2: 1, 3: 3}[len(size)]
    even(angles, 30)
    np.testing.assert_allclose(linear @ linear.transpose(0, 2, 1) - np.eye(len(size)), 0, atol=1e-12)
    assert not shift.any()


@pytest.mark.parametrize("size", SIZES)
def test_factors_lie_around_1_along_each_axis(size):
    linear, shift = motions(Affine(scale=0.3), size)
    factors = np.diagonal(linear, axis1=1, axis2=2)
    even(factors - 1, 0.3)
    assert not shift.any() and not (linear * (1 - np.eye(len(size)))).any()


@pytest.mark.parametrize("size", SIZES)
def test_shears_lie_beside_the_diagonal(size):
    """MONAI's matrix is a product of one shear for each of them, so that in 3D they are not alone there."""
    linear, shift = motions(Affine(shear=0.3), size)
    assert not shift.any()
    if len(size) == 2:
        even(np.stack([linear[:, 0, 1], linear[:, 1, 0]], 1), 0.3)
    else:
        beside = linear[:, ~np.eye(3, dtype=bool)]
        assert (np.abs(beside).max(0) > 0.28).all() and np.abs(beside).max() < 0.3 * (1 + 0.3 + 0.3**2) + 1e-9


@pytest.mark.parametrize("size", SIZES)
def test_shifts_are_shares_of_the_side(size):
    linear, shift = motions(Affine(translate=0.25), size)
    even(shift / size, 0.25)
    assert (linear == np.eye(len(size))).all()


@pytest.mark.parametrize("size", SIZES)
def test_scaled_first_then_shifted_sheared_and_turned(size):
    """Each of two movements can be told from their product only in this order."""
    n = len(size)
    linear, shift = motions(Affine(rotate=60, translate=0.2), size)
    even(np.einsum("bji,bj->bi", linear, shift) / size, 0.2)
    _, shift = motions(Affine(scale=0.5, translate=0.2), size)
    even(shift / size, 0.2)
    linear, _ = motions(Affine(rotate=60, scale=0.5), size)
    factors = np.sqrt(np.einsum("bij,bij->bj", linear, linear))
    np.testing.assert_allclose(np.einsum("bij,bik->bjk", linear, linear), factors[:, None] ** 2 * np.eye(n), atol=1e-9)
    even(factors - 1, 0.5)
    if n == 2:
        linear, _ = motions(Affine(shear=0.4, scale=0.5), size)
        even(linear[:, 1, 0] / linear[:, 0, 0], 0.4)
        linear, shift = motions(Affine(shear=0.4, translate=0.2), size)
        even(np.linalg.solve(linear, shift[..., None])[..., 0] / size, 0.2)


def test_affine_by_hand():
    """The largest numbers of all: a quarter turn, a shift by a quarter, half as large again."""
    square = torch.arange(25.0).view(1, 1, 5, 5)
    turned = Affine(rotate=90)(square, Largest()).image
    torch.testing.assert_close(turned[0, 0], torch.rot90(square[0, 0], -1))  # pixel y shows what was at M y
    line = torch.arange(8.0).view(1, 1, 8, 1)
    shifted = Affine(translate=0.25)(line, Largest()).image
    torch.testing.assert_close(shifted.flatten(), torch.tensor([2.0, 3, 4, 5, 6, 7, 7, 7]), atol=1e-5, rtol=0)
    line = torch.arange(9.0).view(1, 1, 9, 1)
    smaller = Affine(scale=0.5)(line, Largest()).image
    torch.testing.assert_close(smaller.flatten(), torch.tensor([0, 0, 1, 2.5, 4, 5.5, 7, 8, 8]), atol=1e-5, rtol=0)
    plane = torch.arange(5.0).view(1, 1, 5, 1).expand(1, 1, 5, 3)
    sheared = Affine(shear=1.0)(plane, Largest()).image
    expected = [[0.0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 4]]  # x + y along the first axis
    torch.testing.assert_close(sheared[0, 0], torch.tensor(expected), atol=1e-5, rtol=0)


def test_an_image_is_turned_about_each_axis_in_3d():
    image = smooth((1, 1, 7, 7, 7))
    for axis, plane in enumerate([(1, 2), (2, 0), (0, 1)]):

        class About(Largest):
            def uniform(self, low, high, size, axis=axis):
                return np.full(size, high) * (np.eye(3)[axis] if size == (1, 3) else 1)

        turned = Affine(rotate=90)(image, About()).image
        torch.testing.assert_close(turned[0, 0], torch.rot90(image[0, 0], -1, plane), atol=1e-6, rtol=0)


@pytest.mark.parametrize("prob", [0.0, 0.3, 1.0])
def test_affine_happens_with_its_probability(prob):
    linear, shift = motions(Affine(10, 0.1, 0.1, 0.1, prob=prob), (8, 9))
    moved = (linear != np.eye(2)).any(axis=(1, 2))
    assert moved.mean() == pytest.approx(prob, abs=0.03)
    assert (shift.any(1) == moved).all()
    assert motions(Affine(10), (8, 9))[0][:, 0, 0].max() < 1  # always where not given


# ---- flips and quarter turns


@pytest.mark.parametrize("size", SIZES)
def test_flip_does_what_monai_does(size):
    image = smooth((2, 2, *size))
    for number in range(len(size) + 1):
        for axes in itertools.combinations(range(len(size)), number):
            viewed = Flip(axes, prob=1.0)(image, draws())
            for index in range(2):
                expected = MonaiFlip(axes)(image[index]).as_tensor() if axes else image[index]
                assert torch.equal(viewed.image[index], expected)


def test_each_axis_is_flipped_on_its_own_and_with_its_probability():
    linear, shift = motions(Flip([0, 2], prob=0.3), (4, 5, 6))
    signs = np.diagonal(linear, axis1=1, axis2=2)
    assert (linear == signs[:, None] * np.eye(3)).all() and not shift.any()
    assert set(np.unique(signs)) == {-1, 1} and (signs[:, 1] == 1).all()
    flipped = signs == -1
    assert flipped.mean(0).tolist() == pytest.approx([0.3, 0, 0.3], abs=0.03)
    assert (flipped[:, 0] & flipped[:, 2]).mean() == pytest.approx(0.09, abs=0.02)
    assert (motions(Flip(), (4, 5))[0][:, 0, 0] == -1).mean() == pytest.approx(0.5, abs=0.03)
    assert (motions(Flip(), (4, 5))[0][:, 1, 1] == 1).all()


@pytest.mark.parametrize("size", [(6, 6), (5, 5, 8)])
def test_quarter_turns_are_monai_s(size):
    image = smooth((24, 1, *size))
    found, turns = QuarterTurn(prob=1.0)(image, draws()).image, []
    for ours, one in zip(found, image, strict=True):
        same = [k for k in range(4) if torch.equal(ours, Rotate90(k, (0, 1))(one).as_tensor())]
        turns += same
        assert len(same) == 1
    assert set(turns) == {0, 1, 2, 3}


def test_quarter_turns_happen_with_their_probability():
    for view, prob in ((QuarterTurn(prob=1.0), 1.0), (QuarterTurn(), 0.5), (QuarterTurn(prob=0.0), 0.0)):
        angles = np.rint(euler(motions(view, (4, 4), 4000)[0])[:, 0]).astype(int) % 360
        shares = [(angles == angle).mean() for angle in (0, 90, 180, 270)]
        assert shares == pytest.approx([1 - prob * 3 / 4, prob / 4, prob / 4, prob / 4], abs=0.03)


# ---- elastic


@pytest.mark.parametrize(
    ("size", "spacing", "points"),
    [((33, 49), 16.0, (3, 4)), ((32, 50), 16.0, (2, 4)), ((9, 21, 17), 8.0, (2, 3, 3)), ((6, 40), 16.0, (2, 3))],
)
def test_elastic_displaces_a_coarse_grid_and_lies_linearly_between(size, spacing, points):
    """Points are ``spacing`` apart or a little more, the outer ones on the outer pixels."""
    draw = Recorded()
    matrices, field = Elastic(3.0, spacing).motion(2, size, draw, CPU)
    coarse = draw.drawn[-3.0, 3.0]
    assert coarse.shape == (2, len(size), *points)
    assert field.shape == (2, len(size), *size) and field.dtype == torch.float32
    assert (matrices == np.eye(len(size) + 1)).all() and len(matrices) == 2
    where = np.stack(np.meshgrid(*[np.arange(n) for n in size], indexing="ij"), -1)
    for index, axis in itertools.product(range(2), range(len(size))):
        knots = [np.linspace(0, side - 1, number) for side, number in zip(size, points, strict=True)]
        assert all(line[1] >= min(spacing, side - 1) for line, side in zip(knots, size, strict=True))
        expected = RegularGridInterpolator(knots, coarse[index, axis])(where)
        np.testing.assert_allclose(field[index, axis].numpy(), expected, atol=1e-5)


def test_elastic_reaches_as_far_as_said_and_folds_nothing():
    even(Elastic(4.0, 8.0).motion(1000, (9, 9), draws(), CPU)[1].numpy()[..., (0, -1), (0, -1)], 4.0)
    field = Elastic(4.0, 8.0).motion(50, (33, 40), draws(), CPU)[1].numpy()
    for axis in (0, 1):
        assert (1 + np.diff(field[:, axis], axis=1 + axis)).min() > -1e-5
    assert (Elastic().motion(1, (64, 64), draws(), CPU)[1].abs().max() - 4).abs() < 0.5


@pytest.mark.parametrize("size", [(33, 40), (12, 20, 17)])
def test_elastic_moves_along_the_axis_it_says(size):
    """An image whose values are places shows where each pixel came from."""
    axes = torch.meshgrid(*[torch.arange(float(n)) for n in size], indexing="ij")
    image = torch.stack(axes)[None]
    viewed = Elastic(2.0, 6.0)(image, draws())
    field = Elastic(2.0, 6.0).motion(1, size, draws(), CPU)[1]
    for axis, side in enumerate(size):
        expected = (image + field)[0, axis].clamp(0, side - 1)
        torch.testing.assert_close(viewed.image[0, axis], expected, atol=1e-4, rtol=0)
    label, _ = viewed.change.of_label(image, torch.ones_like(image))
    place, near = (image + field)[0], label[0]
    inner = (place > 0).all(0) & (place < torch.tensor(size).view(-1, *[1] * len(size)) - 1).all(0)
    assert inner.float().mean() > 0.5 and ((place - near).abs().amax(0)[inner] < 0.5001).all()
    with pytest.raises(ValueError, match="elastic deformation cannot be undone"):
        viewed.change.undo(image)


# ---- chains


class Counted:
    """F.grid_sample, with a count of its calls."""

    def __init__(self, monkeypatch) -> None:
        self.plain, self.calls = F.grid_sample, 0
        monkeypatch.setattr(F, "grid_sample", self)

    def __call__(self, *args, **options):
        self.calls += 1
        return self.plain(*args, **options)


class Kept(Geometry):
    """Given movements."""

    def __init__(self, matrices) -> None:
        super().__init__()
        self.matrices = np.asarray(matrices)

    def motion(self, number, size, draw, device):
        return self.matrices, None


class Bent(Kept):
    """Given movements and given displacements."""

    elastic = True

    def __init__(self, matrices, field) -> None:
        super().__init__(matrices)
        self.field = field

    def motion(self, number, size, draw, device):
        return self.matrices, self.field


class Doubled(Intensity):
    def changed(self, image, draw, values):
        assert image.dtype == torch.float32
        return 2 * image


def random_matrices(size, number, seed):
    return Affine(20, 0.2, 0.2, 0.1).motion(number, size, draws(seed), CPU)[0]


@pytest.mark.parametrize("size", SIZES)
def test_movements_in_a_row_are_one(monkeypatch, size):
    image, counted = smooth((2, 1, *size)), Counted(monkeypatch)
    first, second, third = (random_matrices(size, 2, seed) for seed in range(3))
    viewed = Chain([Kept(first), Kept(second), Kept(third)])(image, draws())
    assert counted.calls == 1
    (change,) = viewed.change.changes
    np.testing.assert_allclose(change.matrix, first @ second @ third)
    assert change.displacement is None
    for index in range(2):
        expected = taken(image[index], places(first[index] @ second[index] @ third[index], size))
        np.testing.assert_allclose(viewed.image[index], expected, atol=1e-4)


@pytest.mark.parametrize("size", [(40, 60), (24, 30, 36)])
def test_a_chain_is_its_views_one_after_the_other(size):
    """Interpolated twice instead of once, a smooth image is nearly the same; in the other order it is not."""
    grid = torch.meshgrid(*[torch.linspace(0, 2, n) for n in size], indexing="ij")
    image = sum(torch.sin(axis * (number + 1)) for number, axis in enumerate(grid))[None, None]
    first, second = Kept(random_matrices(size, 1, 3)), Kept(random_matrices(size, 1, 4))
    inner = (..., *[slice(n // 3, -n // 3) for n in size])
    both = Chain([first, second])(image, draws()).image[inner]
    turns = second(first(image, draws()).image, draws()).image[inner]
    torch.testing.assert_close(both, turns, atol=0.01, rtol=0)
    assert (Chain([second, first])(image, draws()).image[inner] - turns).abs().max() > 0.05


@pytest.mark.parametrize("size", SIZES)
def test_an_elastic_movement_bends_what_the_others_gave(monkeypatch, size):
    """Places are M (y + u): the image is moved by M, and then deformed."""
    image, counted = smooth((2, 1, *size)), Counted(monkeypatch)
    first, second, own = (random_matrices(size, 2, seed) for seed in (5, 6, 7))
    field = Elastic(2.0, 5.0).motion(2, size, draws(1), CPU)[1]
    viewed = Chain([Kept(first), Kept(second), Bent(own, field)])(image, draws())
    assert counted.calls == 1 and len(viewed.change.changes) == 1
    for index in range(2):
        where = places(first[index] @ second[index] @ own[index], size, field[index].numpy())
        np.testing.assert_allclose(viewed.image[index], taken(image[index], where), atol=1e-4)


def test_nothing_moves_behind_an_elastic_movement():
    for behind in (Flip(), Affine(), Elastic(), QuarterTurn()):
        with pytest.raises(ValueError, match=f"last of the movements in a row, got a {type(behind).__name__}"):
            Chain([Flip(), Elastic(), behind])
    for fine in ([Affine(), Elastic()], [Elastic(), IntensityJitter(), Flip()], [Elastic(), CutOut(), Elastic()]):
        Chain(fine)


def test_what_comes_between_is_done_between(monkeypatch):
    size = SIZES[0]
    image, counted = smooth((2, 1, *size), high=0.4), Counted(monkeypatch)
    first, second = (Kept(random_matrices(size, 2, seed)) for seed in (1, 2))
    viewed = Chain([first, Doubled(), second])(image, draws())
    assert counted.calls == 2 and len(viewed.change.changes) == 2
    by_hand = second(2 * first(image, draws()).image, draws()).image
    torch.testing.assert_close(viewed.image, by_hand)
    label, weight = viewed.change.of_label(image, torch.ones_like(image))
    moved, counts = first(image, draws()).change.of_label(image, torch.ones_like(image))
    expected = second(image, draws()).change.of_label(moved, counts)
    assert torch.equal(label, expected[0]) and torch.equal(weight, expected[1])
    assert Chain(Doubled())(image, draws()).change.changes == ()


def test_what_was_bent_before_is_not_bent_again():
    size = SIZES[0]
    image, field = smooth((2, 1, *size)), Elastic(2.0, 5.0).motion(2, size, draws(1), CPU)[1]
    first, second = Bent(random_matrices(size, 2, 1), field), Kept(random_matrices(size, 2, 2))
    viewed = Chain([first, Weak(), second])(image, draws())
    torch.testing.assert_close(viewed.image, second(first(image, draws()).image, draws()).image)
    assert viewed.change.changes[-1].displacement is None


def test_a_box_lies_where_the_chain_puts_it():
    """Cut before a flip it is flipped with the image, and so is its label."""
    image = torch.ones(1, 1, 9, 9)
    cut_first = Chain([CutOut(), Flip(prob=1.0)])(image, draws(1))
    cut_last = Chain([Flip(prob=1.0), CutOut()])(image, draws(1))
    box = CutOut()(image, draws(1)).image
    assert (box == 0.5).any() and not torch.equal(box, box.flip(2))
    assert torch.equal(cut_first.image, box.flip(2))
    labels = {name: view.change.of_label(image, image)[0] for name, view in {"f": cut_first, "l": cut_last}.items()}
    assert torch.equal(labels["f"] == 0, cut_first.image == 0.5)
    assert torch.equal(labels["l"] == 0, cut_last.image == 0.5)


class Noted(View):
    """Keeps what it was given."""

    def forward(self, image, draw, values=None, groups=None, step=None):
        self.given = image, draw, values, groups, step
        return Viewed(image, Changes())


def test_a_chain_hands_on_what_it_gets():
    noted, draw, groups, step = Noted(), draws(), np.array([1, 1]), object()
    image = smooth((2, 1, 6, 6))
    Chain([Chain([noted])])(image, draw, BRAIN, groups, step)
    assert torch.equal(noted.given[0], image) and noted.given[1] is draw and noted.given[2] == BRAIN
    assert noted.given[3] is groups and noted.given[4] is step
    Chain(noted)(image, draw)
    assert noted.given[2:] == (Values(), None, None)


@pytest.mark.parametrize("view", [Affine(20), Elastic(2, 5), Chain([Affine(20), IntensityJitter(prob=1.0)]), Flip()])
def test_images_keep_their_precision_and_no_gradients(view):
    image = smooth((2, 1, 12, 12)).requires_grad_()
    expected = view(image, draws()).image
    assert not expected.requires_grad and expected.dtype == torch.float32 and type(expected) is torch.Tensor
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(view(image, draws()).image, expected)
    half = view(image.detach().bfloat16(), draws()).image
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, view(image.detach().bfloat16().float(), draws()).image.bfloat16())


def test_values_are_clamped_to_their_range_after_an_operation_and_background_stays():
    class Shifted(Intensity):
        def changed(self, image, draw, values):
            return 3 * image + 0.5

    image = torch.tensor([-1.0, 0.0, 0.1, 0.2]).view(1, 1, 4, 1)

    def seen(values):
        return Chain(Shifted())(image, draws(), values).image.flatten().tolist()

    assert seen(None) == pytest.approx([0, 0.5, 0.8, 1])
    assert seen(Values(-2, 1)) == pytest.approx([-2, 0.5, 0.8, 1])
    assert seen(BRAIN) == pytest.approx([-2.5, 0, 0.8, 1.1])
    assert seen(BRAIN._replace(low=0, high=0.1)) == pytest.approx([-2.5, 0, 0.8, 1.1])  # clamp says so, not the range


def test_the_range_of_values():
    assert Values.of([0, 1]) == Values() == Values(0.0, 1.0, True, None)
    assert Values.of((-1, 3)) == Values(-1.0, 3.0, True, None) and Values.of((-1, 3)).unit == 4
    assert Values.of(None) == Values(-2.5, 2.5, False, 0.0)
    for wrong in ([1, 0], [1, 1], [0], [0, 1, 2], []):
        with pytest.raises(ValueError, match="value_range must be the lowest and the highest"):
            Values.of(wrong)


def test_the_background_of_flipped_brains_stays_where_it_is():
    """A rim of pixels that are no longer exactly 0 would get noise."""
    image = brains((4, 1, 12, 20, 20))
    viewed = Chain([Flip([0, 1, 2]), IntensityJitter(prob=1.0)])(image, draws(), BRAIN)
    outside, _ = Changes(viewed.change.changes[:1]).of_label((image == 0).float(), None)
    assert torch.equal(viewed.image == 0, outside == 1)


def test_features_are_changed_by_all_views_in_turn():
    class Times(View):
        def __init__(self, factor, shift) -> None:
            super().__init__()
            self.factor, self.shift = factor, shift

        def forward(self, image, draw, values=None, groups=None, step=None):
            return Viewed(image, Changes(), lambda levels: tuple(self.factor * x + self.shift for x in levels))

    image = torch.zeros(1, 1, 4, 4)
    perturb = Chain([Times(2, 1), Weak(), Flip(), Times(3, 0)])(image, draws()).perturb
    assert perturb((1.0, 2.0)) == (9.0, 15.0)
    assert Chain([Weak(), Flip()])(image, draws()).perturb is None
    assert Chain([FeatureDropout(), Weak()])(image, draws()).perturb is not None


def test_weak_is_the_image_itself():
    image = smooth((2, 1, 6, 6))
    viewed = Weak()(image, draws())
    assert viewed.image is image and viewed.perturb is None and viewed.change.of_image(image) is image
    assert Weak.needs.weak_gradients


# ---- groups

MOVES = [Affine(30, 0.2, 0.1, 0.1), Elastic(2, 5), Chain([Flip([0, 1]), Affine(30), Elastic(2, 5)])]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("view", MOVES)
def test_images_of_one_group_move_alike_and_others_do_not(view, size):
    image = smooth((1, 1, *size)).expand(5, -1, *size)
    groups = np.array([7, 3, 7, 9, 3])
    found = view(image, draws(2), None, groups)
    for one, other in itertools.combinations(range(5), 2):
        alike = torch.equal(found.image[one], found.image[other])
        assert alike == (groups[one] == groups[other])
    label, weight = found.change.of_label(image, torch.ones_like(image))
    assert torch.equal(label[0], label[2]) and torch.equal(weight[1], weight[4])
    assert not torch.equal(label[0], label[1])
    alone = view(image, draws(2)).image
    assert all(not torch.equal(alone[a], alone[b]) for a, b in itertools.combinations(range(5), 2))


def test_intensities_differ_within_a_group():
    image = smooth((1, 1, 16, 16)).expand(4, -1, -1, -1)
    view = Chain([Affine(30), IntensityJitter(prob=1.0)])
    found = view(image, draws(), None, np.array([0, 1, 0, 1]))
    label, _ = found.change.of_label(image, None)
    assert torch.equal(label[0], label[2]) and torch.equal(label[1], label[3]) and not torch.equal(label[0], label[1])
    assert all(not torch.equal(found.image[a], found.image[b]) for a, b in itertools.combinations(range(4), 2))


# ---- draws and settings


@pytest.mark.parametrize("view", [*MOVES, QuarterTurn(1.0), Flip([0, 1])])
def test_the_same_seed_gives_the_same_movement(view):
    image = smooth((6, 1, 15, 15))
    draw = draws(4)
    first, second = view(image, draw).image, view(image, draw).image
    assert torch.equal(first, view(image, draws(4)).image)
    assert not torch.equal(first, second) and not torch.equal(first, view(image, draws(5)).image)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Affine(rotate=-1), "rotate, shear and translate must not be negative"),
        (lambda: Affine(scale=-0.1), "got 0.0, 0.0, 0.0 and -0.1"),
        (lambda: Affine(scale=1.0), r"scale must be in \[0, 1\)"),
        (lambda: Affine(shear=-0.1), "got 0.0, -0.1, 0.0 and 0.0"),
        (lambda: Affine(translate=-0.1), "got 0.0, 0.0, -0.1 and 0.0"),
        (lambda: Affine(prob=1.1), "prob must be a probability"),
        (lambda: Affine(prob=-0.1), "prob must be a probability"),
        (lambda: Flip(prob=2), "prob must be a probability"),
        (lambda: QuarterTurn(prob=2), "prob must be a probability"),
        (lambda: Flip([3]), "axes must be different ones of 0, 1 and 2"),
        (lambda: Flip([-1]), "axes must be different ones of 0, 1 and 2"),
        (lambda: Flip([1, 1]), "axes must be different ones of 0, 1 and 2"),
        (lambda: Flip([0, 2])(torch.zeros(1, 1, 4, 4), draws()), r"axes must be below 2, .* got \[0, 2\]"),
        (lambda: QuarterTurn()(torch.zeros(1, 1, 4, 5), draws()), "must be square, got 4 x 5"),
        (lambda: QuarterTurn()(torch.zeros(1, 1, 4, 5, 4), draws()), "must be square, got 4 x 5 x 4"),
        (lambda: Elastic(-1), "displacement must not be negative"),
        (lambda: Elastic(4, 7.9), "twice the displacement of 4 pixels, got 7.9"),
        (lambda: Elastic(0.1, 0.5), "spacing must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_outermost_settings_are_taken():
    for view in (Affine(scale=0.99, prob=0), Flip([], prob=1), Flip([2, 1, 0]), Elastic(4, 8), Elastic(0, 1)):
        assert view(torch.zeros(1, 1, 4, 4, 4), draws()).image.shape == (1, 1, 4, 4, 4)


def test_a_view_is_to_be_defined():
    for use in (
        lambda: View()(None, draws()),
        lambda: Geometry()(torch.zeros(1, 1, 2, 2), draws()),
        lambda: Intensity()(torch.zeros(1, 1, 2, 2), draws()),
    ):
        with pytest.raises(NotImplementedError):
            use()
    assert isinstance(Affine(5)(torch.zeros(1, 1, 2, 2), draws()).change.changes[0], Moved)
