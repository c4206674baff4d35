"""Pseudo-Label, FixMatch and RPG+ against their equations in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from plain_terms import Pixels, plain_loss, random_batch

from common.methods import RPG, BalancedRPG, FixMatch, PseudoLabel, RPGPlus
from common.transforms.strong import StrongView


@pytest.fixture
def batch(labels):
    batch = random_batch(labels, size=12)
    batch["unlabeled"]["image"] = batch["unlabeled"]["image"].sigmoid()
    return batch


@pytest.fixture
def network(labels):
    network = Pixels(3, labels.num_outputs)
    network.head.weight.data.mul_(6)  # so that some predictions are confident and others are not
    return network


def confident(labels, logits, threshold):
    """Label and weight of eq. 9 or 10, in float64."""
    logits = logits.detach().double().numpy()
    if labels.multilabel:
        p = 1 / (1 + np.exp(-logits))
        return torch.from_numpy(np.round(p)), torch.from_numpy((np.abs(p - 0.5) > abs(0.5 - threshold)) * 1.0)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return torch.from_numpy(p.argmax(1)[:, None]), torch.from_numpy((p.max(1)[:, None] > threshold) * 1.0)


def test_pseudo_label_terms(labels, batch, network):
    terms, output = PseudoLabel(labels, threshold=0.8).terms(network, batch, 1)
    logits = network(batch["unlabeled"]["image"])
    label, weight = confident(labels, logits, 0.8)
    assert 0.1 < weight.mean() < 0.9
    assert terms["unsupervised"].item() == pytest.approx(plain_loss(labels, logits, label, weight), rel=1e-5)
    torch.testing.assert_close(output["pseudo_label"].double(), label.double())
    torch.testing.assert_close(output["weight"].double(), weight.mean(1, keepdim=True))
    supervised = labels.cross_entropy(network(batch["labeled"]["image"]), batch["labeled"]["label"])
    torch.testing.assert_close(terms["supervised"], supervised)


@pytest.mark.parametrize("cutout_label", ["background", "ignore"])
def test_consistency_is_the_third_term_of_equation_11(labels, batch, network, cutout_label):
    """CE(f(a_s(x)), a_s(l'(x))), with the changed label and weight looked up pixel by pixel."""
    view = StrongView(seed=5, cutout_label=cutout_label)
    view.names = ["translate", "brightness"]  # the places can then be told by hand
    image = batch["unlabeled"]["image"]
    label, weight = confident(labels, network(image), 0.8)
    strong, change = view(image, 9)
    where = change.matrix[:, :-1, -1].numpy()
    changed, counted = torch.zeros_like(label), torch.zeros_like(weight)
    for b in range(3):
        for y, x in np.ndindex(12, 12):
            box = change.box[b]
            if box[0, 0] <= y < box[0, 1] and box[1, 0] <= x < box[1, 1]:
                counted[b, :, y, x] = cutout_label == "background"
                continue
            from_y, from_x = round(y + where[b, 0]), round(x + where[b, 1])
            if 0 <= from_y < 12 and 0 <= from_x < 12:
                changed[b, :, y, x], counted[b, :, y, x] = label[b, :, from_y, from_x], weight[b, :, from_y, from_x]
    expected = plain_loss(labels, network(strong), changed, counted)
    fixmatch, output = FixMatch(labels, threshold=0.8, view=view).terms(network, batch, 9)
    assert fixmatch["unsupervised"].item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(output["pseudo_label"].double(), label.double())
    plus, _ = RPGPlus(labels, threshold=0.8, view=view).terms(network, batch, 9)
    assert plus["consistency"].item() == pytest.approx(expected, rel=1e-5)


def test_the_first_two_terms_of_rpg_plus_are_rpg_s(labels, batch, network):
    rpg, expected = RPG(labels, neighbors=20, query_size=None).terms(network, batch, 2)
    plus, output = RPGPlus(labels, neighbors=20, query_size=None).terms(network, batch, 2)
    assert list(plus) == ["supervised", "unsupervised", "consistency"]
    torch.testing.assert_close({name: plus[name] for name in rpg}, rpg)
    torch.testing.assert_close(output, expected)


def test_weights_of_the_terms(labels, batch, network):
    plain, _ = RPGPlus(labels).terms(network, batch, 5)
    scaled, _ = RPGPlus(labels, unsupervised_weight=0.3, consistency_weight=0.5, ramp_up=10).terms(network, batch, 5)
    factor = 0.3 * math.exp(-5 * 0.5**2)
    torch.testing.assert_close(scaled["supervised"], plain["supervised"])
    torch.testing.assert_close(scaled["unsupervised"], plain["unsupervised"] * factor)
    torch.testing.assert_close(scaled["consistency"], plain["consistency"] * factor * 0.5)


@pytest.mark.parametrize("method", [PseudoLabel, FixMatch, RPGPlus])
def test_every_term_teaches_and_pseudo_labels_do_not(labels, batch, network, method):
    terms, output = method(labels, threshold=0.8).terms(network, batch, 1)
    for term in terms.values():
        (gradient,) = torch.autograd.grad(term, network.head.weight, retain_graph=True)
        assert gradient.abs().sum() > 0
    assert not any(value.requires_grad for value in output.values())


def test_fixmatch_learns_from_the_strong_view_alone(labels, batch, network):
    passes = []
    network.register_forward_hook(lambda module, inputs, output: passes.append(torch.is_grad_enabled()))
    FixMatch(labels).terms(network, batch, 1)
    assert passes == [True, False, True]  # labelled, weak view, strong view


@pytest.mark.parametrize("method", [PseudoLabel, FixMatch, RPGPlus])
def test_labelled_images_alone(labels, batch, network, method):
    terms, output = method(labels).terms(network, {"labeled": batch["labeled"]}, 1)
    assert list(terms) == ["supervised"] and output == {}


@pytest.mark.parametrize("method", [PseudoLabel, FixMatch])
def test_pseudo_label_for_pictures_is_that_of_the_training_step(labels, batch, network, method):
    _, output = method(labels).terms(network, batch, 1)
    label, weight = method(labels).pseudo_label(network, batch["labeled"], batch["unlabeled"])
    torch.testing.assert_close(label, output["pseudo_label"])
    torch.testing.assert_close(weight, output["weight"])


@pytest.mark.parametrize("method", [PseudoLabel, FixMatch, RPGPlus])
def test_bad_settings_are_refused(multilabel, method):
    with pytest.raises(ValueError, match="threshold"):
        method(multilabel, threshold=0.5)
    with pytest.raises(ValueError, match="must not be negative"):
        method(multilabel, unsupervised_weight=-1)


def test_negative_consistency_weight_is_refused(multilabel):
    with pytest.raises(ValueError, match="consistency_weight must not be negative"):
        RPGPlus(multilabel, consistency_weight=-1)


def test_the_paper_s_settings_are_the_defaults(labels):
    method = RPGPlus(labels)
    assert (method.confident.threshold, method.consistency_weight, method.view.cutout_label) == (0.8, 1, "background")
    assert method.source.neighbors == 7000


@pytest.mark.parametrize("method", [FixMatch, RPGPlus, BalancedRPG])
def test_terms_in_mixed_precision(labels, batch, network, method):
    expected, _ = method(labels, threshold=0.8).terms(network, batch, 4)
    with torch.autocast("cpu", torch.bfloat16):
        terms, _ = method(labels, threshold=0.8).terms(network, batch, 4)
    for name, term in terms.items():
        assert term.item() == pytest.approx(expected[name].item(), rel=0.2)
    sum(terms.values()).backward()
    assert network.head.weight.grad.isfinite().all()
