"""Pseudo-Label, FixMatch and RPG+ against their equations in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from plain_terms import confident, losses, plain_dice, plain_loss

from common.draws import generator
from common.losses import Dice
from common.methods import RPG, BalancedRPG, FixMatch, PseudoLabel, RPGPlus
from common.views import Strong


def taught(step, term):
    """Label and weight that a term taught."""
    return step.notes[term].pseudo.label, step.notes[term].weight


def test_pseudo_label_terms(labels, batch, network):
    terms, step = losses(PseudoLabel(labels, threshold=0.8), network, batch)
    logits = network(batch["unlabeled"]["image"])
    label, weight = confident(labels, logits, 0.8)
    assert 0.1 < weight.mean() < 0.9
    assert list(terms) == ["supervised", "unsupervised"]
    assert terms["unsupervised"].item() == pytest.approx(plain_loss(labels, logits, label, weight), rel=1e-5)
    found = taught(step, "unsupervised")
    torch.testing.assert_close(found[0].double(), label)
    torch.testing.assert_close(found[1].double(), weight)
    supervised = labels.cross_entropy(network(batch["labeled"]["image"]), batch["labeled"]["label"])
    torch.testing.assert_close(terms["supervised"], supervised)


@pytest.mark.parametrize("cutout_label", ["background", "ignore"])
def test_consistency_is_the_third_term_of_equation_11(labels, batch, network, cutout_label):
    """CE(f(a_s(x)), a_s(l'(x))), with the changed label and weight looked up pixel by pixel."""
    view = Strong(cutout_label=cutout_label, names=["translate", "brightness"])  # places can then be told by hand
    image = batch["unlabeled"]["image"]
    label, weight = confident(labels, network(image), 0.8)
    strong, change, _ = view(image, generator(0, 9, "Strong 1"))
    moved, cut = change.changes
    changed, counted = torch.zeros_like(label), torch.zeros_like(weight)
    for b in range(3):
        for y, x in np.ndindex(12, 12):
            box = cut.box[b]
            if box[0, 0] <= y < box[0, 1] and box[1, 0] <= x < box[1, 1]:
                counted[b, :, y, x] = cutout_label == "background"
                continue
            from_y, from_x = round(y + moved.matrix[b, 0, 2]), round(x + moved.matrix[b, 1, 2])
            if 0 <= from_y < 12 and 0 <= from_x < 12:
                changed[b, :, y, x], counted[b, :, y, x] = label[b, :, from_y, from_x], weight[b, :, from_y, from_x]
    expected = plain_loss(labels, network(strong), changed, counted)
    fixmatch, step = losses(FixMatch(labels, threshold=0.8, view=view), network, batch, 9)
    assert fixmatch["unsupervised"].item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(taught(step, "unsupervised")[0].double(), label)
    plus, step = losses(RPGPlus(labels, threshold=0.8, strong=view), network, batch, 9)
    assert plus["consistency"].item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(taught(step, "consistency")[1].double(), weight)


@pytest.mark.parametrize("method", [PseudoLabel, FixMatch])
def test_the_unsupervised_loss_may_be_another(labels, batch, network, method):
    plain = Strong(names=["brightness"], cutout=0)
    found, _ = losses(method(labels, 0.8, plain, unsupervised_loss=Dice()), network, batch, 2)
    logits = network(plain(batch["unlabeled"]["image"], generator(0, 2, "Strong 1")).image)
    label, weight = confident(labels, network(batch["unlabeled"]["image"]), 0.8)
    assert found["unsupervised"].item() == pytest.approx(plain_dice(labels, logits, label, weight), rel=1e-5)


def test_fixmatch_without_a_view_is_pseudo_label(labels, batch, network):
    still = Strong(names=["identity"], cutout=0)
    fixmatch, _ = losses(FixMatch(labels, 0.8, view=still), network, batch)
    pseudo, _ = losses(PseudoLabel(labels, 0.8), network, batch)
    torch.testing.assert_close(fixmatch, pseudo)


def test_the_first_two_terms_of_rpg_plus_are_rpg_s(labels, batch, network):
    rpg, expected = losses(RPG(labels, neighbors=20, query_size=None), network, batch, 2)
    plus, step = losses(RPGPlus(labels, neighbors=20, query_size=None), network, batch, 2)
    assert list(plus) == ["supervised", "unsupervised", "consistency"]
    torch.testing.assert_close({name: plus[name] for name in rpg}, rpg)
    torch.testing.assert_close(taught(step, "unsupervised"), taught(expected, "unsupervised"))
    assert list(step.notes) == ["unsupervised", "consistency"]


def test_weights_of_the_terms(labels, batch, network):
    plain, _ = losses(RPGPlus(labels), network, batch, 5)
    options = {"unsupervised_weight": 0.3, "consistency_weight": 0.5, "ramp_up": 10}
    scaled, _ = losses(RPGPlus(labels, **options), network, batch, 5)
    factor = 0.3 * math.exp(-5 * 0.5**2)
    torch.testing.assert_close(scaled["supervised"], plain["supervised"])
    torch.testing.assert_close(scaled["unsupervised"], plain["unsupervised"] * factor)
    torch.testing.assert_close(scaled["consistency"], plain["consistency"] * factor * 0.5)


@pytest.mark.parametrize("method", [PseudoLabel, FixMatch, RPGPlus])
def test_every_term_teaches_and_pseudo_labels_do_not(labels, batch, network, method):
    terms, step = losses(method(labels, threshold=0.8), network, batch)
    for term in terms.values():
        (gradient,) = torch.autograd.grad(term, network.final_conv.weight, retain_graph=True)
        assert gradient.abs().sum() > 0
    assert not any(value.requires_grad for name in step.notes for value in taught(step, name))


@pytest.mark.parametrize("method", [PseudoLabel, FixMatch])
def test_pseudo_label_for_pictures_is_that_of_the_training_step(labels, batch, network, method):
    _, step = losses(method(labels), network, batch)
    noted = method(labels).explain(network, batch)
    torch.testing.assert_close((noted.pseudo.label, noted.weight), taught(step, "unsupervised"))


@pytest.mark.parametrize("method", [PseudoLabel, FixMatch, RPGPlus])
def test_bad_settings_are_refused(multilabel, method):
    with pytest.raises(ValueError, match="threshold"):
        method(multilabel, threshold=0.5)
    with pytest.raises(ValueError, match="must not be negative"):
        method(multilabel, unsupervised_weight=-1)


def test_negative_consistency_weight_is_refused(multilabel):
    with pytest.raises(ValueError, match="factor of a term must not be negative, got -1"):
        RPGPlus(multilabel, consistency_weight=-1)


def test_the_papers_settings_are_the_defaults(labels):
    method = RPGPlus(labels)
    consistency = method.terms["consistency"]
    assert (consistency.weight.threshold, consistency.factor) == (0.8, 1)
    assert type(consistency.view) is Strong and consistency.view.cutout_label == "background"
    assert method.terms["unsupervised"].source.neighbors == 7000
    assert FixMatch(labels).terms["unsupervised"].weight.threshold == 0.8
    assert PseudoLabel(labels).terms["unsupervised"].weight.threshold == 0.95


@pytest.mark.parametrize("method", [FixMatch, RPGPlus, BalancedRPG])
def test_terms_in_mixed_precision(labels, batch, network, method):
    expected, _ = losses(method(labels, threshold=0.8), network, batch, 4)
    with torch.autocast("cpu", torch.bfloat16):
        terms, _ = losses(method(labels, threshold=0.8), network, batch, 4)
    for name, term in terms.items():
        assert term.item() == pytest.approx(expected[name].item(), rel=0.2)
    sum(terms.values()).backward()
    assert network.final_conv.weight.grad.isfinite().all()
