"""Boxes that are cut out or come from another image: where they lie, how large they are, and whose pixels they have."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from plain_views import BRAIN, draws, evenly, smooth

from common.label_space import LabelSpace
from common.views import Chain, CutMix, CutOut, Strong, Values
from common.views.boxes import boxes

SIZES = [(20, 32), (12, 20, 16)]


def box_of(mask: np.ndarray) -> list[tuple[int, int]] | None:
    """First and behind the last pixel along each axis of a mask, which must be a box; None for an empty one."""
    if not mask.any():
        return None
    box = []
    for axis in range(mask.ndim):
        places = np.flatnonzero(mask.any(tuple(other for other in range(mask.ndim) if other != axis)))
        box.append((int(places[0]), int(places[-1]) + 1))
    assert mask.sum() == np.prod([last - first for first, last in box])
    return box


# ---- boxes


@pytest.mark.parametrize("size", SIZES)
def test_sides_are_rounded_shares_and_places_are_any(size):
    shares = np.tile([0.5, 0.32, 0.25][: len(size)], (2000, 1))
    found = boxes(shares, size, draws())
    assert found.shape == (2000, len(size), 2) and found.dtype == np.int64
    sides = [round(share * side) for share, side in zip(shares[0], size, strict=True)]
    assert (found[..., 1] - found[..., 0] == sides).all()
    for axis, (side, whole) in enumerate(zip(sides, size, strict=True)):
        first, count = np.unique(found[:, axis, 0], return_counts=True)
        assert first.tolist() == list(range(whole - side + 1))  # from one border to the other
        assert count.min() > 0.5 * count.mean()
    assert np.abs(np.corrcoef(found[..., 0].T) - np.eye(len(size))).max() < 0.1


def test_boxes_of_nothing_and_of_all():
    shares = np.array([[0.0, 0.0], [1.0, 1.0], [0.04, 0.05]])
    found = boxes(shares, (10, 10), draws())
    assert found[1].tolist() == [[0, 10], [0, 10]]
    assert (found[0, :, 0] == found[0, :, 1]).all() and found[2, 0, 0] == found[2, 0, 1]


# ---- cut out


@pytest.mark.parametrize("size", SIZES)
def test_cut_out_boxes_are_shares_of_the_image_drawn_evenly(size):
    image = torch.ones(800, 1, *size)
    viewed = CutOut(0.6)(image, draws())
    assert set(viewed.image.unique().tolist()) == {0.5, 1.0}
    shares, firsts = [], []
    for one in (viewed.image[:, 0] == 0.5).numpy():
        box = box_of(one)
        if box is None:
            continue
        sides = [last - first for first, last in box]
        share = [s / n for s, n in zip(sides, size, strict=True)]
        assert max(share) - min(share) <= 0.5 / min(size) + 0.5 / sorted(size)[1] + 1e-9  # the same along all axes
        shares.append(max(share, key=lambda s: s))
        firsts.append([first / (n - side) for (first, _), n, side in zip(box, size, sides, strict=True)])
    assert max(shares) == pytest.approx(0.6, abs=0.5 / min(size)) and len(shares) > 700
    assert np.mean(shares) == pytest.approx(0.3, abs=0.05)
    assert np.mean(firsts, 0) == pytest.approx([0.5] * len(size), abs=0.04)
    assert np.min(firsts) == 0 and np.max(firsts) == 1


@pytest.mark.parametrize(("label", "weight"), [("background", 1.0), ("ignore", 0.0)])
@pytest.mark.parametrize("size", SIZES)
def test_the_label_of_what_is_cut_out(size, label, weight):
    image = smooth((6, 2, *size))
    viewed = CutOut(0.9, label)(image, draws(), Values(-1, 2))
    cut = (viewed.image == 0.5).all(1, keepdim=True)
    assert torch.equal(viewed.image, image.masked_fill(cut, 0.5)) and cut.any()
    found, counted = viewed.change.of_label(torch.ones(6, 3, *size), torch.full((6, 1, *size), 0.3))
    assert torch.equal(found, (~cut).float().expand(-1, 3, *size))
    assert torch.equal(counted, torch.full((6, 1, *size), 0.3).masked_fill(cut, weight))


def test_a_box_is_grey():
    image = torch.full((4, 1, 10, 10), 7.0)
    for values, grey in ((None, 0.5), (Values(-1, 3), 1.0), (BRAIN, 0.0)):
        assert set(CutOut(1.0)(image, draws(), values).image.unique().tolist()) == {grey, 7.0}
    assert CutOut().size == 0.5 and CutOut().label == "background"
    assert torch.equal(CutOut(0)(image, draws()).image, image)


def test_a_soft_label_s_background_is_known_in_a_training_step():
    class Step:
        labels = LabelSpace(["a", "b"], "multiclass")

    image = torch.ones(2, 1, 10, 10)
    soft = torch.full((2, 3, 10, 10), 1 / 3)
    for view in (CutOut(), Chain([CutOut()]), Strong(operations=0)):
        viewed = view(image, draws(1), None, None, Step())
        cut = (viewed.image == 0.5)[:, 0]
        label, _ = viewed.change.of_label(soft, None)
        assert cut.any() and (label.movedim(1, -1)[cut] == torch.tensor([1.0, 0, 0])).all()
        assert torch.equal(label.movedim(1, -1)[~cut], soft.movedim(1, -1)[~cut])


def test_boxes_are_those_of_the_seed():
    image, draw = torch.ones(4, 1, 20, 20), draws(5)
    first, second = CutOut()(image, draw).image, CutOut()(image, draw).image
    assert torch.equal(first, CutOut()(image, draws(5)).image) and not torch.equal(first, second)
    assert len({tuple(one.flatten().tolist()) for one in first}) == 4


# ---- cut mix


def values_of_images(number, size):
    """Images whose pixels say whose they are."""
    return torch.arange(float(number)).view(-1, *[1] * (1 + len(size))).expand(number, 1, *size).clone()


@pytest.mark.parametrize("number", [2, 3, 7])
@pytest.mark.parametrize("size", SIZES)
def test_a_box_has_the_partner_s_pixels_and_the_rest_its_own(size, number):
    generator = torch.Generator().manual_seed(0)
    image, label, weight = (torch.rand(number, c, *size, generator=generator) for c in (2, 3, 1))
    view, partners = CutMix(prob=1.0), set()
    for seed in range(20):
        owner = view(values_of_images(number, size), draws(seed)).image[:, 0].long()
        viewed = view(image, draws(seed))
        changed, counted = viewed.change.of_label(label, weight)
        for index in range(number):
            assert box_of((owner[index] != index).numpy()) is not None
            (partner,) = set(owner[index].unique().tolist()) - {index}
            partners.add((partner - index) % number)
            assert (owner[index] == index).any()
            taken = (owner[index] == partner)[None]
            for found, given in ((viewed.image, image), (changed, label), (counted, weight)):
                assert torch.equal(found[index], torch.where(taken, given[partner], given[index]))
    assert partners == set(range(1, number))  # never itself, and any other


def box_sides(view, size, number=1500, seed=0):
    """Sides of the boxes relative to the image's, by what became of the images; rows of 0 for no box."""
    owner = view(values_of_images(number, size), draws(seed)).image[:, 0]
    found = []
    for index, one in enumerate(owner.numpy()):
        box = box_of(one != index)
        found.append([0] * len(size) if box is None else [(b - a) / n for (a, b), n in zip(box, size, strict=True)])
    return np.array(found)


