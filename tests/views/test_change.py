"""A change of images and the same change of their labels, in 2D and 3D, against places computed one by one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.transforms.utils import create_rotate, create_translate
from plain_views import places, random_matrix, taken

from common.label_space import LabelSpace
from common.views import Change, Changes, Cut, Mixed, Moved
from common.views.change import affine_grid

SIZES = [(9, 10), (8, 9, 11)]
BOXES = [[[2, 4], [1, 6], [3, 5]], [[0, 8], [3, 4], [0, 11]], [[5, 5], [2, 7], [1, 2]]]  # the last one is empty


def moved_by(matrices, size, bend: float = 0.0) -> Moved:
    """Movements of a batch, with a random displacement of up to ``bend`` pixels where there is one."""
    generator = torch.Generator().manual_seed(7)
    shape = (len(matrices), len(size), *size)
    return Moved(np.stack(matrices), bend * (2 * torch.rand(shape, generator=generator) - 1) if bend else None)


def origins(change: Moved, size) -> list[np.ndarray]:
    """Where the pixels of each image come from, by the definition: M y + u."""
    found = []
    for index, matrix in enumerate(change.matrix):
        bend = 0 if change.displacement is None else np.moveaxis(change.displacement[index].double().numpy(), 0, -1)
        found.append(places(matrix, size) + bend)
    return found


def masks(size, boxes=BOXES) -> np.ndarray:
    """Boxes as masks ``B 1 H W [D]``, pixel by pixel."""
    mask = np.zeros((len(boxes), 1, *size), bool)
    for index, box in enumerate(boxes):
        for pixel in itertools.product(*[range(n) for n in size]):
            mask[(index, 0, *pixel)] = all(a <= p < b for p, (a, b) in zip(pixel, box, strict=False))
    return mask


def boxes_of(size) -> np.ndarray:
    return np.array([box[: len(size)] for box in BOXES])


@pytest.mark.parametrize("bend", [0.0, 1.5])
@pytest.mark.parametrize("size", SIZES)
def test_image_is_that_of_scipy(size, bend):
    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    change = moved_by([random_matrix(len(size), seed) for seed in range(2)], size, bend)
    found = change.of_image(image).numpy()
    for index, where in enumerate(origins(change, size)):
        np.testing.assert_allclose(found[index], taken(image[index], where), atol=1e-4)


@pytest.mark.parametrize("bend", [0.0, 1.5])
@pytest.mark.parametrize("size", SIZES)
def test_label_is_the_nearest_one_and_outside_has_no_weight(size, bend):
    rng = np.random.default_rng(1)
    label = torch.from_numpy(rng.integers(1, 5, (2, 2, *size)))
    weight = torch.from_numpy(rng.uniform(0.5, 1, (2, 1, *size)))
    change = moved_by([random_matrix(len(size), seed) for seed in (3, 4)], size, bend)
    moved, counted = change.of_label(label, weight)
    goes_on, none = change.of_label(label, None)
    assert none is None and moved.shape == goes_on.shape == label.shape and counted.shape == weight.shape
    inside = outside = 0
    for index, where in enumerate(origins(change, size)):
        for pixel in itertools.product(*[range(n) for n in size]):
            exact = where[pixel]
            if np.abs(exact - np.round(exact)).max() > 0.499:
                continue  # midway between two pixels either may be the nearest
            origin = tuple(np.round(exact).astype(int))
            edge = tuple(np.clip(origin, 0, np.array(size) - 1))
            assert (goes_on[(index, slice(None), *pixel)] == label[(index, slice(None), *edge)]).all()
            if origin == edge:
                assert (moved[(index, slice(None), *pixel)] == label[(index, slice(None), *origin)]).all()
                assert counted[(index, 0, *pixel)].item() == pytest.approx(weight[(index, 0, *origin)].item())
                inside += 1
            else:
                assert counted[(index, 0, *pixel)] == 0
                outside += 1
    assert inside > 2 * np.prod(size) / 3 and outside > 10
    assert set(moved.unique().tolist()) <= {0, *label.unique().tolist()}


@pytest.mark.parametrize("size", SIZES)
def test_whole_pixels_are_exact_and_undone_exactly(size):
    """A shift by whole pixels takes every value as it is, neither half a pixel off nor interpolated."""
    image = torch.rand(1, 2, *size, generator=torch.Generator().manual_seed(0)).double()
    shift = [2, -1, 3][: len(size)]
    change = moved_by([create_translate(len(size), shift)], size)
    expected = torch.roll(image, [-s for s in shift], dims=list(range(2, 2 + len(size))))
    inner = (..., *[slice(3, -3)] * len(size))
    assert expected[inner].numel()
    assert change.of_image(image).dtype == torch.float64
    torch.testing.assert_close(change.of_image(image)[inner], expected[inner])
    label, _ = change.of_label(image.round(), torch.ones_like(image))
    torch.testing.assert_close(label[inner], expected.round().float()[inner], rtol=0, atol=0)
    torch.testing.assert_close(change.undo(change.of_image(image))[inner], image[inner])


@pytest.mark.parametrize("turns", [-3, -2, -1, 0, 1, 2, 3, 4])
def test_a_quarter_turn_is_exact(turns):
    label = torch.arange(16.0).view(1, 1, 4, 4)
    moved, weight = moved_by([create_rotate(2, turns * np.pi / 2)], (4, 4)).of_label(label, torch.ones_like(label))
    assert torch.equal(moved[0, 0], torch.rot90(label[0, 0], -turns))
    assert weight.min() == 1


def signed_permutations(n):
    """All matrices that flip and turn an image onto its pixels."""
    for axes in itertools.permutations(range(n)):
        for signs in itertools.product((-1, 1), repeat=n):
            matrix = np.eye(n + 1)
            matrix[:n, :n] = np.eye(n)[list(axes)] * np.array(signs)
            yield matrix


@pytest.mark.parametrize("size", [(6, 6), (5, 5, 5)])
def test_flips_and_quarter_turns_take_each_pixel_as_it_is(size):
    """All of them in one batch; no pixel is off by a rounding error, and what was 0 stays 0."""
    matrices = list(signed_permutations(len(size)))
    assert len(matrices) == {2: 8, 3: 48}[len(size)]
    image = torch.rand(len(matrices), 2, *size, generator=torch.Generator().manual_seed(0))
    image[:, 0] = (image[:, 0] - 0.5).clamp(min=0)
    change = moved_by(matrices, size)
    found, label, back = change.of_image(image), change.of_label(image, image)[0], change.undo(change.of_image(image))
    for index, matrix in enumerate(matrices):
        where = np.rint(places(matrix, size)).astype(int)
        for pixel in itertools.product(*[range(n) for n in size]):
            origin = tuple(where[pixel])
            assert torch.equal(found[(index, slice(None), *pixel)], image[(index, slice(None), *origin)])
    assert torch.equal(found, label) and torch.equal(back, image)


@pytest.mark.parametrize(
    ("linear", "shift"),
    [
        ([[0, -1], [1, 0]], [0, 0]),  # a quarter turn of an image that is not square
        ([[1, 1], [0, 1]], [0, 0]),
        ([[1, 0], [1, 1]], [0, 0]),
        ([[1, 1], [0, 0]], [0, 0]),
        ([[0, 1], [0, 1]], [0, 0]),
        ([[2, 0], [0, 1]], [0, 0]),
        ([[1, 0], [0, -1]], [1, 0]),
        ([[1, 0], [0, -1]], [0, -2]),
        ([[1, 0], [0, -1]], [0, 0.3]),
        ([[1, 0.01], [0, -1]], [0, 0]),
        ([[1, 0], [1, 0]], [0, 0]),
        ([[1, 0], [2, 0]], [0, 0]),
    ],
)
@pytest.mark.parametrize("size", [(6, 9), (7, 7), (4, 8)])
def test_other_movements_are_not_taken_for_flips(linear, shift, size):
    matrix = np.eye(3)
    matrix[:2, :2], matrix[:2, 2] = linear, shift
    image = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(0))
    found = moved_by([np.eye(3), matrix], size).of_image(image)  # one of a batch is enough
    np.testing.assert_allclose(found[0], image[0], atol=1e-5)
    np.testing.assert_allclose(found[1], taken(image[1], places(matrix, size)), atol=1e-4)


def test_a_displacement_counts_where_the_matrix_only_flips():
    image = torch.arange(12.0).view(1, 1, 3, 4)
    bend = torch.zeros(1, 2, 3, 4)
    bend[:, 1] = 1
    found = Moved(np.diag([-1.0, 1.0, 1.0])[None], bend).of_image(image)
    torch.testing.assert_close(
        found[0, 0], torch.tensor([[9.0, 10, 11, 11], [5, 6, 7, 7], [1, 2, 3, 3]]), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("size", [(48, 64), (24, 28, 32)])
def test_undo_brings_a_smooth_image_back(size):
    grid = torch.meshgrid(*[torch.linspace(0, 3, n) for n in size], indexing="ij")
    image = sum(torch.sin(axis + number) for number, axis in enumerate(grid))[None, None]
    change = moved_by([random_matrix(len(size), 5)], size)
    back = change.undo(change.of_image(image))
    inner = (..., *[slice(n // 3, -n // 3) for n in size])
    torch.testing.assert_close(back[inner], image[inner], atol=0.01, rtol=0)
    assert (change.of_image(image) - image)[inner].abs().max() > 0.1  # there was something to undo


def test_undo_is_interpolated_and_0_from_outside():
    maps = torch.arange(1.0, 9).view(1, 1, 1, 8)
    back = moved_by([create_translate(2, [0, 2.5])], (1, 8)).undo(maps)
    # what lies at y came from y + 2.5, so it goes back to y - 2.5: half 0 and half 1 at 2, then means of two
    torch.testing.assert_close(back.flatten(), torch.tensor([0, 0, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5]))


def test_what_cannot_be_undone_says_so():
    size, maps = (4, 4), torch.zeros(1, 1, 4, 4)
    box, partner = np.zeros((1, 2, 2), int), np.zeros(1, int)
    with pytest.raises(ValueError, match="elastic deformation cannot be undone"):
        moved_by([np.eye(3)], size, bend=1).undo(maps)
    for change in (Cut(box), Mixed(box, partner), Changes([moved_by([np.eye(3)], size), Cut(box)])):
        with pytest.raises(ValueError, match=r"(Cut|Mixed) cannot be undone"):
            change.undo(maps)


@pytest.mark.parametrize(("label", "weight"), [("background", 1.0), ("ignore", 0.0)])
@pytest.mark.parametrize("size", SIZES)
def test_the_box_is_background_or_ignored(size, label, weight):
    change, cut = Cut(boxes_of(size), 0.25, label), masks(size)
    assert cut.any(axis=tuple(range(1, cut.ndim))).tolist() == [True, True, False]
    image = torch.rand(3, 2, *size, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(change.of_image(image).numpy(), np.where(cut, np.float32(0.25), image.numpy()))
    changed, counted = change.of_label(torch.ones(3, 2, *size), torch.full((3, 1, *size), 0.5))
    np.testing.assert_array_equal(changed.numpy(), np.broadcast_to(np.where(cut, 0.0, 1.0), changed.shape))
    np.testing.assert_array_equal(counted.numpy(), np.where(cut, weight, 0.5))


def test_a_box_without_weights():
    size, cut = SIZES[0], masks(SIZES[0])
    label = torch.full((3, 2, *size), 3)
    assert set(Cut(boxes_of(size)).of_image(label.float()).unique().tolist()) == {0.5, 3.0}
    changed, weight = Cut(boxes_of(size)).of_label(label, None)
    np.testing.assert_array_equal(changed.numpy(), np.broadcast_to(np.where(cut, 0, 3), changed.shape))
    assert weight is None
    changed, weight = Cut(boxes_of(size), label="ignore").of_label(label, None)  # nothing else can say so
    np.testing.assert_array_equal(weight.numpy(), np.where(cut, 0.0, 1.0))
    assert weight.dtype == torch.float32


def test_the_background_of_a_soft_label():
    """Its first channel in multi-class, where it has one more than there are classes; no channel in multi-label."""
    size, cut = SIZES[0], masks(SIZES[0])
    soft = torch.rand(3, 3, *size, generator=torch.Generator().manual_seed(0)).softmax(1)
    spaces = {1.0: LabelSpace(["a", "b"], "multiclass"), 0.0: LabelSpace(["a", "b", "c"], "multilabel")}
    for background, labels in spaces.items():
        changed, weight = Cut(boxes_of(size), labels=labels).of_label(soft, torch.full((3, 1, *size), 0.5))
        expected = np.array([background, 0, 0]).reshape(1, 3, 1, 1)
        np.testing.assert_array_equal(changed.numpy(), np.where(cut, expected, soft.numpy()).astype(np.float32))
        np.testing.assert_array_equal(weight.numpy(), np.where(cut, 1.0, 0.5))
    hard = torch.full((3, 1, *size), 2.0)
    changed, _ = Cut(boxes_of(size), labels=spaces[1.0]).of_label(hard, None)
    np.testing.assert_array_equal(changed.numpy(), np.where(cut, 0.0, 2.0))


@pytest.mark.parametrize("size", SIZES)
def test_the_partner_fills_the_box(size):
    change, cut, partner = Mixed(boxes_of(size), np.array([1, 2, 0])), masks(size), [1, 2, 0]
    generator = torch.Generator().manual_seed(0)
    image, label, weight = (torch.rand(3, c, *size, generator=generator) for c in (2, 3, 1))
    for found, given in zip(
        (change.of_image(image), *change.of_label(label, weight)), (image, label, weight), strict=True
    ):
        np.testing.assert_array_equal(found.numpy(), np.where(cut, given.numpy()[partner], given.numpy()))
    assert change.of_label(label, None)[1] is None


def test_changes_come_one_after_the_other():
    size = SIZES[0]
    first, second = (moved_by([random_matrix(2, seed)] * 3, size) for seed in (1, 2))
    both, boxed = Changes([first, second]), Changes([first, Cut(boxes_of(size)), second])
    image = torch.rand(3, 1, *size, generator=torch.Generator().manual_seed(0))
    assert torch.equal(both.of_image(image), second.of_image(first.of_image(image)))
    assert torch.equal(both.undo(image), first.undo(second.undo(image)))
    label, weight = boxed.of_label(image, image)
    expected = second.of_label(*Cut(boxes_of(size)).of_label(*first.of_label(image, image)))
    assert torch.equal(label, expected[0]) and torch.equal(weight, expected[1])
    assert Changes().of_image(image) is image and Changes().undo(image) is image
    assert Changes().of_label(image, None) == (image, None)


def test_a_change_is_to_be_defined():
    for use in (lambda: Change().of_image(None), lambda: Change().of_label(None, None)):
        with pytest.raises(NotImplementedError):
            use()


@pytest.mark.parametrize("bend", [0.0, 1.5])
@pytest.mark.parametrize("size", SIZES)
def test_places_are_exact_in_mixed_precision(size, bend):
    maps = torch.arange(float(np.prod(size))).view(1, 1, *size)
    change = moved_by([random_matrix(len(size), 2)], size, bend)
    straight = moved_by([random_matrix(len(size), 2)], size)
    expected = change.of_image(maps), *change.of_label(maps, maps), straight.undo(maps)
    with torch.autocast("cpu", torch.bfloat16):
        found = change.of_image(maps), *change.of_label(maps, maps), straight.undo(maps)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)
    half = change.of_image(maps.bfloat16())
    assert half.dtype == torch.float32 and torch.equal(half, change.of_image(maps.bfloat16().float()))


@pytest.mark.parametrize("size", [(5, 8), (4, 7, 6)])
def test_grids_are_those_of_torch(size):
    theta = torch.rand(3, len(size), len(size) + 1, generator=torch.Generator().manual_seed(0)).double()
    expected = F.affine_grid(theta, [3, 1, *size], align_corners=False)
    torch.testing.assert_close(affine_grid(theta, size), expected)


def test_gradients_go_through_a_movement():
    maps = torch.rand(1, 1, 5, 5, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    matrix = torch.from_numpy(random_matrix(2, 1))
    for change in (Moved(matrix.numpy()[None]), moved_by([np.diag([-1.0, 1.0, 1.0])], (5, 5))):
        assert torch.autograd.gradcheck(change.of_image, maps)
    assert F.mse_loss(Moved(matrix.numpy()[None]).of_image(maps), maps).requires_grad
