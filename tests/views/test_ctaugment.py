"""CTAugment against plain forms of its equations: what bins are drawn, what they learn, and that nothing else moves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from methods.plain_terms import plain_probabilities
from plain_views import BRAIN, draws, evenly, smooth
from torch import nn

from common.label_space import LabelSpace
from common.methods import Step
from common.views import Chain, CTAugment, Strong, ctaugment
from common.views.ctaugment import agreement
from common.views.strong import INTENSITY, NAMES, ONE_SIDED, WITHOUT_STRENGTH, Chosen

SHAPES = [(6, 1, 20, 16), (6, 1, 10, 8, 12)]
ONE = LabelSpace(["lesion"])


class Logits(nn.Module):
    """A network whose outputs are its image, times a number."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x):
        return self.factor * x


def step_of(labels, network, image, label, iteration=1, seed=0, **more):
    return Step(labels, network, {"labeled": {"image": image, "label": label, **more}}, iteration, seed)


def with_weights(rows, **options):
    view = CTAugment(bins=len(rows[0]), **options)
    view.weights.copy_(torch.tensor(rows))
    return view


# ---- which bins are drawn


def test_probabilities_by_hand():
    names = ["brightness", "blur", "noise", "shear"]
    rows = [[1, 0.9, 0.79, 0.5], [1, 1, 1, 1], [0.5, 0.41, 0.39, 0.1], [0, 0, 0, 0]]
    view = with_weights([[float(weight) for weight in row] for row in rows], names=names)
    assert view.learnt == names
    expected = [
        [1 / 1.9, 0.9 / 1.9, 0, 0],
        [0.25] * 4,
        [0.5 / 0.91, 0.41 / 0.91, 0, 0],  # none is above 0.8: those above 0.8 times 0.5
        [0.25] * 4,
    ]
    np.testing.assert_allclose(view.probabilities(), expected, atol=1e-6)
    view = with_weights([[1.0, 0.75, 0.5, 0.25]], names=["blur"], threshold=0.5)
    assert view.probabilities().tolist() == [pytest.approx([1 / 1.75, 0.75 / 1.75, 0, 0])]  # above, not equal


def test_all_bins_have_the_same_probability_at_first():
    view = CTAugment()
    assert view.learnt == [name for name in NAMES if name not in ("identity", "autocontrast")]
    assert view.weights.shape == (9, 17) and (view.probabilities() == 1 / 17).all()


@pytest.mark.parametrize(("name", "low"), [("brightness", -0.5), ("noise", 0.0), ("rotate", -0.5)])
def test_strengths_are_drawn_evenly_from_bins_that_are_left(name, low):
    """Of four bins of [low, 0.5] the third is out of use and the last one has half of the first ones' weight."""
    view = with_weights([[1.0, 1.0, 0.3, 0.5]], names=["identity", name], magnitude=0.5, threshold=0.4)
    names = np.array([[name, "identity"]] * 8000, dtype=object)
    strengths, width = view.strengths(names, draws())[:, 0], (0.5 - low) / 4
    found = np.floor((strengths - low) / width).astype(int)
    np.testing.assert_allclose(np.bincount(found, minlength=4) / len(found), [0.4, 0.4, 0, 0.2], atol=0.02)
    for index in (0, 1, 3):
        evenly(strengths[found == index], low + index * width, low + (index + 1) * width)


def test_directions_that_do_not_matter_have_no_bins():
    """Sharpness, blur and noise look alike in both directions, and no other operation does."""
    image = smooth((1, 1, 16, 16), low=0.2, high=0.8)
    for name in INTENSITY:
        found = [Chosen(np.array([[name]]), np.array([[s]]))(image, draws(1)).image for s in (0.7, -0.7)]
        assert torch.equal(*found) == (name in (*ONE_SIDED, *WITHOUT_STRENGTH)), name


# ---- it is Strong but for the strengths


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("values", [None, BRAIN])
def test_operations_groups_and_box_are_those_of_strong(monkeypatch, shape, values):
    image, groups = smooth(shape), np.array([0, 1, 2, 0, 1, 2])
    for options in ({}, {"operations": (1, 3), "geometry": False}, {"cutout": 0, "magnitude": 0.4}):
        strong, view = Strong(**options), CTAugment(**options)
        expected = strong(image, draws(5), values, groups)
        assert not torch.equal(view(image, draws(5), values, groups).image, expected.image)
        monkeypatch.setattr(view, "strengths", strong.strengths)
        found = view(image, draws(5), values, groups)
        assert torch.equal(found.image, expected.image)
        label = (image > 0.5).float()
        for one, other in zip(*(each.change.of_label(label, label) for each in (found, expected)), strict=True):
            assert torch.equal(one, other)


