"""MLDS: its sums, what rises and what does not, and heads in optimizer, checkpoint and training."""

from __future__ import annotations

import copy
import math
from functools import partial

import pytest
import torch
import training
from plain_terms import losses, plain_loss, random_batch

from common.label_space import LabelSpace
from common.losses import CrossEntropy, Dice
from common.methods import MLDS, Step, Supervised
from common.networks import BasicUNet
from common.sources import Teacher
from common.terms import DeepMatch, DeepSupervision, Match
from common.terms.deep_supervision import level_loss
from common.views import Flip, Strong


@pytest.fixture
def batch(labels):
    return random_batch(labels, size=8, channels=1)


@pytest.fixture
def network(labels, tiny_network):
    torch.manual_seed(0)
    return tiny_network(labels.num_outputs).eval()


def prepared(method, network):
    """The network as the teacher knows it, after which it has moved on."""
    method.prepare(network)
    before = copy.deepcopy(network)
    with torch.no_grad():
        network.final_conv.weight.add_(0.4 * torch.randn_like(network.final_conv.weight))
        method.deep.heads.heads[0].bias.add_(0.5)
    return before


def test_terms_are_those_of_labels_and_of_the_teacher_at_all_levels(labels, batch, network):
    method = MLDS(labels, view=Flip([0], 1.0), levels_weight=0.7, ramp_up=10)
    teacher = prepared(method, network)
    terms, _ = losses(method, network, batch, 4)
    assert list(terms) == ["supervised", "unsupervised", "levels"]

    def seen(image):
        found = network(image, seen=True, levels=True)
        return found.outputs, method.deep.heads(found.levels)

    labeled, image = batch["labeled"], batch["unlabeled"]["image"]
    outputs, levels = seen(labeled["image"])
    ones = torch.ones(2, 1, 8, 8)
    expected = plain_loss(labels, outputs, labels.one_hot(labeled["label"]), ones)
    expected += 0.7 * level_loss(labels, levels, labeled["label"]).item()
    assert terms["supervised"].item() == pytest.approx(expected, rel=1e-5)

    outputs, levels = seen(image.flip(2))
    label, rise = labels.predict(teacher(image)).float().flip(2), math.exp(-5 * 0.6**2)
    ones = torch.ones(3, 1, 8, 8)
    expected = rise * plain_loss(labels, outputs, labels.one_hot(label), ones)
    assert terms["unsupervised"].item() == pytest.approx(expected, rel=1e-5)
    expected = rise * 0.7 * level_loss(labels, levels, label)
    torch.testing.assert_close(terms["levels"], expected)


def test_labelled_levels_do_not_wait_for_the_rise_and_unlabelled_ones_do(labels, batch, network):
    method = MLDS(labels, ramp_up=1000)
    prepared(method, network)
    terms, _ = losses(method, network, batch)
    plain, _ = losses(Supervised(labels), network, batch)
    assert terms["supervised"] > plain["supervised"] + 0.3
    assert 0 < terms["unsupervised"] < 0.02 and 0 < terms["levels"] < 0.02


def test_a_joint_pass_is_the_same_without_batch_norm_s_statistics(labels, batch, network):
    found = []
    for joint in (False, True):
        method = MLDS(labels, view=Flip([0], 1.0), joint=joint)
        method.prepare(network)
        found.append(losses(method, network, batch)[0])
    torch.testing.assert_close(*found)


def test_supervised_levels_alone(labels, batch, network):
    """Without its unlabelled part, and in the share of the training that is supervised."""
    method = MLDS(labels, supervised_share=0.3)
    method.prepare(network)
    terms = method.losses(Step(labels, network, {"labeled": batch["labeled"]}, 1, progress=0.2, levels=True))
    assert terms["unsupervised"] == 0 and terms["levels"] == 0
    sum(terms.values()).backward()
    assert all(head.weight.grad.abs().sum() > 0 for head in method.deep.heads.heads)


# ---- on the U-Net


LABELS = LabelSpace(["lesion"])


def unet():
    torch.manual_seed(0)
    return BasicUNet(2, 1, 1, (4, 4, 4, 4, 8, 4))


