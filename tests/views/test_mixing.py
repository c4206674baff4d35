"""Mixing with labelled images and by class: whose pixels an image has, and whose label goes with them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from methods.plain_terms import plain_probabilities
from plain_views import draws

from common.class_confidence import ClassConfidence
from common.label_space import LabelSpace
from common.methods import Step
from common.pseudo_label import PseudoLabel
from common.views import ClassCopyPaste, ClassCutMix, LabeledCutMix
from common.views.mixing import box_around, mean_confidence, random_shares

SIZES = [(24, 32), (12, 16, 20)]


def step_of(labels, size, outputs=None, label=None, labeled=3):
    """A step whose labelled images are -1, -2 and so on all over, so that pixels tell where they are from."""
    values = -torch.arange(1.0, labeled + 1).view(-1, 1, *[1] * len(size)).expand(labeled, 1, *size)
    channels = labels.num_classes if labels.multilabel else 1
    own = torch.ones(labeled, channels, *size)
    step = Step(labels, torch.nn.Identity(), {"labeled": {"image": values.clone(), "label": own}})
    if label is None:
        label = labels.predict(outputs)
    step.note(PseudoLabel(label, known={"outputs": outputs}), torch.ones_like(label))
    return step


def is_box(mask: np.ndarray) -> bool:
    sides = [
        np.flatnonzero(mask.any(tuple(other for other in range(mask.ndim) if other != axis)))
        for axis in range(mask.ndim)
    ]
    return mask.sum() == math.prod(int(line[-1]) - int(line[0]) + 1 for line in sides)


# ---- AugSeg


def test_confidence_equals_numpy(labels):
    outputs = torch.randn(3, labels.num_outputs, 6, 5)
    p = plain_probabilities(labels, outputs)
    expected = []
    for image in p:
        values = []
        for place in itertools.product(range(6), range(5)):
            q = image[(slice(None), *place)]
            for choice in [(v, 1 - v) for v in q] if labels.multilabel else [tuple(q)]:
                entropy = -sum(v * math.log(v) for v in choice)
                values.append((1 - entropy / math.log(len(choice))) * max(choice))
        expected.append(np.mean(values))
    np.testing.assert_allclose(mean_confidence(labels, outputs).numpy(), expected, rtol=1e-4)


def test_confidence_by_hand(multilabel, multiclass):
    for labels in (multilabel, multiclass):
        shape = (1, labels.num_outputs, 4, 4)
        assert mean_confidence(labels, torch.zeros(shape)).item() == pytest.approx(0, abs=1e-6)
        sure = torch.full(shape, -100.0)
        sure[:, 0] = 100
        assert mean_confidence(labels, sure).item() == pytest.approx(1)


@pytest.mark.parametrize("size", SIZES)
def test_unsure_images_get_a_box_of_a_labelled_one(labels, size):
    image = torch.rand(300, 1, *size)
    step = step_of(labels, size, torch.zeros(300, labels.num_outputs, *size))
    viewed = LabeledCutMix()(image, draws(), step=step)
    label = torch.zeros(300, labels.num_classes if labels.multilabel else 1, *size)
    moved, weight = viewed.change.of_label(label, torch.zeros(300, 1, *size))
    inside, partners, shares = viewed.image < 0, set(), []
    for index in range(300):
        mask = inside[index, 0].numpy()
        if mask.any():
            assert is_box(mask)
            values = viewed.image[index][inside[index]].unique().tolist()
            assert len(values) == 1  # of one labelled image
            partners.update(values)
        shares.append(mask.mean())
    assert torch.equal(viewed.image[~inside], image[~inside])
    assert torch.equal(moved[:, :1] == 1, inside) and torch.equal(weight == 1, inside)
    assert partners == {-1.0, -2.0, -3.0}
    assert np.mean(shares) == pytest.approx(0.2, abs=0.03) and min(shares) < 0.05 and max(shares) > 0.4


def test_how_often_an_image_is_mixed_is_1_minus_its_confidence(multiclass):
    size, image = (16, 16), torch.rand(2000, 1, 16, 16)
    outputs = torch.zeros(2000, 3, *size)
    outputs[:, 0, :12] = 100.0  # three quarters of each are certain
    viewed = LabeledCutMix(beta=(1, 20))(image, draws(), step=step_of(multiclass, size, outputs))
    mixed = (viewed.image < 0).flatten(1).any(1).float().mean().item()
    assert mixed == pytest.approx(0.25, abs=0.03)


def test_a_soft_pseudo_label_gets_a_soft_label(multiclass):
    size = (16, 16)
    soft = torch.full((2, 3, *size), 1 / 3)
    step = step_of(multiclass, size, torch.zeros(2, 3, *size), soft)
    change = LabeledCutMix(beta=(1, 20))(torch.rand(2, 1, *size), draws(), step=step).change
    moved, weight = change.of_label(soft, None)
    assert weight is None and moved.shape == soft.shape
    inside = change.place(soft)[:, 0]
    assert inside.any() and torch.equal(moved.movedim(1, -1)[inside].unique(dim=0), torch.tensor([[0.0, 1.0, 0.0]]))


# ---- AEL


@pytest.fixture
def space():
    return LabelSpace(["a", "b"], "multiclass")


def bank_of(labels, confidence):
    bank = ClassConfidence()
    bank.prepare(torch.nn.Conv2d(1, 1, 1), labels)
    bank.confidence.copy_(torch.tensor(confidence))
    return bank


@pytest.mark.parametrize("size", SIZES)
def test_boxes_hold_the_class_of_another_image(space, size):
    number, n = 4, len(size)
    image = torch.arange(float(number)).view(-1, 1, *[1] * n).expand(number, 1, *size).contiguous()
    label = torch.zeros(number, 1, *size)
    corner = tuple(slice(side // 2, side // 2 + 3) for side in size)
    label[(1, 0, *corner)] = 1  # class a in image 1 alone
    label[(2, 0, *corner)] = 2  # class b in image 2 alone
    view, seen = ClassCutMix(bank_of(space, [0.9, 0.5, 0.5])), set()
    for seed in range(40):
        step = step_of(space, size, torch.zeros(number, 3, *size), label)
        viewed = view(image, draws(seed), step=step)
        moved, _ = viewed.change.of_label(label, None)
        for index in range(number):
            values = viewed.image[index].unique().tolist()
            others = [value for value in values if value != index]
            assert len(others) <= 1
            if not others:  # the box may hold the whole image
                continue
            partner, inside = int(others[0]), (viewed.image[index, 0] == others[0]).numpy()
            assert is_box(inside)
            if {index, partner} == {1, 2} or (index in (0, 3) and partner in (1, 2)):
                value = partner
                if (label[partner] == value).any() and inside[corner].all():
                    assert (moved[(index, 0, *corner)] == value).all()
                    seen.add(partner)
            assert torch.equal(moved[index, 0][torch.from_numpy(inside)], label[partner, 0][torch.from_numpy(inside)])
    assert seen == {1, 2}


def test_the_worse_a_class_is_learnt_the_more_often_it_is_shown(space):
    size, label = (16, 16), torch.zeros(3, 1, 16, 16)
    label[1, 0, 7, 7], label[2, 0, 7, 7] = 1, 2
    image = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 16, 16).contiguous()
    view, counts = ClassCutMix(bank_of(space, [0.9, 1.0, 0.0]), area=0.1), [0, 0]
    for seed in range(400):
        viewed = view(image, draws(seed), step=step_of(space, size, torch.zeros(3, 3, 16, 16), label))
        partner = int(viewed.image[0, 0, 7, 7])
        counts[partner - 1] += 1
    assert counts[0] / 400 == pytest.approx(1 / (1 + math.e), abs=0.06)  # softmax of 0 and 1


def test_where_no_other_image_shows_the_class_the_box_is_anywhere(space):
    size, label = (20, 20), torch.zeros(2, 1, 20, 20)
    image = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 1, 20, 20).contiguous()
    shares = []
    for seed in range(100):
        step = step_of(space, size, torch.zeros(2, 3, 20, 20), label)
        viewed = ClassCutMix(bank_of(space, [0.5] * 3))(image, draws(seed), step=step)
        shares.append((viewed.image[0] == 1).float().mean().item())
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)


def test_a_single_image_has_no_partner(space):
    step = step_of(space, (16, 16), torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match="must have two or more unlabelled images in a batch, got one"):
        ClassCutMix(bank_of(space, [0.5] * 3))(torch.rand(1, 1, 16, 16), draws(), step=step)


@pytest.mark.parametrize("n", [2, 3])
def test_random_shares_have_the_area(n):
    found = np.array([random_shares(0.5, n, draws(seed)) for seed in range(200)])
    np.testing.assert_allclose(found.prod(1), 0.5)
    assert found.min() >= 0.5 - 1e-9 and found.max() <= 1 and found.std(0).min() > 0.1


def test_a_box_around_a_mask_holds_it_and_stays_within(space):
    rng = np.random.default_rng(0)
    for _ in range(300):
        mask = np.zeros((13, 17), bool)
        y, x = rng.integers(13), rng.integers(17)
        mask[y : y + rng.integers(1, 6), x : x + rng.integers(1, 6)] = True
        (top, bottom), (left, right) = box_around(mask, rng.uniform(0, 1, 2), rng)
        assert top >= 0 and bottom <= 13 and left >= 0 and right <= 17
        assert mask[top:bottom, left:right].sum() == mask.sum()


def test_pasted_classes_take_their_label_along(labels):
    number, size = 6, (16, 16)
    rng = torch.Generator().manual_seed(0)
    image = torch.arange(float(number)).view(-1, 1, 1, 1).expand(number, 1, *size).contiguous()
    if labels.multilabel:
        label = torch.randint(0, 2, (number, 2, *size), generator=rng).float()
    else:
        label = torch.randint(0, 3, (number, 1, *size), generator=rng).float()
    step = Step(labels, torch.nn.Identity(), {"labeled": {"image": image, "label": label}})
    viewed = ClassCopyPaste(bank_of(labels, [0.0] * labels.num_outputs), prob=1.0)(image, draws(), step=step)
    moved, _ = viewed.change.of_label(label, None)
    masks, chosen = labels.masks(label), set()
    for index in range(number):
        foreign = viewed.image[index, 0] != index
        (partner,) = viewed.image[index, 0][foreign].unique().tolist()  # of one other image
        shown = [c for c in range(2) if torch.equal(masks[int(partner), c] > 0, foreign)]
        assert len(shown) == 1  # all pixels of one class, and no others
        chosen.update(shown)
        assert torch.equal(moved[index][:, foreign], label[int(partner)][:, foreign])
        assert torch.equal(moved[index][:, ~foreign], label[index][:, ~foreign])
    assert chosen == {0, 1}


def test_half_of_the_images_get_a_class_and_a_single_image_none(multiclass):
    image, label = torch.arange(400.0).view(-1, 1, 1, 1).expand(400, 1, 4, 4).contiguous(), torch.ones(400, 1, 4, 4)
    label[:, :, :2] = 2
    step = Step(multiclass, torch.nn.Identity(), {"labeled": {"image": image, "label": label}})
    view = ClassCopyPaste(bank_of(multiclass, [0.5] * 3))
    changed = (view(image, draws(), step=step).image != image).flatten(1).any(1)
    assert changed.float().mean().item() == pytest.approx(0.5, abs=0.08)
    one = Step(multiclass, torch.nn.Identity(), {"labeled": {"image": image[:1], "label": label[:1]}})
    assert torch.equal(view(image[:1], draws(), step=one).image, image[:1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LabeledCutMix(beta=(0, 2)), r"beta must be two positive numbers, got \[0, 2\]"),
        (lambda: ClassCutMix(ClassConfidence(), area=0), r"area must be a share of the image in \(0, 1\], got 0"),
        (lambda: ClassCutMix(ClassConfidence(), prob=2), r"prob must be a probability in \[0, 1\], got 2"),
        (lambda: ClassCopyPaste(ClassConfidence(), classes=0), "classes must be at least 1, got 0"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_soft_labelled_image_gives_a_hard_pseudo_label_its_decision(multiclass):
    from common.views import Pasted

    soft = torch.tensor([0.2, 0.1, 0.7]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    box = np.array([[[0, 2], [0, 4]]])
    change = Pasted(box, torch.ones(1, 1, 4, 4), soft, np.array([0]), multiclass, torch.full((1, 1, 4, 4), 0.3))
    label, weight = change.of_label(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 4, 4))
    assert label[0, 0].tolist() == [[2.0] * 4] * 2 + [[1.0] * 4] * 2
    torch.testing.assert_close(weight[0, 0], torch.tensor([[0.3] * 4] * 2 + [[1.0] * 4] * 2))


def test_views_refuse_sources_that_do_not_know_what_they_ask(space):
    from common.sources import References
    from common.terms import Match

    with pytest.raises(ValueError, match=r"LabeledCutMix asks for the outputs .* got References"):
        Match(References(), view=LabeledCutMix())
    pseudo = PseudoLabel(torch.zeros(2, 1, 8, 8), grid=object())
    step = Step(space, torch.nn.Identity(), {"labeled": {"image": torch.zeros(1, 1, 16, 16)}})
    step.note(pseudo, torch.ones(2, 1, 8, 8))
    with pytest.raises(ValueError, match="must know the pseudo-label of every pixel, got that of a grid"):
        ClassCutMix(bank_of(space, [0.5] * 3))(torch.rand(2, 1, 16, 16), draws(), step=step)