def test_the_same_seed_gives_the_same_view_and_chains_take_it():
    image, view = smooth(SHAPES[0]), CTAugment()
    view.weights[:, :9] = 0.1
    found = view(image, draws(3)).image
    assert torch.equal(found, Chain([view])(image, draws(3)).image)
    assert not torch.equal(found, view(image, draws(4)).image)
    assert not torch.equal(found, CTAugment()(image, draws(3)).image)


# ---- what bins learn


def test_weights_move_by_hand():
    view = CTAugment(names=["brightness", "noise", "autocontrast"], bins=3)
    names = np.array([["brightness", "noise", "brightness"], ["autocontrast", "brightness", "noise"]], dtype=object)
    bins = np.array([[0, 2, 1], [0, 1, 2]])
    view.learn(names, bins, torch.tensor([0.5, 0.9, 0.7]), torch.tensor([1.0, 1.0, 0.0]))  # the third has no pixels
    expected = [[0.99 + 0.01 * 0.5, 0.99 + 0.01 * 0.9, 1], [1, 1, 0.99 + 0.01 * 0.9]]
    torch.testing.assert_close(view.weights, torch.tensor(expected))
    view.learn(names[:1], bins[:1], torch.tensor([0.0, 0.0, 1.0]), torch.ones(3))
    expected[0] = [0.99 * 0.995, 0.99 * 0.999 + 0.01, 1]
    expected[1][2] *= 0.99
    torch.testing.assert_close(view.weights, torch.tensor(expected))


@pytest.mark.parametrize("decay", [0.0, 0.7, 0.99])
def test_weights_are_those_of_loops(decay):
    """Each time a bin is drawn it moves, by the mean of its step."""
    view, rng = CTAugment(bins=3, decay=decay, names=["identity", "blur", "gamma", "shear"]), np.random.default_rng(0)
    plain = {(name, index): 1.0 for name in ("blur", "gamma", "shear") for index in range(3)}
    for _ in range(6):
        names, bins = view.chosen(8, rng), rng.integers(3, size=(2, 8))
        omega, there = rng.random(8), rng.random(8) < 0.8
        view.learn(names, bins, torch.from_numpy(omega).float(), torch.from_numpy(there).float())
        drawn = {}
        for name, index, w, counts in zip(names.ravel(), bins.ravel(), [*omega] * 2, [*there] * 2, strict=True):
            if name != "identity" and counts:
                drawn.setdefault((name, index), []).append(w)
        for key, values in drawn.items():
            for _ in values:
                plain[key] = decay * plain[key] + (1 - decay) * np.mean(values)
    expected = np.reshape(list(plain.values()), (3, 3))
    np.testing.assert_allclose(view.weights.numpy(), expected, rtol=1e-5)
    assert (expected < 1).any()


def test_processes_learn_from_the_images_of_all(monkeypatch):
    """Sums and numbers of all processes: here two that have seen the same."""
    monkeypatch.setattr(ctaugment, "total", lambda mine: 2 * mine)
    view = CTAugment(names=["blur"], bins=2)
    view.learn(np.array([["blur"]]), np.array([[1]]), torch.tensor([0.5]), torch.ones(1))
    assert view.weights.tolist() == [[1, pytest.approx(0.99**2 + (1 - 0.99**2) * 0.5)]]


def test_agreement_by_hand(multilabel, multiclass):
    p = torch.tensor([[0.7, 0.1], [0.2, 0.3], [0.1, 0.6]])  # of background, lung and heart in two pixels
    outputs, ones = p.log().view(1, 3, 1, 2), torch.ones(1, 1, 1, 2)
    label = torch.tensor([[[[0.0, 2.0]]]])
    assert [each.item() for each in agreement(multiclass, outputs, label, ones)] == [pytest.approx(0.65), 1]
    half = torch.tensor([[[[0.5, 1.0]]]])
    assert agreement(multiclass, outputs, label, half)[0].item() == pytest.approx((0.35 + 0.6) / 1.5)
    label[..., 1] = -1
    assert agreement(multiclass, outputs, label, ones)[0].item() == pytest.approx(0.7)
    omega, there = agreement(multiclass, outputs, label, ones * torch.tensor([0.0, 1.0]))
    assert there.item() == 0 and omega.isfinite()
    outputs = p[1:].logit().view(1, 2, 1, 2)
    label = torch.tensor([[[[1.0, 0.0]], [[0.0, -1.0]]]])
    expected = (0.2 + 0.7 + 0.9) / 3
    assert agreement(multilabel, outputs, label, ones)[0].item() == pytest.approx(expected)


