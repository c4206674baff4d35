"""Segmentation and reconstruction: both terms, and the head in optimizer, checkpoint and training."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import training
from plain_terms import losses

from common.label_space import LabelSpace
from common.losses import CrossEntropy, Dice
from common.methods import MultiTaskAttention, Supervised
from common.networks import BasicUNet
from common.terms.reconstruction import foreground, squared_error

LABELS = LabelSpace(["lesion"])


def unet(channels=1, outputs=1):
    torch.manual_seed(0)
    return BasicUNet(2, channels, outputs, (4, 4, 4, 4, 8, 4))


def batch_of(labels=LABELS, channels=1):
    rng = torch.Generator().manual_seed(1)
    image, other = (torch.randn(number, channels, 16, 16, generator=rng) for number in (4, 2))
    label = (image[:, :1] > 1).float()
    label = torch.cat([label, 1 - label], 1) if labels.num_classes == 2 and labels.multilabel else label
    return {"labeled": {"image": image, "label": label}, "unlabeled": {"image": other}}


train = partial(training.train, batch_of=batch_of)


def test_terms_are_dice_and_the_mean_error_over_all_images(labels):
    batch, network = batch_of(labels), unet(outputs=labels.num_outputs)
    method = MultiTaskAttention(labels, reconstruction_weight=0.7, seed=3)
    method.prepare(network)
    network.eval()
    terms, _ = losses(method, network, batch)
    assert list(terms) == ["supervised", "reconstruction"]
    error = pixels = 0
    for part in batch.values():
        seen = network(part["image"], seen=True)
        made = method.terms["reconstruction"].head(seen.features)
        error += squared_error(made, part["image"], foreground(labels, seen.outputs))
        pixels += part["image"].numel()
    torch.testing.assert_close(terms["reconstruction"], 0.7 * error / pixels)
    expected, _ = losses(Supervised(labels, loss=Dice()), network, batch)
    torch.testing.assert_close(terms["supervised"], expected["supervised"])


def test_head_is_in_the_optimizer_and_a_step_changes_it():
    network, method = unet(), MultiTaskAttention(LABELS)
    parameters = method.prepare(network)
    head = method.terms["reconstruction"].head
    assert [id(p) for p in parameters] == [id(p) for p in (*network.parameters(), *head.parameters())]
    assert [id(p) for p in method.prepare(network)] == [id(p) for p in parameters]  # asking again makes no other head
    before = copy.deepcopy(head.state_dict())
    train(method, network, torch.optim.SGD(parameters, 0.1), 1)
    torch.testing.assert_close(head.weight.detach(), before["weight"] - 0.1 * head.weight.grad)
    assert head.weight.grad.abs().sum() > 0


def test_inference_needs_the_network_alone():
    network, method = unet(), MultiTaskAttention(LABELS)
    before = list(network.state_dict())
    method.prepare(network)
    assert list(network.state_dict()) == before
    assert list(method.state_dict()) == [f"terms.reconstruction.head.{name}" for name in ("weight", "bias")]


def test_training_lowers_both_losses():
    network, method = unet(), MultiTaskAttention(LABELS)
    found = train(method, network, torch.optim.Adam(method.prepare(network), 0.03), 30)
    for name in ("supervised", "reconstruction"):
        assert found[-1][name] < 0.9 * found[0][name]


def test_resumed_equals_uninterrupted(tmp_path):
    def start():
        network, method = unet(), MultiTaskAttention(LABELS)
        return network, method, torch.optim.Adam(method.prepare(network), 0.01)

    training.require_resumed_equals_uninterrupted(start, tmp_path, batch_of=batch_of)


def test_settings():
    method = MultiTaskAttention(LABELS, 0.3, seed=4)
    term = method.terms["reconstruction"]
    assert (term.factor, term.seed, method.seed) == (0.3, 4, 4)
    assert type(method.loss) is Dice and type(MultiTaskAttention(LABELS, loss=CrossEntropy()).loss) is CrossEntropy
    assert method.joining is None and method.learns_from_unlabeled and not method.needs.pairs
    with pytest.raises(ValueError, match="factor of a term must not be negative, got -1"):
        MultiTaskAttention(LABELS, reconstruction_weight=-1)
    with pytest.raises(ValueError, match="must give its features, which MultiTaskAttention learns from, got a Linear"):
        method.prepare(torch.nn.Linear(2, 2))
