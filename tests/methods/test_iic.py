"""IIC: the supervised loss and minus the information, its draws and its settings."""

from __future__ import annotations

import math

import pytest
import torch
from plain_terms import Pixels, losses, random_batch

from common.label_space import LabelSpace
from common.losses import CrossEntropy, Dice
from common.methods import IIC, Step, Supervised
from common.terms import MutualInformation
from common.views import Affine, Chain, Elastic, Flip, IntensityJitter

LABELS = LabelSpace(["lesion"])


def test_terms_are_the_supervised_loss_and_minus_the_information_that_rises(labels):
    batch, network = random_batch(labels, size=8), Pixels(3, labels.num_outputs, 4.0)
    view = Flip([1], 1.0)
    method = IIC(labels, information_weight=0.7, displacement=2, view=view, ramp_up=10)
    terms, _ = losses(method, network, batch, 4)
    assert list(terms) == ["supervised", "information"]
    information = -MutualInformation(displacement=2, view=view)(Step(labels, network, batch, 4))
    assert information > 1e-4
    torch.testing.assert_close(terms["information"], -0.7 * math.exp(-5 * 0.6**2) * information)
    expected, _ = losses(Supervised(labels), network, batch)
    torch.testing.assert_close(terms["supervised"], expected["supervised"])
    assert not torch.equal(losses(IIC(labels, view=view), network, batch)[0]["information"], -information)


def test_draws_are_the_iteration_s_and_the_seed_s(labels):
    batch, network, method = random_batch(labels, size=8), Pixels(3, labels.num_outputs, 4.0), IIC(labels)
    state = torch.get_rng_state()

    def value(iteration, seed=0):
        return losses(method, network, batch, iteration, seed)[0]["information"].item()

    first = value(7)
    assert torch.equal(torch.get_rng_state(), state)
    assert value(7) == first and value(8) != first and value(7, seed=1) != first


def test_a_joint_pass_is_the_same_without_batch_norm(labels):
    batch, network = random_batch(labels, size=8), Pixels(3, labels.num_outputs, 4.0)
    found = [losses(IIC(labels, joint=joint), network, batch)[0] for joint in (False, True)]
    torch.testing.assert_close(*found)


def test_training_keeps_the_information(labels):
    """Of a network that tells dark from bright pixels, whose labels say nothing about them."""
    batch, found = random_batch(labels, size=12, channels=1), []
    for part in batch.values():
        part["image"] = (part["image"] > 0).float()
    for weight in (1e-6, 3.0):
        method, network = IIC(labels, weight, 0, Flip([0])), Pixels(1, labels.num_outputs, 6.0)
        optimizer = torch.optim.Adam(method.prepare(network), 0.1)
        for iteration in range(40):
            terms, _ = losses(method, network, batch, iteration)
            optimizer.zero_grad()
            sum(terms.values()).backward()
            optimizer.step()
        found.append(-terms["information"].item() / weight)
    assert found[1] > 0.1 and found[1] > 4 * found[0]


def test_settings():
    method = IIC(LABELS, 0.3, 2)
    (term,) = method.terms.values()
    assert (term.factor, term.displacement, method.ramp_up) == (0.3, 2, 0)
    assert type(term.view) is Chain and [type(view) for view in term.view.views] == [Affine, IntensityJitter]
    assert type(method.loss) is CrossEntropy and type(IIC(LABELS, loss=Dice()).loss) is Dice
    assert IIC(LABELS).terms["information"].factor == IIC(LABELS).terms["information"].displacement == 1
    assert method.state_dict() == {} and method.learns_from_unlabeled
    assert method.needs.unlabeled == 1 and method.needs.weak_gradients and not method.needs.features
    assert method.explain(torch.nn.Conv2d(1, 1, 1), random_batch(LABELS, channels=1)) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"information_weight": -1}, "factor of a term must not be negative, got -1"),
        ({"displacement": -1}, "displacement must be a whole number of pixels from 0 on, got -1"),
        ({"threshold": 0.9}, "IIC has the settings labels, information_weight, displacement, view, .*got threshold"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        IIC(LABELS, **settings)


def test_a_view_that_cannot_be_undone_is_refused(labels):
    with pytest.raises(ValueError, match="elastic deformation cannot be undone: take a view that"):
        losses(IIC(labels, view=Elastic()), Pixels(3, labels.num_outputs), random_batch(labels))