@pytest.mark.parametrize("size", [(200, 300), (40, 50, 60)])
def test_areas_and_aspects_are_those_of_unimatch(size):
    usual = CutMix()
    assert usual.area == (0.02, 0.4) and usual.aspect == pytest.approx((0.3, 1 / 0.3)) and usual.prob == 0.5
    shares = usual.shares(20_000, len(size), draws())
    assert shares.shape == (20_000, len(size))
    evenly(shares.prod(1), 0.02, 0.4)
    for axis in range(1, len(size)):
        evenly(shares[:, axis] / shares[:, 0], 0.3, 1 / 0.3)
    if len(size) == 3:
        assert abs(np.corrcoef(shares[:, 1] / shares[:, 0], shares[:, 2] / shares[:, 0])[0, 1]) < 0.05
    sides = box_sides(CutMix(prob=1.0), size, 60)
    assert (sides > 0).all() and (sides <= 1).all()
    assert sides.prod(1).min() > 0.01 and sides.prod(1).max() < 0.42 and np.ptp(sides.prod(1)) > 0.25
    ratio = sides[:, 1:] / sides[:, :1]
    assert ratio.min() > 0.27 and ratio.max() < 3.6 and np.ptp(ratio) > 2


def test_other_areas_and_aspects():
    for size in ((100, 100), (40, 40, 40)):
        sides = box_sides(CutMix((0.25, 0.25), (2, 2), prob=1.0), size, 5)
        n = len(size)
        first = (0.25 / 2 ** (n - 1)) ** (1 / n)
        np.testing.assert_allclose(sides, [[first] + [2 * first] * (n - 1)] * 5, atol=0.5 / size[0] + 1e-9)
    assert (box_sides(CutMix((1, 1), (1, 1), prob=1.0), (6, 6), 4, seed=1) <= 1).all()
    assert (CutMix((0, 0), prob=1.0)(values_of_images(3, (8, 8)), draws()).image == values_of_images(3, (8, 8))).all()


