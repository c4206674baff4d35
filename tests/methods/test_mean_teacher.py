"""Mean Teacher against its equation computed with NumPy, and what its parts are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from plain_terms import losses, plain_probabilities, random_batch
from torch import nn

from common.losses import SquaredError
from common.methods import MeanTeacher, Step
from common.views import Flip, Weak


def network_of(labels):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Conv2d(3, labels.num_outputs, 1))


def test_the_loss_is_the_paper_s(labels):
    network, batch = network_of(labels), random_batch(labels, channels=1)
    method = MeanTeacher(labels, view=Weak(), consistency_weight=0.7, ramp_up=10)
    method.prepare(network)
    teacher = plain_probabilities(labels, network.eval()(batch["unlabeled"]["image"]))
    with torch.no_grad():
        network[2].weight.add_(0.5)
    network.train()
    terms, _ = losses(method, network, batch, 4)
    student = plain_probabilities(labels, network(batch["unlabeled"]["image"]))
    expected = 0.7 * math.exp(-5 * 0.6**2) * ((student - teacher) ** 2).mean()
    assert list(terms) == ["supervised", "consistency"]
    assert terms["consistency"].item() == pytest.approx(expected, rel=1e-4) and expected > 1e-4


def test_the_teacher_s_prediction_moves_with_the_image(labels):
    """A network that looks at single pixels is level with its teacher on any view."""
    torch.manual_seed(0)
    network, batch = nn.Conv2d(1, labels.num_outputs, 1), random_batch(labels, channels=1)
    method = MeanTeacher(labels, view=Flip(axes=[0, 1], prob=1), ramp_up=0)
    method.prepare(network)
    assert losses(method, network, batch, 1)[0]["consistency"].item() == pytest.approx(0, abs=1e-10)


def test_the_teacher_follows_after_the_step(labels):
    network = network_of(labels)
    method = MeanTeacher(labels, decay=0)
    method.prepare(network)
    with torch.no_grad():
        network[2].weight.add_(1)
    method.after_step(Step(labels, network, {}, 1))
    (teacher,) = [part for part in method.parts() if type(part).__name__ == "Teacher"]
    assert torch.equal(teacher.network[2].weight, network[2].weight)
    assert method.own_parameters() == [] and "terms.consistency.source.network.2.weight" in method.state_dict()


@pytest.mark.parametrize("channels", [0, 1])
@pytest.mark.parametrize("soft", [False, True])
def test_squared_error_equals_numpy(labels, soft, channels):
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(2, labels.num_outputs, 5, 4)))
    target = rng.random(logits.shape)
    target = target if labels.multilabel else target / target.sum(1, keepdims=True)
    label = torch.from_numpy(target)
    if not soft:
        label = labels.predict(torch.from_numpy(rng.normal(size=logits.shape)))
        target = labels.one_hot(label).numpy()
    weight = torch.from_numpy(rng.random((2, channels, 5, 4))) if channels else None
    error = (plain_probabilities(labels, logits) - target) ** 2 * (1 if weight is None else weight.numpy())
    assert SquaredError()(labels, logits, label, weight).item() == pytest.approx(error.mean(), rel=1e-5)


def test_squared_error_ignores_what_is_below_0_and_refuses_other_shapes(multiclass):
    logits, label = torch.randn(1, 3, 2, 2), torch.tensor([[[[0.0, -1], [2, -1]]]])
    known = plain_probabilities(multiclass, logits)[:, :, :, 0]
    target = np.array([[[1, 0], [0, 0], [0, 1]]])
    assert SquaredError()(multiclass, logits, label).item() == pytest.approx(
        ((known - target) ** 2).sum() / 12, rel=1e-5
    )
    with pytest.raises(ValueError, match="need a multiclass label of"):
        SquaredError()(multiclass, logits, torch.zeros(1, 1, 3, 3))
