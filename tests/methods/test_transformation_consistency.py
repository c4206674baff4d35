"""Segmentation and outputs that follow a deformation: both terms, their draws and what they are good for."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import training
from plain_terms import losses

from common.label_space import LabelSpace
from common.losses import CrossEntropy, Dice
from common.methods import Step, Supervised, TransformationConsistency
from common.networks import BasicUNet
from common.terms import Equivariance
from common.views import Affine, Elastic

LABELS = LabelSpace(["lesion"])
SIZE = (16, 16)


def unet():
    torch.manual_seed(0)
    return BasicUNet(2, 1, 1, (4, 4, 4, 4, 8, 4))


def batch_of():
    rng = torch.Generator().manual_seed(1)
    image, other = (torch.randn(number, 1, *SIZE, generator=rng) for number in (4, 2))
    return {"labeled": {"image": image, "label": (image > 1).float()}, "unlabeled": {"image": other}}


def test_terms_are_dice_and_the_consistency_that_rises(labels):
    torch.manual_seed(0)
    network, rng = torch.nn.Conv2d(1, labels.num_outputs, 3, padding=1), torch.Generator().manual_seed(1)
    image = torch.rand(2, 1, 16, 16, generator=rng)
    label = (image > 0.5).float()
    label = torch.cat([label, 1 - label], 1) if labels.multilabel else label
    batch = {"labeled": {"image": image, "label": label}, "unlabeled": {"image": image + 0.1}}
    view = Affine(rotate=30)
    method = TransformationConsistency(labels, consistency_weight=0.7, view=view, ramp_up=10)
    terms, _ = losses(method, network, batch, 4)
    assert list(terms) == ["supervised", "consistency"]
    expected = Equivariance(view=view)(Step(labels, network, batch, 4))
    assert expected > 1e-4
    torch.testing.assert_close(terms["consistency"], 0.7 * math.exp(-5 * 0.6**2) * expected)
    supervised, _ = losses(Supervised(labels, loss=Dice()), network, batch, 4)
    torch.testing.assert_close(terms["supervised"], supervised["supervised"])


def test_draws_are_the_iteration_s_and_the_seed_s():
    batch, network = batch_of(), unet()
    method = TransformationConsistency(LABELS, ramp_up=0)
    state = torch.get_rng_state()

    def value(iteration, seed=0):
        return losses(method, network.eval(), batch, iteration, seed)[0]["consistency"].item()

    first = value(7)
    torch.testing.assert_close(torch.get_rng_state(), state)
    assert value(7) == first and value(8) != first and value(7, seed=1) != first


train = partial(training.train, batch_of=batch_of)


def test_training_lowers_the_loss_and_the_term_makes_consistent():
    found = {}
    for weight in (1e-6, 50.0):
        method, network = TransformationConsistency(LABELS, consistency_weight=weight, ramp_up=0), unet()
        values = train(method, network, torch.optim.Adam(method.prepare(network), 0.02), 8)
        assert sum(values[-1].values()) < sum(values[0].values())
        found[weight] = values[-1]["consistency"] / weight
    assert found[50.0] < found[1e-6]


def test_settings():
    method = TransformationConsistency(LABELS)
    term = method.terms["consistency"]
    assert (term.factor, method.ramp_up) == (1, 1000)
    assert type(term.view) is Elastic and (term.view.displacement, term.view.spacing) == (4, 16)
    assert type(method.loss) is Dice
    assert type(TransformationConsistency(LABELS, loss=CrossEntropy()).loss) is CrossEntropy
    assert method.state_dict() == {} and method.joining is None and method.learns_from_unlabeled
    assert method.needs.unlabeled == 1 and not method.needs.features
    still = TransformationConsistency(LABELS, view=Elastic(displacement=0), ramp_up=0)
    assert losses(still, unet().eval(), batch_of())[0]["consistency"].item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"consistency_weight": -1}, "factor of a term must not be negative"),
        ({"ramp_up": -1}, "ramp_up must not be negative"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        TransformationConsistency(LABELS, **settings)
