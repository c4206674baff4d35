"""RPG's loss (eq. 8) against NumPy, and the trap of batch norm."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from plain_terms import Pixels, plain_loss, random_batch

from common.methods import RPG, NearestNeighbor
from common.methods.semi_supervised import rise


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
    terms, output = method(labels, neighbors=20, query_size=None).terms(network, batch, 1)
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
    np.testing.assert_array_equal(output["pseudo_label"].numpy(), label.numpy())
    np.testing.assert_allclose(output["weight"].numpy(), weight.numpy(), atol=1e-5)


def test_the_loss_is_taken_at_the_queries(labels):
    """With fewer queries than pixels, the pixel in the middle of each cell is asked, and no other one learns."""
    batch = random_batch(labels, size=9)
    method = RPG(labels, neighbors=20, query_size=3)
    middle = (..., slice(1, 9, 3), slice(1, 9, 3))
    few = copy.deepcopy(batch)
    few["unlabeled"]["image"] = batch["unlabeled"]["image"][middle]
    network = Pixels(3, labels.num_outputs)
    terms, output = method.terms(network, batch, 1)
    expected, expected_output = method.terms(network, few, 1)
    torch.testing.assert_close(terms, expected)
    torch.testing.assert_close(output, expected_output)
    image = batch["unlabeled"]["image"].requires_grad_()
    terms, _ = method.terms(network, batch, 1)
    (gradient,) = torch.autograd.grad(terms["unsupervised"], image)
    learns = gradient.abs().sum(1) > 0
    assert learns[middle].all()
    assert learns.sum() == 3 * 9


def test_literal_formula_as_a_keyword(multilabel):
    batch = random_batch(multilabel)
    method = RPG(multilabel, neighbors=20, query_size=None, background=False)
    _, output = method.terms(Pixels(3, 2), batch, 1)
    _, weight = nearest_labels(batch, 20, background=False)
    np.testing.assert_allclose(output["weight"].numpy(), weight.numpy(), atol=1e-5)


def test_both_terms_move_the_network_and_labels_do_not(labels):
    batch = random_batch(labels)
    network = Pixels(3, labels.num_outputs)
    terms, output = RPG(labels, query_size=None).terms(network, batch, 1)
    gradients = [torch.autograd.grad(term, network.head.weight, retain_graph=True)[0] for term in terms.values()]
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
    assert not output["pseudo_label"].requires_grad and not output["weight"].requires_grad


def test_unsupervised_weight_and_ramp_up_scale_the_second_term(labels):
    batch = random_batch(labels)
    network = Pixels(3, labels.num_outputs)
    plain, _ = RPG(labels).terms(network, batch, 1)
    scaled, _ = RPG(labels, unsupervised_weight=0.3, ramp_up=10).terms(network, batch, 5)
    torch.testing.assert_close(scaled["supervised"], plain["supervised"])
    torch.testing.assert_close(scaled["unsupervised"], plain["unsupervised"] * 0.3 * math.exp(-5 * 0.5**2))


def test_ramp_up_by_hand():
    assert rise(0, 10) == pytest.approx(math.exp(-5))
    assert rise(5, 10) == pytest.approx(math.exp(-1.25))
    assert rise(10, 10) == rise(11, 10) == rise(1, 0) == 1
    values = [rise(iteration, 10) for iteration in range(11)]
    assert values == sorted(values)


def changed_company(batch):
    """The same labelled images beside unlabelled ones of quite another brightness and contrast."""
    other = copy.deepcopy(batch)
    other["unlabeled"]["image"] = 20 + 7 * other["unlabeled"]["image"].flip(0)
    return other


@pytest.mark.parametrize("method", [NearestNeighbor, RPG])
def test_labelled_loss_does_not_depend_on_the_unlabelled_images(labels, method, tiny_network):
    """Batch norm takes its statistics from what shares a pass: the labelled images must have theirs to themselves."""
    batch = random_batch(labels, channels=1)
    network = tiny_network(labels.num_outputs, dropout=0).train()
    seen = []
    for each in (batch, changed_company(batch)):
        terms, _ = method(labels).terms(copy.deepcopy(network), each, 1)
        seen.append(terms["supervised"])
    alone = labels.cross_entropy(network(batch["labeled"]["image"]), batch["labeled"]["label"])
    torch.testing.assert_close(seen[0], alone, rtol=0, atol=0)
    torch.testing.assert_close(seen[1], alone, rtol=0, atol=0)


def test_one_common_pass_would_change_the_labelled_outputs(labels, tiny_network):
    """What the test above guards against does happen with this network."""
    batch = random_batch(labels, channels=1)
    network = tiny_network(labels.num_outputs, dropout=0).train()
    alone = network(batch["labeled"]["image"])
    joint = network(torch.cat([batch["labeled"]["image"], changed_company(batch)["unlabeled"]["image"]]))[:2]
    assert (joint - alone).abs().max() > 0.5


def test_pseudo_label_for_pictures_is_that_of_the_training_step(labels):
    batch = random_batch(labels)
    network = Pixels(3, labels.num_outputs)
    for method in (NearestNeighbor(labels), RPG(labels)):
        _, output = method.terms(network, batch, 1)
        label, weight = method.pseudo_label(network, batch["labeled"], batch["unlabeled"])
        torch.testing.assert_close(label, output["pseudo_label"])
        torch.testing.assert_close(weight, output["weight"])


def test_pseudo_label_for_pictures_has_the_image_s_size(labels):
    batch = random_batch(labels)
    label, weight = RPG(labels, query_size=2).pseudo_label(Pixels(3, labels.num_outputs), *batch.values())
    assert label.shape == (3, batch["labeled"]["label"].shape[1], 6, 6)
    assert weight.shape == (3, 1, 6, 6)


def test_without_unlabelled_images_the_supervised_term_is_left(labels):
    batch = random_batch(labels)
    network = Pixels(3, labels.num_outputs)
    expected, _ = RPG(labels).terms(network, batch, 1)
    terms, output = RPG(labels).terms(network, {"labeled": batch["labeled"]}, 1)
    assert list(terms) == ["supervised"]
    assert output == {}
    torch.testing.assert_close(terms["supervised"], expected["supervised"])


@pytest.mark.parametrize("option", [{"unsupervised_weight": -1.0}, {"ramp_up": -1}])
def test_negative_settings_are_refused(labels, option):
    with pytest.raises(ValueError, match="must not be negative"):
        RPG(labels, **option)


def test_the_paper_s_settings_are_the_defaults(labels):
    source = RPG(labels).source
    assert (source.neighbors, source.reference_size, source.background) == (7000, 64, True)
    assert RPG(labels).unsupervised_weight == 1