def image_batch():
    rng = torch.Generator().manual_seed(1)
    image, other = (torch.randn(number, 1, 32, 32, generator=rng) for number in (4, 2))
    return {"labeled": {"image": image, "label": (image > 1).float()}, "unlabeled": {"image": other}}


train = partial(training.train, batch_of=image_batch)


def test_heads_are_once_in_the_optimizer_and_a_step_changes_them():
    network, method = unet(), MLDS(LABELS)
    parameters = method.prepare(network)
    heads = method.deep.heads.heads
    assert [id(p) for p in parameters] == [id(p) for p in (*network.parameters(), *heads.parameters())]
    before = copy.deepcopy(heads.state_dict())
    train(method, network, torch.optim.SGD(parameters, 0.1), 1)
    for name, parameter in heads.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] - 0.1 * parameter.grad)
        assert parameter.grad.abs().sum() > 0


def test_all_weights_of_the_network_learn():
    network, method = unet(), MLDS(LABELS)
    method.prepare(network)
    terms, _ = losses(method, network, image_batch())
    sum(terms.values()).backward()
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


def test_inference_needs_the_network_alone():
    network, method = unet(), MLDS(LABELS)
    before = list(network.state_dict())
    method.prepare(network)
    assert list(network.state_dict()) == before
    kinds = {name.split(".")[1 if name.startswith("deep") else 2] for name in method.state_dict()}
    assert kinds == {"heads", "source"}


def test_training_lowers_both_losses_on_labels():
    network, method = unet(), MLDS(LABELS, ramp_up=20)
    found = train(method, network, torch.optim.Adam(method.prepare(network), 0.03), 20)
    assert found[-1]["supervised"] < 0.8 * found[0]["supervised"]
    assert found[-1]["levels"] > 0 and found[-1]["unsupervised"] > 0


def test_resumed_equals_uninterrupted(tmp_path):
    def start():
        network, method = unet(), MLDS(LABELS, ramp_up=2)
        return network, method, torch.optim.Adam(method.prepare(network), 0.01)

    training.require_resumed_equals_uninterrupted(start, tmp_path, batch_of=image_batch)


def test_settings():
    method = MLDS(LABELS, 0.9, levels_weight=0.3, seed=4)
    match, levels = method.terms.values()
    assert type(match) is Match and type(levels) is DeepMatch and type(method.deep) is DeepSupervision
    assert type(match.source) is Teacher and match.source.decay == 0.9 and not match.source.soft
    assert type(match.view) is Strong and type(match.loss) is CrossEntropy and type(method.loss) is CrossEntropy
    assert levels.heads is method.deep.heads and levels.heads.seed == 4
    assert (levels.factor, method.deep.factor, match.factor, method.ramp_up) == (0.3, 0.3, 1, 200)
    dice = Dice()
    assert MLDS(LABELS, unsupervised_loss=dice).terms["unsupervised"].loss is dice
    needs = method.needs
    assert (needs.unlabeled, needs.features, needs.levels, needs.weak_gradients) == (1, True, True, False)
    assert MLDS(LABELS, seed=4).explain(unet(), image_batch()).pseudo.label.shape == (2, 1, 32, 32)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decay": 1}, r"decay must be in \[0, 1\), got 1"),
        ({"levels_weight": -1}, "factor of a term must not be negative, got -1"),
        ({"ramp_up": -1}, "ramp_up must not be negative"),
        ({"threshold": 0.9}, "MLDS has the settings labels, decay, view, levels_weight, ramp_up, .*got threshold"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        MLDS(LABELS, **settings)


def test_networks_without_levels_are_refused():
    with pytest.raises(ValueError, match="must give its features, which MLDS learns from, got a Linear: use common"):
        MLDS(LABELS).prepare(torch.nn.Linear(2, 2))

    class Features(torch.nn.Conv2d):
        def forward_features(self, x):
            return x

    with pytest.raises(ValueError, match=r"must give the levels of its decoder.*, got a Features: use common"):
        MLDS(LABELS).prepare(Features(1, 1, 1))
