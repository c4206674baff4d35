"""Where gradients came from and what was left to be learnt, against plain loops and autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from methods.plain_terms import random_batch

from common.label_space import LabelSpace
from common.losses import CrossEntropy
from common.methods import AEL, BCP, RPG, AugSeg, MeanTeacher, Popcorn, RPGPlus, SegMatch, Supervised, UniMatch
from common.metrics import comparison_statistics, view_statistics
from common.pseudo_label import PseudoLabel
from common.step import Compared, Noted, Step, Viewed
from common.views.change import Cut, Moved


def compared(outputs, label, weight=None, gradient=None):
    return Compared(outputs, label, weight, [] if gradient is None else [gradient])


def test_by_hand(multiclass):
    """One image of 1 x 4 pixels; background, lung, heart."""
    label = torch.tensor([[[[0.0, 1, 2, 2]]]])
    outputs = torch.eye(3)[torch.tensor([0, 1, 1, 2])].T.reshape(1, 3, 1, 4)  # wrong in the third pixel
    weight = torch.tensor([[[[1.0, 0.5, 0.25, 0.25]]]])
    gradient = torch.zeros(1, 3, 1, 4)
    gradient[0, :, 0] = torch.tensor([[1.0, 0, 0, 0], [0, -2, 0, 0], [0, 0, 3, -4.0]])
    of = {
        "supervised": [compared(outputs, label, gradient=gradient)],
        "strong": [compared(outputs, label, weight, gradient), compared(outputs, label, weight, 2 * gradient)],
    }
    numbers = comparison_statistics(multiclass, of)
    classes = {"lung": 2 / 10, "heart": 7 / 10}
    assert numbers == pytest.approx(
        {
            "gradient_supervised": 10 / 40,
            "gradient_strong": 30 / 40,
            **{f"gradient_{term}_{name}": share for term in of for name, share in classes.items()},
            "agreement_supervised": 3 / 4,
            "agreement_strong": 1.75 / 2,
        }
    )


def test_pixels_without_a_label_agree_with_nobody(multilabel):
    label = torch.tensor([[[[1.0, -1]], [[0.0, -1]]]])
    numbers = comparison_statistics(
        multilabel, {"supervised": [compared(torch.tensor([[[[1.0, 1]], [[1, 1]]]]), label)]}
    )
    assert numbers == {"agreement_supervised": 0}  # no gradient has come: its share is not defined


def test_weights_of_classes_ask_for_classes(multilabel):
    """The second class of the first pixel is wrong, and not asked for; the first of the second one has no label."""
    outputs, label = torch.tensor([[[[1.0, 1]], [[1, 1]]]]), torch.tensor([[[[1.0, -1]], [[0, 0]]]])
    weight = torch.tensor([[[[1.0, 1]], [[0, 0.5]]]])
    numbers = comparison_statistics(multilabel, {"one": [compared(outputs, label, weight)]})
    assert numbers == pytest.approx({"agreement_one": 1 / 1.5})


def test_a_soft_label_is_its_most_probable_class(multiclass):
    soft = torch.tensor([[[[0.3]], [[0.4]], [[0.3]]]])
    of = {"one": [compared(soft.log(), soft, gradient=torch.ones(1, 3, 1, 1))]}
    assert comparison_statistics(multiclass, of) == {
        "gradient_one_lung": 1,
        "gradient_one_heart": 0,
        "agreement_one": 1,
    }


def test_shares_beside_an_infinite_gradient_are_not_known(multilabel):
    outputs, label = torch.ones(1, 2, 1, 1), torch.ones(1, 2, 1, 1)
    of = {name: [compared(outputs, label, None, value * outputs)] for name, value in (("one", 1), ("two", torch.inf))}
    assert comparison_statistics(multilabel, of) == {"agreement_one": 1, "agreement_two": 1}


def test_a_term_that_compares_nothing_is_left_out(multilabel):
    assert comparison_statistics(multilabel, {}) == {}


@pytest.mark.parametrize("mode", ["multilabel", "multiclass"])
def test_gradients_are_autograd_s(mode):
    """Two terms compare the same outputs: each has the gradient that it would have had alone."""
    labels = LabelSpace(["lung", "heart"], mode)
    torch.manual_seed(0)
    outputs = torch.randn(2, labels.num_outputs, 5, 4, requires_grad=True)
    asked = [torch.randint(0, 2, (2, 2 if labels.multilabel else 1, 5, 4)).float() for _ in range(2)]
    weight = torch.rand(2, 1, 5, 4)
    step = Step(labels, torch.nn.Identity(), {})
    shared = 1 * outputs
    losses = [step.compare(CrossEntropy(), shared, asked[0], None)]
    step.term = "other"
    losses.append(3 * step.compare(CrossEntropy(), shared, asked[1], weight))
    sum(losses).backward()
    plain = {}
    for name, label, given, factor in (("supervised", asked[0], None, 1), ("other", asked[1], weight, 3)):
        leaf = outputs.detach().clone().requires_grad_()
        (factor * CrossEntropy()(labels, leaf, label, given)).backward()
        torch.testing.assert_close(step.compared[name][0].gradients[0], leaf.grad)
        plain[name] = leaf.grad.abs().double().numpy()
    numbers = comparison_statistics(labels, step.compared)
    whole = sum(values.sum() for values in plain.values())
    for name, values in plain.items():
        assert numbers[f"gradient_{name}"] == pytest.approx(values.sum() / whole, rel=1e-5)
        label = step.compared[name][0].label.numpy()
        for j, of in enumerate(labels.classes):
            total = 0.0
            for b, x, y in np.ndindex(2, 5, 4):
                inside = label[b, j, x, y] > 0.5 if labels.multilabel else label[b, 0, x, y] == j + 1
                total += values[b, :, x, y].sum() * inside
            assert numbers[f"gradient_{name}_{of}"] == pytest.approx(total / values.sum(), rel=1e-5)


def test_views_by_hand(multiclass):
    """The image is flipped, and its first pixel cut out: there the truth has become background."""
    truth = torch.tensor([[[[1.0, 2, 0, 0]]]])
    flip = np.diag([1.0, -1, 1])[None]
    said = torch.eye(3)[torch.tensor([0, 0, 1, 1])].T.reshape(1, 3, 1, 4)
    noted = Noted(PseudoLabel(truth), torch.ones(1, 1, 1, 4), None, Viewed(truth, Moved(flip)), said)
    # the moved truth is 0 0 2 1
    assert view_statistics(multiclass, {"strong": noted}, truth) == pytest.approx(
        {"view_accuracy_strong": 3 / 4, "view_iou_strong": (1 / 2 + 0) / 2}
    )
    cut = Viewed(truth, Cut(np.array([[[0, 1], [0, 1]]]), label="ignore"))
    numbers = view_statistics(multiclass, {"strong": noted._replace(viewed=cut)}, truth)
    # 0 2 0 0 with the first pixel left out, said 0 0 1 1
    assert numbers == pytest.approx({"view_accuracy_strong": 0, "view_iou_strong": 0})
    assert view_statistics(multiclass, {"strong": noted._replace(viewed=None)}, truth) == {}
    assert view_statistics(multiclass, {"strong": noted}, truth.expand(1, 2, 1, 4)) == {}


@pytest.mark.parametrize("kind", [Supervised, RPG, RPGPlus, UniMatch, SegMatch, AEL, AugSeg, MeanTeacher, BCP])
def test_every_comparison_of_a_step_is_noted(kind, multilabel, tiny_network):
    """Whatever a method compares, the gradients of its outputs are there after the backward pass."""
    options = {"supervised_share": 0} if kind is BCP else {}
    method, network = kind(multilabel, **options), tiny_network(2)
    method.prepare(network)
    step = Step(multilabel, network, random_batch(multilabel, 16, channels=1), iteration=1, progress=0.5)
    sum(method.losses(step).values()).backward()
    others = {"consistency", "strong", "features", "unsupervised"} & set(method.terms)
    assert set(step.compared) == {"supervised", *others}
    assert all(each.gradients for of in step.compared.values() for each in of)
    numbers = comparison_statistics(multilabel, step.compared)
    if others:
        assert sum(numbers[f"gradient_{name}"] for name in step.compared) == pytest.approx(1)
        assert numbers["gradient_supervised"] > 0
    assert all(0 <= numbers[f"agreement_{name}"] <= 1 for name in step.compared if f"agreement_{name}" in numbers)


def test_popcorn_compares_both_halves_of_its_pairs(multilabel, tiny_network):
    method, network, batch = Popcorn(multilabel, 0, "none"), tiny_network(2), random_batch(multilabel, 16, channels=1)
    batch["labeled"]["pairs"] = torch.tensor([[0, 1]])
    step = Step(multilabel, network, batch, iteration=1)
    method.losses(step)["supervised"].backward()
    assert [len(of.outputs) for of in step.compared["supervised"]] == [1, 1]
    assert all(of.gradients[0].any() for of in step.compared["supervised"])
