"""References whose features are an average network's, and how it follows, is kept and shared."""

from __future__ import annotations

import copy

import pytest
import torch
from plain_terms import losses, random_batch
from training import require_resumed_equals_uninterrupted, train

from common.methods import RPG, BalancedRPG, Method, RPGPlus, Step
from common.settings import described
from common.sources import References, Teacher
from common.terms import Match
from common.views import Strong
from common.weights import RankSimilarity

OPTIONS = {"neighbors": 0.3, "reference_size": 4, "query_size": 4}


@pytest.fixture
def batch(labels):
    return random_batch(labels, size=8, channels=1)


@pytest.fixture
def network(labels, tiny_network):
    torch.manual_seed(0)
    return tiny_network(labels.num_outputs)


def moved(network):
    """The network after something like a step: other weights, other running statistics."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter))
    network.train()(torch.rand(2, 1, 8, 8) + 1)


@pytest.mark.parametrize("given", [0.9, Teacher(0.9)])
def test_features_and_predictions_are_the_teacher_s(labels, network, batch, given):
    """As of a step whose network is the teacher, in evaluation: without dropout, by its running statistics."""
    source = References(**OPTIONS, per_class=True, label="votes", teacher=copy.deepcopy(given))
    source.teacher.prepare(network, labels)
    teacher = copy.deepcopy(network).eval()
    moved(network)
    found = source(Step(labels, network.train(), batch))
    plain = References(**OPTIONS, per_class=True, label="votes")
    expected = plain(Step(labels, teacher, batch))
    assert torch.equal(found.label, expected.label)
    torch.testing.assert_close(found.known, expected.known)
    assert found.network is source.teacher.network and expected.network is None and network.training
    other = plain(Step(labels, network.eval(), batch))
    assert (other.known["predicted"] - expected.known["predicted"]).abs().max() > 0.1
    assert not torch.allclose(other.known["distances"], expected.known["distances"], atol=1e-3)


@pytest.mark.parametrize("kind", [RPG, RPGPlus, BalancedRPG])
def test_the_network_learns_and_the_teacher_follows(labels, network, batch, kind):
    method = kind(labels, teacher=0.5, view=Strong(names=["identity"], cutout=0), **OPTIONS)
    assert len(method.prepare(network)) == len(list(network.parameters()))  # it is not trained
    teacher = method.terms["unsupervised"].source.teacher
    first = copy.deepcopy(network.state_dict())
    batch["unlabeled"]["image"] = batch["unlabeled"]["image"].sigmoid()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    train(method, network, optimizer, 1, batch_of=lambda: batch)
    assert not torch.equal(network.final_conv.weight, first["final_conv.weight"])
    for name, value in teacher.network.named_parameters():
        torch.testing.assert_close(value, (first[name] + network.get_parameter(name)) / 2)  # alpha_1 is 1/2


def test_the_gradient_is_the_network_s(labels, network, batch):
    method = RPG(labels, teacher=0.99, **OPTIONS)
    method.prepare(network)
    terms, step = losses(method, network, batch)
    (gradient,) = torch.autograd.grad(terms["unsupervised"], network.final_conv.weight)
    assert gradient.abs().sum() > 0
    assert not any(value.requires_grad for value in step.notes["unsupervised"].pseudo.known.values())


def test_a_resumed_run_goes_on_with_its_teacher(labels, tiny_network, batch, tmp_path):
    def start():
        torch.manual_seed(0)
        network, method = tiny_network(labels.num_outputs, dropout=0.0), RPG(labels, teacher=0.9, **OPTIONS)
        return network, method, torch.optim.Adam(method.prepare(network), lr=0.01)

    require_resumed_equals_uninterrupted(start, tmp_path, batch_of=lambda: batch)
    assert any(key.startswith("terms.unsupervised.source.teacher.network") for key in start()[1].state_dict())


def test_terms_may_share_a_teacher_which_then_looks_once(labels, network, batch):
    teacher = Teacher(0.9, soft=True)
    terms = {"one": Match(References(**OPTIONS, teacher=teacher)), "two": Match(teacher)}
    method, seen = Method(labels, terms), []
    method.prepare(network)
    teacher.network.register_forward_hook(lambda *_: seen.append(1))
    losses(method, network, batch)
    assert len(seen) == 2  # at the labelled images and at the others
    method.after_step(Step(labels, network, batch, 1))
    assert teacher.updates == 1


def test_rank_weighting_remembers_the_teacher_s_features(labels, network, batch):
    method = RPG(labels, teacher=0.9, added_weight=RankSimilarity(k=2, threshold=0.1), **OPTIONS)
    method.prepare(network)
    losses(method, network, batch)
    weight = method.terms["unsupervised"].weight.weights[1]
    assert weight.whose == id(method.terms["unsupervised"].source.teacher.network)


def test_without_a_training_the_network_itself_is_asked(labels, network, batch):
    step = Step(labels, network.eval(), batch)
    found, expected = References(**OPTIONS, teacher=0.9)(step), References(**OPTIONS)(step)
    assert torch.equal(found.label, expected.label) and found.network is None


def test_settings_tell_it(labels):
    assert RPG(labels, teacher=0.9).keywords()["teacher"] == 0.9
    assert described(References())["teacher"] is None and described(References(teacher=0.9))["teacher"]["decay"] == 0.9
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\), got 1"):
        RPG(labels, teacher=1)