def test_balanced_agreement_by_hand(multilabel, multiclass):
    """99 pixels of background that are right, and a lesion of one that is overlooked."""
    outputs, label, ones = torch.full((1, 1, 10, 10), -20.0), torch.zeros(1, 1, 10, 10), torch.ones(1, 1, 10, 10)
    label[..., 3, 4] = 1
    assert agreement(ONE, outputs, label, ones)[0].item() == pytest.approx(0.99)
    assert agreement(ONE, outputs, label, ones, balanced=True)[0].item() == pytest.approx(0.5)
    assert agreement(ONE, outputs, 0 * label, ones, balanced=True)[0].item() == pytest.approx(1)
    outputs = torch.cat([-outputs, outputs, outputs], 1)
    label[..., 3, 5] = 2
    assert agreement(multiclass, outputs, label, ones)[0].item() == pytest.approx(0.98)
    assert agreement(multiclass, outputs, label, ones, balanced=True)[0].item() == pytest.approx(1 / 3)


def plain_agreement(labels, p, label, weight, balanced):
    """Omega of one image: p and label ``K N``, weight ``1 N`` or ``K N``; groups are classes, and in multi-label
    what is of a class and what is not."""
    groups = {}
    for pixel in range(p.shape[1]):
        if labels.multilabel:
            for c in range(len(p)):
                w = weight[min(c, len(weight) - 1), pixel]
                if label[c, pixel] >= 0 and w:
                    groups.setdefault((c, label[c, pixel]), []).append((w, 1 - abs(p[c, pixel] - label[c, pixel])))
        elif label[0, pixel] >= 0 and weight[0, pixel]:
            truth = np.eye(len(p))[int(label[0, pixel])]
            groups.setdefault(label[0, pixel], []).append((weight[0, pixel], 1 - np.abs(p[:, pixel] - truth).sum() / 2))
    if balanced:
        return np.mean([np.average([a for _, a in group], weights=[w for w, _ in group]) for group in groups.values()])
    pairs = [pair for group in groups.values() for pair in group]
    return sum(w * a for w, a in pairs) / sum(w for w, _ in pairs)


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("size", [(5, 4), (3, 4, 2)])
def test_agreement_is_that_of_loops(labels, size, balanced):
    rng, channels = np.random.default_rng(0), 2 if labels.multilabel else 1
    outputs = torch.from_numpy(rng.normal(size=(3, labels.num_outputs, *size)))
    label = torch.from_numpy(rng.integers(-1, 2 if labels.multilabel else 3, (3, channels, *size))).float()
    for weight in (rng.random((3, 1, *size)), rng.integers(0, 2, (3, channels, *size))):
        weight = torch.from_numpy(weight).float()
        omega, there = agreement(labels, outputs, label, weight, balanced)
        p = plain_probabilities(labels, outputs)
        expected = [
            plain_agreement(labels, *(each.reshape(len(each), -1) for each in one), balanced)
            for one in zip(p, label.double().numpy(), weight.double().numpy(), strict=True)
        ]
        np.testing.assert_allclose(omega, expected, rtol=1e-5)
        assert there.tolist() == [1, 1, 1]


def test_soft_labels_agree_as_far_as_they_are_alike(multiclass):
    outputs, label = torch.zeros(1, 3, 1, 1), torch.tensor([0.5, 0.5, 0.0]).view(1, 3, 1, 1)
    omega, _ = agreement(multiclass, outputs, label, torch.ones(1, 1, 1, 1))
    assert omega.item() == pytest.approx(1 - (1 / 6 + 1 / 6 + 1 / 3) / 2)


# ---- after a step