def test_boxes_that_do_not_fit_are_drawn_anew():
    """Of areas of 0.4 with sides of 1 to 10 only those below 2.5 fit: all of these occur, and hardly any is cut."""
    view = CutMix((0.4, 0.4), (1, 3), prob=1.0)
    sides = box_sides(view, (60, 60), 400)
    assert sides.max() <= 1
    full = (sides == 1).any(1).mean()
    assert full < 0.06
    np.testing.assert_allclose(sides.prod(1)[(sides < 1).all(1)], 0.4, atol=0.02)
    evenly((sides[:, 1] / sides[:, 0])[sides.max(1) < 1], 1, 2.5, atol=0.2)
    never = CutMix((0.5, 0.5), (50, 50), prob=1.0)  # none fits: the box is as long as the image
    np.testing.assert_allclose(box_sides(never, (50, 50), 5), [[0.1, 1]] * 5)


def test_drawing_anew_changes_only_what_does_not_fit():
    view = CutMix((0.3, 0.4), (0.9, 3.3), prob=1.0)
    drawn = view.shares(50, 2, draws(1))
    fits = (drawn <= 1).all(1)
    owner = view(values_of_images(50, (80, 80)), draws(1)).image[:, 0].numpy()
    assert 5 < fits.sum() < 45
    for index in np.flatnonzero(fits):
        box = box_of(owner[index] != index)
        np.testing.assert_allclose([(b - a) / 80 for a, b in box], drawn[index], atol=0.5 / 80 + 1e-9)


@pytest.mark.parametrize("prob", [0.0, 0.25, 1.0])
def test_an_image_gets_a_box_with_its_probability(prob):
    sides = box_sides(CutMix(prob=prob), (16, 16))
    assert (sides > 0).all(1).mean() == pytest.approx(prob, abs=0.03)


def test_one_image_has_no_partner():
    with pytest.raises(ValueError, match="got one, which has no partner: raise unlabeled_batch"):
        CutMix()(torch.ones(1, 1, 8, 8), draws())


def test_boxes_mixed_are_those_of_the_seed():
    image, draw, view = smooth((4, 1, 20, 20)), draws(5), CutMix(prob=1.0)
    first, second = view(image, draw).image, view(image, draw).image
    assert torch.equal(first, view(image, draws(5)).image) and not torch.equal(first, second)
    owner = view(values_of_images(4, (20, 20)), draws(5)).image
    found = [box_of((one[0] != index).numpy()) for index, one in enumerate(owner)]
    assert all(a != b for a, b in itertools.combinations(found, 2))


def test_views_keep_no_gradients():
    image = smooth((2, 1, 8, 8)).requires_grad_()
    for view in (CutOut(), CutMix()):
        assert not view(image, draws()).image.requires_grad


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CutOut(-0.1), r"size \(cutout of Strong\) must be .* got -0.1"),
        (lambda: CutOut(1.1), "got 1.1"),
        (lambda: CutOut(label="nothing"), r"label \(cutout_label of Strong\) must be .* got 'nothing'"),
        (lambda: CutMix(area=(0.4, 0.2)), "area must be a range of shares"),
        (lambda: CutMix(area=(-0.1, 0.2)), "area must be a range of shares"),
        (lambda: CutMix(area=(0.1, 1.2)), "area must be a range of shares"),
        (lambda: CutMix(area=(0.1,)), "area must be a range of shares"),
        (lambda: CutMix(area=(0.1, 0.2, 0.3)), "area must be a range of shares"),
        (lambda: CutMix(aspect=(0, 1)), "aspect must be a range of positive ratios"),
        (lambda: CutMix(aspect=(2, 1)), "aspect must be a range of positive ratios"),
        (lambda: CutMix(aspect=(1,)), "aspect must be a range of positive ratios"),
        (lambda: CutMix(aspect=(1, 2, 3)), "aspect must be a range of positive ratios"),
        (lambda: CutMix(prob=1.1), "prob must be a probability"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
