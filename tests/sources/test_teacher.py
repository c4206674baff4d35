"""The teacher's weights against an average computed one number after the other, and what it says of images."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from methods.plain_terms import random_batch
from torch import nn

from common.methods import Step
from common.sources import Teacher


def network_of(labels):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, labels.num_outputs, 1)
    )


def moved(network, iteration):
    """The network after something like a step: other weights, other running statistics."""
    network.train()(torch.full((2, 1, 8, 8), float(iteration)) + torch.rand(2, 1, 8, 8))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter))


@pytest.mark.parametrize("decay", [0.0, 0.6, 0.99])
def test_the_average_is_that_of_plain_loops(multilabel, decay):
    network, teacher = network_of(multilabel), Teacher(decay)
    teacher.prepare(network, multilabel)
    mean = {name: value.double().numpy().copy() for name, value in network.state_dict().items()}
    for iteration in range(1, 6):
        moved(network, iteration)
        teacher.after_step(Step(multilabel, network, {}, iteration))
        rate = min(decay, 1 - 1 / (iteration + 1))  # 1/2, 2/3, 3/4 and so on before it is reached
        for name, value in network.state_dict().items():
            new = value.double().numpy()
            mean[name] = rate * mean[name] + (1 - rate) * new if value.is_floating_point() else new
    for name, value in teacher.network.state_dict().items():
        np.testing.assert_allclose(value.double().numpy(), mean[name], rtol=1e-4, atol=1e-5, err_msg=name)
    assert teacher.network[1].num_batches_tracked == 5 and np.abs(mean["1.running_mean"]).max() > 0.1


@pytest.mark.parametrize("soft", [False, True])
def test_it_says_what_its_own_weights_predict_in_evaluation(labels, soft):
    network, teacher, batch = network_of(labels), Teacher(soft=soft), random_batch(labels, channels=1)
    teacher.prepare(network, labels)
    before = copy.deepcopy(network).eval()
    moved(network, 1)
    pseudo = teacher(Step(labels, network.train(), batch))
    outputs = before(batch["unlabeled"]["image"]).detach()
    expected = labels.probabilities(outputs) if soft else labels.predict(outputs).float()
    torch.testing.assert_close(pseudo.label, expected)
    torch.testing.assert_close(pseudo.known["outputs"], outputs)
    assert not pseudo.label.requires_grad and network.training
    assert pseudo.network is teacher.network


def test_without_a_training_the_network_itself_speaks(multilabel):
    network, batch = network_of(multilabel).eval(), random_batch(multilabel, channels=1)
    pseudo = Teacher()(Step(multilabel, network, batch))
    torch.testing.assert_close(pseudo.known["outputs"], network(batch["unlabeled"]["image"]).detach())


def test_it_is_not_trained_and_is_kept(multilabel):
    network, teacher = network_of(multilabel), Teacher()
    teacher.prepare(network, multilabel)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    other = Teacher()
    other.prepare(network_of(multilabel), multilabel)
    moved(network, 1)
    teacher.after_step(Step(multilabel, network, {}, 1))
    other.load_state_dict(teacher.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(teacher.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("decay", [-0.1, 1, 1.5])
def test_bad_decays(decay):
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\), got"):
        Teacher(decay)