def test_a_bin_learns_from_images_of_its_strength():
    """The network's probability of an even image says how much it was brightened, and so which bin was drawn."""
    view, network = CTAugment(1, names=["brightness"], bins=5, cutout=0.5), Logits()
    seen = set()
    for iteration in range(1, 40):
        view.weights.fill_(1)
        view.after_step(step_of(ONE, network, torch.full((1, 1, 3, 3), 0.5), torch.ones(1, 1, 3, 3), iteration))
        (index,) = (view.weights[0] != 1).nonzero()[:, 0].tolist()
        omega = 1 - (1 - view.weights[0, index].double()) / 0.01
        strength = (omega.logit().item() - 0.5) / 0.4
        assert -1 + 0.4 * index - 0.02 < strength < -1 + 0.4 * (index + 1) + 0.02
        seen.add(index)
    assert seen == {0, 1, 2, 3, 4}  # drawn evenly, whatever their weights


def test_bins_are_drawn_evenly_where_they_are_shut():
    view = with_weights([[1.0, 0.0, 0.0, 0.0]], names=["blur"], operations=1, decay=0.0)
    for iteration in range(1, 6):
        view.after_step(step_of(ONE, Logits(9.0), torch.ones(8, 1, 4, 4), torch.ones(8, 1, 4, 4), iteration))
    assert (view.weights > 0.99).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_label_moves_as_the_image_does(shape):
    """A network that finds the structure wherever it is agrees with its label wherever that is moved."""
    label = (smooth((24, *shape[1:])) > 0.5).float()
    for labels in (ONE, LabelSpace(["lesion"], "multiclass")):
        view = CTAugment(names=["rotate", "shear", "translate"], decay=0.0)
        network = nn.Sequential(Centred(), *([] if labels.multilabel else [Softmax()]))
        view.after_step(step_of(labels, network, label, label))
        moved = view.weights[view.weights != 1]
        assert len(moved) > 10 and moved.min() > 0.9 and moved.mean() > 0.95
        view.weights.fill_(1)
        view.after_step(step_of(labels, network, label, 1 - label))
        assert view.weights[view.weights != 1].max() < 0.1


class Centred(Logits):
    """Sure of the class where the image is above 0.5."""

    def forward(self, x):
        return 40 * (self.factor * x - 0.5)


class Softmax(nn.Module):
    def forward(self, x):
        return torch.cat([torch.zeros_like(x), x], 1)


def test_weights_of_the_labelled_pixels_count():
    label = torch.zeros(2, 1, 4, 4)
    label[0, ..., :2] = 1
    weight = 0.5 * label
    view = CTAugment(names=["blur"], magnitude=1e-6, decay=0.0)  # the second image has no pixel that counts
    view.after_step(step_of(ONE, Logits(0.0), torch.ones(2, 1, 4, 4), label, weight=weight))
    assert sorted(view.weights.flatten().tolist())[:2] in ([0.5, 0.5], [0.5, 1])


def test_the_network_stays_as_it_is(labels, tiny_network):
    network, image = tiny_network(labels.num_outputs), smooth((4, 1, 16, 16))
    label = torch.randint(0, 2, (4, 2 if labels.multilabel else 1, 16, 16)).float()
    network.train()
    network(image)  # running statistics of its own
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random, found = torch.get_rng_state(), []
    for _ in range(2):
        view = CTAugment()
        view.after_step(step_of(labels, network, image, label))
        found.append(view.weights)
    assert torch.equal(*found) and (found[0] < 1).any()  # without dropout
    assert torch.equal(torch.get_rng_state(), random)
    assert network.training and all(module.training for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    view.after_step(step_of(labels, network, image, label, iteration=2))
    assert not torch.equal(*found)  # other operations in another iteration


def test_it_is_part_of_the_checkpoint():
    view, other = CTAugment(), CTAugment()
    view.weights.uniform_()
    other.load_state_dict(view.state_dict())
    assert torch.equal(other.weights, view.weights)


# ---- bad settings


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"bins": 1}, "bins must be at least 2, got 1: 17"),
        ({"threshold": 1.0}, r"threshold of CTAugment must be in \[0, 1\), got 1.0: 0.8"),
        ({"decay": -0.1}, r"decay of CTAugment must be in \[0, 1\), got -0.1: 0.99"),
        ({"names": ["identity", "autocontrast"]}, "whose strength it can learn, got 2 of identity, autocontrast with"),
        ({"operations": 0}, "whose strength it can learn, got 0 of .*: take Strong"),
        ({"magnitude": 0}, "whose strength it can learn, got 2 of .* with the magnitude 0: take Strong"),
        ({"magnitude": 2}, r"magnitude must be in \[0, 1\]"),
        ({"names": ["blurr"]}, "names must be of identity"),
    ],
)
def test_settings_out_of_range_are_refused(option, message):
    with pytest.raises(ValueError, match=message):
        CTAugment(**option)
