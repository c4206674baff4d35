"""Monte-Carlo dropout's labels and spreads against NumPy; dropout alone, and repeatable."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer
from torch import nn

from common.label_space import LabelSpace
from common.methods import Step
from common.networks import BasicUNet
from common.sources import MonteCarloDropout
from common.sources.monte_carlo import dropout_alone, repeatable

LABELS = LabelSpace(["lesion"])
SIZE = (16, 16, 16)


def unet(dropout=0.2, outputs=1):
    torch.manual_seed(0)
    return BasicUNet(3, 1, outputs, (4, 4, 4, 4, 8, 4), norm="batch", dropout=dropout)


def found(labels, network, image, passes, seed=0, inferer=None):
    step = Step(labels, network, {"unlabeled": {"image": image}}, inferer=inferer)
    pseudo = MonteCarloDropout(passes, seed)(step)
    assert list(pseudo.known) == ["spread"] and pseudo.grid is None
    return pseudo.label, pseudo.known["spread"]


class GivenPasses(nn.Module):
    """A network with dropout whose outputs, pass after pass, are given."""

    def __init__(self, outputs: np.ndarray) -> None:
        super().__init__()
        self.dropout, self.outputs, self.calls = nn.Dropout(0.5), torch.tensor(outputs), 0

    def forward(self, image):
        self.calls += 1
        return self.outputs[self.calls - 1]


def test_label_and_spread_equal_numpy(labels):
    outputs = np.random.default_rng(0).normal(scale=3, size=(7, 2, labels.num_outputs, 4, 5))
    network = GivenPasses(outputs)
    label, spread = found(labels, network, torch.zeros(2, 1, 4, 5), 7)
    sums = 1 + np.exp(outputs) if labels.multilabel else np.exp(outputs).sum(2, keepdims=True)
    p = np.exp(outputs) / sums
    assert network.calls == 7
    assert label.shape == spread.shape == (2, labels.num_outputs, 4, 5)
    np.testing.assert_allclose(label.numpy(), p.mean(0), atol=1e-6)
    np.testing.assert_allclose(spread.numpy(), p.std(0), atol=1e-6)
    assert not labels.multilabel or spread.max() <= 0.5


def test_by_hand():
    # probabilities 1/2 twice, 1/4 and 3/4, and (nearly) 0 and 1: spreads of 0, 1/4 and 1/2
    outputs = np.array([[0, -np.log(3), -50], [0, np.log(3), 50]], np.float32).reshape(2, 1, 1, 3, 1, 1)
    label, spread = found(LABELS, GivenPasses(outputs), torch.zeros(1, 1, 3, 1, 1), 2)
    assert label.flatten().tolist() == pytest.approx([0.5, 0.5, 0.5])
    assert spread.flatten().tolist() == pytest.approx([0, 0.25, 0.5])


def test_small_spreads_of_nearly_equal_passes_are_not_lost():
    outputs = 3 + 1e-3 * np.random.default_rng(0).normal(size=(50, 1, 1, 4, 4)).astype(np.float32)
    _, spread = found(LABELS, GivenPasses(outputs), torch.zeros(1, 1, 4, 4), 50)
    p = 1 / (1 + np.exp(-outputs.astype(np.float64)))
    np.testing.assert_allclose(spread.numpy(), p.std(0), rtol=1e-2)


def test_equals_passes_by_hand_through_windows():
    network, image = unet(), torch.randn(1, 1, 24, 20, 16)
    network.train()(torch.randn(4, 1, *SIZE))  # running statistics that differ from the first ones
    before = copy.deepcopy(network.state_dict())
    inferer = SlidingWindowInferer(SIZE, sw_batch_size=2, overlap=0.25, mode="gaussian")
    label, spread = found(LABELS, network.eval(), image, 3, inferer=inferer)
    assert not any(module.training for module in network.modules())
    for name, value in network.state_dict().items():  # batch norm's statistics are those of the training
        torch.testing.assert_close(value, before[name])
    for module in network.modules():
        module.training = type(module).__name__.startswith("Dropout")
    with torch.no_grad(), repeatable(image, 0):
        p = np.stack([torch.sigmoid(inferer(image, network)).numpy() for _ in range(3)])
    np.testing.assert_allclose(label.numpy(), p.mean(0), atol=1e-6)
    np.testing.assert_allclose(spread.numpy(), p.std(0), atol=1e-5)
    assert p.std(0).max() > 0.01  # the passes do differ


def test_draws_are_the_image_s_and_the_seed_s():
    network = unet().eval()
    one, other = torch.randn(2, 1, 1, *SIZE, generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    first = found(LABELS, network, one, 3)
    torch.testing.assert_close(torch.get_rng_state(), state)  # the training's draws are left alone
    torch.rand(5)
    for expected, again in zip(first, found(LABELS, network, one.clone(), 3), strict=True):
        assert torch.equal(expected, again)
    assert not torch.equal(first[1], found(LABELS, network, one, 3, seed=1)[1])
    with repeatable(one, 0):
        draw = torch.rand(3)
    with repeatable(other, 0):
        assert not torch.equal(draw, torch.rand(3))


def test_dropout_alone_is_in_training_mode():
    network = unet().train()
    with dropout_alone(network):
        modes = {(type(module).__name__, module.training) for module in network.modules()}
    assert ("Dropout", True) in modes and ("BatchNorm3d", False) in modes
    assert [mode for mode in modes if mode[1]] == [("Dropout", True)]
    with pytest.raises(RuntimeError, match="broken"), dropout_alone(network):
        raise RuntimeError("broken")
    assert not any(module.training for module in network.modules())


@pytest.mark.parametrize("training", [True, False])
def test_within_a_training_step_the_network_stays_in_its_mode_and_gets_no_gradient(training, tiny_network):
    network = tiny_network(1, dropout=0.5).train(training)
    statistics = network.body[1].running_mean.clone()
    label, spread = found(LABELS, network, torch.rand(2, 1, 8, 8), 4)
    assert all(module.training is training for module in network.modules())
    assert torch.equal(network.body[1].running_mean, statistics)
    assert not label.requires_grad and not spread.requires_grad and spread.max() > 0


def test_refuses_a_network_without_dropout():
    for dropout in (0.0, None):
        with pytest.raises(ValueError, match="got none: set network_def#dropout"):
            MonteCarloDropout().prepare(unet(dropout), LABELS)
        with pytest.raises(ValueError, match="set network_def#dropout"):
            found(LABELS, unet(dropout), torch.zeros(1, 1, *SIZE), 2)
    MonteCarloDropout().prepare(unet(), LABELS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"passes": 1}, "passes must be at least 2.*got 1"), ({"seed": -1}, "seed must not be negative, got -1")],
)
def test_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        MonteCarloDropout(**settings)
