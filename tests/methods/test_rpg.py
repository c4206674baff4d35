"""RPG's loss (eq. 8) against NumPy."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from plain_terms import Pixels, losses, picture_batch, plain_loss, random_batch

from common.methods import RPG, BalancedRPG, NearestNeighbor, RPGPlus
from common.views import Strong, Weak
from common.weights import ClassEntropy, EntropyShare, Ones, Product


def nearest_labels(batch, k, background):
    """Label and weight of all unlabelled pixels by eq. 3-7 in float64, at full resolution."""
    pool = batch["labeled"]["image"].double().movedim(1, -1).flatten(0, -2).numpy()
    label = batch["labeled"]["label"].double().movedim(1, -1).flatten(0, -2).numpy()
    shape = batch["unlabeled"]["image"].shape
    queries = batch["unlabeled"]["image"].double().movedim(1, -1).flatten(0, -2).numpy()
    lengths = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(pool, axis=1)
    distance = 1 - np.maximum(queries @ pool.T / (lengths + 1e-8), 0)
    if label.shape[1] > 1:
        members = np.column_stack([label.sum(axis=1) == 0, label > 0]) if background else label > 0
    else:
        members = label == np.arange(3)
    near = distance <= np.sort(distance, axis=1)[:, k - 1 : k]
    delta = np.stack([np.where(near & m, distance, 1).min(axis=1) for m in members.T], axis=1)
    p = (1 - delta + 1e-8) / (1 - delta + 1e-8).sum(axis=1, keepdims=True)
    weight = 1 + (p * np.log(p)).sum(axis=1) / np.log(p.shape[1])
    maps = [label[distance.argmin(axis=1)], weight[:, None]]
    return [torch.from_numpy(m.reshape(shape[0], *shape[2:], -1)).movedim(-1, 1) for m in maps]


@pytest.mark.parametrize("method", [NearestNeighbor, RPG])
def test_terms_are_equation_8(labels, method):
    batch = random_batch(labels)
    network = Pixels(3, labels.num_outputs)
    terms, step = losses(method(labels, neighbors=20, query_size=None), network, batch)
    label, weight = nearest_labels(batch, 20, background=True)
    if method is NearestNeighbor:
        weight = torch.ones_like(weight)
    logits = {part: network(batch[part]["image"]) for part in batch}
    ones = torch.ones(2, 1, 6, 6)
    expected = plain_loss(labels, logits["labeled"], batch["labeled"]["label"], ones)
    assert terms["supervised"].item() == pytest.approx(expected, rel=1e-5)
    assert terms["unsupervised"].item() == pytest.approx(
        plain_loss(labels, logits["unlabeled"], label, weight), rel=1e-4
    )
    noted = step.notes["unsupervised"]
    np.testing.assert_array_equal(noted.pseudo.label.numpy(), label.numpy())
    np.testing.assert_allclose(noted.weight.numpy(), weight.numpy(), atol=1e-5)


def test_the_loss_is_taken_at_the_queries(labels):
    """With fewer queries than pixels, the pixel in the middle of each cell is asked, and no other one learns."""
    batch = random_batch(labels, size=9)
    method = RPG(labels, neighbors=20, query_size=3)
    middle = (..., slice(1, 9, 3), slice(1, 9, 3))
    few = copy.deepcopy(batch)
    few["unlabeled"]["image"] = batch["unlabeled"]["image"][middle]
    network = Pixels(3, labels.num_outputs)
    terms, step = losses(method, network, batch)
    expected, plain = losses(method, network, few)
    torch.testing.assert_close(terms, expected)
    mine, theirs = step.notes["unsupervised"], plain.notes["unsupervised"]
    torch.testing.assert_close((mine.pseudo.label, mine.weight), (theirs.pseudo.label, theirs.weight))
    image = batch["unlabeled"]["image"].requires_grad_()
    terms, _ = losses(method, network, batch)
    (gradient,) = torch.autograd.grad(terms["unsupervised"], image)
    learns = gradient.abs().sum(1) > 0
    assert learns[middle].all()
    assert learns.sum() == 3 * 9


def test_a_moving_grid_asks_other_pixels_in_each_iteration(labels):
    batch, network = random_batch(labels, size=9), Pixels(3, labels.num_outputs)
    image = batch["unlabeled"]["image"].requires_grad_()
    method, learnt = NearestNeighbor(labels, 20, query_size=3, moving_grid=True), torch.zeros(9, 9, dtype=torch.bool)
    for iteration in range(1, 41):
        terms, _ = losses(method, network, batch, iteration)
        (gradient,) = torch.autograd.grad(terms["unsupervised"], image)
        learns = gradient[0].abs().sum(0) > 0
        assert learns.sum() == 9
        learnt |= learns
    assert learnt.all()


def test_literal_formula_as_a_keyword(multilabel):
    batch = random_batch(multilabel)
    _, step = losses(RPG(multilabel, neighbors=20, query_size=None, background=False), Pixels(3, 2), batch)
    _, weight = nearest_labels(batch, 20, background=False)
    np.testing.assert_allclose(step.notes["unsupervised"].weight.numpy(), weight.numpy(), atol=1e-5)


def test_weight_and_view_are_keywords(labels):
    batch = picture_batch(labels)
    network, still = Pixels(3, labels.num_outputs), Strong(names=["identity"], cutout=0)
    options = {"neighbors": 20, "query_size": 5}
    nearest, _ = losses(NearestNeighbor(labels, **options), network, batch)
    ones, _ = losses(RPG(labels, weight=Ones(), **options), network, batch)
    torch.testing.assert_close(ones, nearest)
    entropy, _ = losses(NearestNeighbor(labels, weight=ClassEntropy(), **options), network, batch)
    rpg, _ = losses(RPG(labels, **options), network, batch)
    torch.testing.assert_close(entropy, rpg)
    assert rpg["unsupervised"] < nearest["unsupervised"]
    squared, _ = losses(RPG(labels, weight=Product([ClassEntropy(), ClassEntropy()]), **options), network, batch)
    assert squared["unsupervised"] < rpg["unsupervised"]
    for method in (NearestNeighbor, RPG, RPGPlus):
        viewed, _ = losses(method(labels, view=still, **options), network, batch)
        plain, _ = losses(method(labels, **options), network, batch)
        torch.testing.assert_close(viewed["unsupervised"], plain["unsupervised"])
        assert type(method(labels).terms["unsupervised"].view) is Weak
    assert method(labels, view=still).terms["consistency"].view is not still  # the strong view is another keyword


def test_a_weight_that_asks_what_references_do_not_know_is_refused(labels):
    with pytest.raises(ValueError, match=r"EntropyShare asks for the outputs .* got References, which knows distances"):
        RPG(labels, neighbors=5, weight=EntropyShare())


def test_both_terms_move_the_network_and_labels_do_not(labels):
    batch = random_batch(labels)
    network = Pixels(3, labels.num_outputs)
    terms, step = losses(RPG(labels, query_size=None), network, batch)
    gradients = [torch.autograd.grad(term, network.final_conv.weight, retain_graph=True)[0] for term in terms.values()]
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
    noted = step.notes["unsupervised"]
    assert not noted.pseudo.label.requires_grad and not noted.weight.requires_grad


def test_pseudo_label_for_pictures_is_that_of_the_training_step(labels):
    batch = random_batch(labels)
    network = Pixels(3, labels.num_outputs)
    for method in (NearestNeighbor(labels), RPG(labels), RPGPlus(labels)):
        _, step = losses(method, network, batch)
        noted, expected = method.explain(network, batch), step.notes["unsupervised"]
        torch.testing.assert_close(noted.pseudo.label, expected.pseudo.label)
        torch.testing.assert_close(noted.weight, expected.weight)


def test_the_papers_settings_are_the_defaults(labels):
    term = RPG(labels).terms["unsupervised"]
    source = term.source
    assert (source.neighbors, source.reference_size, source.query_size) == (7000, 64, 64)
    assert (
        source.background
        and not source.moving_grid
        and not source.per_class
        and source.label == "nearest"
        and type(term.weight) is ClassEntropy
    )
    assert type(NearestNeighbor(labels).terms["unsupervised"].weight) is Ones
    assert RPG(labels).unsupervised_weight == 1 and term.factor == 1
    options = {"neighbors": 9, "reference_size": 5, "query_size": None, "background": False, "moving_grid": True}
    options |= {"per_class": True, "label": "votes"}
    for method in (NearestNeighbor, RPG, RPGPlus, BalancedRPG):
        source = method(labels, **options).terms["unsupervised"].source
        assert {name: getattr(source, name) for name in options} == options
