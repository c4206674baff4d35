"""The discriminator against NumPy: its network, eq. 1, its step; what it learns, and that it goes on where it was."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from methods.plain_terms import Pixels, plain_probabilities, random_batch
from torch import nn

from common.label_space import LabelSpace
from common.methods import Method, Step
from common.sources import Prediction, PseudoLabel
from common.terms import Match
from common.views import Strong
from common.weights import Discriminator
from common.weights.discriminator import MaskNetwork, pairs


@pytest.fixture
def batch(labels):
    return random_batch(labels, size=8)


@pytest.fixture
def network(labels):
    return Pixels(3, labels.num_outputs, 3.0)


def prepared(labels, network, **settings):
    gate = Discriminator(features=(4, 3), **settings)
    gate.prepare(network, labels)
    return gate


def judge(gate, labels, network, batch, iteration=1):
    """A step in which the gate has judged: the step, and the weight."""
    step = Step(labels, network, batch, iteration)
    return step, gate(step, Prediction()(step))


def plain_logit(network: MaskNetwork, image: np.ndarray) -> float:
    """The network of one pair ``c H W [D]``, pixel by pixel in float64."""
    x = image.astype(np.float64)
    for layer in network.layers:
        kernel, bias = (p.detach().double().numpy() for p in (layer.conv.weight, layer.conv.bias))
        size = [(side + 1) // 2 for side in x.shape[1:]]
        padded = np.pad(x, [(0, 0)] + [(1, 1)] * (x.ndim - 1))
        out = np.zeros((len(kernel), *size))
        for place in np.ndindex(*size):
            window = padded[(slice(None), *[slice(2 * p, 2 * p + 3) for p in place])]
            out[(slice(None), *place)] = (kernel * window).reshape(len(kernel), -1).sum(1) + bias
        x = np.where(out > 0, out, 0.2 * out)
    line = network.line
    features = x.reshape(len(x), -1).mean(1)
    return float(line.weight.detach().double().numpy()[0] @ features + line.bias.item())


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def plain_judgement(gate, labels, image, masks):
    """D of each image with each mask, ``B C`` in float64."""
    judged = np.zeros(masks.shape[:2])
    for b, c in np.ndindex(*judged.shape):
        pair = np.concatenate([image[b].numpy(), masks[b, c : c + 1]])
        judged[b, c] = sigmoid(plain_logit(gate.network, pair))
    return judged


def plain_masks(labels, label):
    label = label.numpy()
    return label if labels.multilabel else np.concatenate([label == 1, label == 2], 1).astype(float)


def foreground(labels, outputs):
    return plain_probabilities(labels, outputs)[:, -2:]


# ---- the network


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (6, 5, 9), (1, 1)])
def test_the_network_equals_loops(size):
    torch.manual_seed(1)
    network = MaskNetwork(len(size), 3, (4, 5))
    image = torch.rand(3, 3, *size)
    found = network(image)
    assert found.shape == (3,)
    for one, logit in zip(image, found.tolist(), strict=True):
        assert logit == pytest.approx(plain_logit(network, one.numpy()), rel=1e-4, abs=1e-5)


def test_pairs_are_each_image_with_each_of_its_masks():
    image, masks = torch.rand(2, 3, 4, 4), torch.rand(2, 5, 4, 4)
    found = pairs(image, masks)
    assert found.shape == (10, 4, 4, 4)
    for b, c in np.ndindex(2, 5):
        assert torch.equal(found[5 * b + c, :3], image[b]) and torch.equal(found[5 * b + c, 3], masks[b, c])


def test_spectral_norm_keeps_each_layer_s_largest_singular_value_at_1(labels, network, batch):
    gate = prepared(labels, network, spectral=True, learning_rate=0.05)
    for iteration in range(1, 31):
        step, _ = judge(gate, labels, network, batch, iteration)
        gate.after_step(step)
    for _ in range(10):  # each pass comes nearer to the singular vectors
        gate.network.train()(pairs(batch["unlabeled"]["image"], torch.zeros(3, 1, 8, 8)))
    modules = [m for m in gate.network.eval().modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(modules) == 3
    for module in modules:
        values = np.linalg.svd(module.weight.detach().flatten(1).double().numpy(), compute_uv=False)
        assert values[0] == pytest.approx(1, abs=0.02)
    without = prepared(labels, network).network.line.weight  # of one row: its length
    assert abs(without.norm().item() - 1) > 0.1


# ---- what it says


@pytest.mark.parametrize("hard", [False, True])
def test_scores_equal_loops(labels, network, batch, hard):
    gate = prepared(labels, network, hard=hard)
    image = batch["unlabeled"]["image"]
    outputs = network(image)
    masks = plain_masks(labels, labels.predict(outputs)) if hard else foreground(labels, outputs)
    judged = plain_judgement(gate, labels, image, masks)
    scores = judged if labels.multilabel else judged.min(1, keepdims=True)  # all masks of an image must be accepted
    gate.threshold = float(np.median(scores))
    step, weight = judge(gate, labels, network, batch)
    np.testing.assert_allclose(step.judged.scores.numpy(), scores, rtol=1e-4)
    accepted = step.judged.scores.numpy() > gate.threshold
    assert weight.shape == (3, scores.shape[1], 8, 8) and 0 < accepted.mean() < 1
    np.testing.assert_array_equal(weight.numpy(), np.broadcast_to(accepted[..., None, None], weight.shape))
    assert not weight.requires_grad and not step.judged.scores.requires_grad


def test_classes_are_judged_alike(multilabel):
    """Whichever class a mask is called, what is said of it is the same."""
    batch, network = random_batch(multilabel, 8), Pixels(3, 2, 3.0)
    gate = prepared(multilabel, network)
    step, _ = judge(gate, multilabel, network, batch)
    with torch.no_grad():
        for parameter in (network.final_conv.weight, network.final_conv.bias):
            parameter.copy_(parameter.flip(0))
    swapped, _ = judge(gate, multilabel, network, batch)
    torch.testing.assert_close(swapped.judged.scores, step.judged.scores.flip(1))
    assert (step.judged.scores[:, 0] != step.judged.scores[:, 1]).any()


@pytest.mark.parametrize("mode", ["multilabel", "multiclass"])
def test_a_single_class_in_3d(mode):
    labels, network = LabelSpace(["tumor"], mode), nn.Conv3d(1, 1 if mode == "multilabel" else 2, 1)
    gate = prepared(labels, network)
    draw = torch.Generator().manual_seed(0)
    image, label = torch.rand(2, 1, 5, 6, 7, generator=draw), torch.zeros(2, 1, 5, 6, 7)
    batch = {"labeled": {"image": image, "label": label}, "unlabeled": {"image": image}}
    step, weight = judge(gate, labels, network, batch)
    assert step.judged.scores.shape == (2, 1) and weight.shape == (2, 1, 5, 6, 7)
    p = plain_probabilities(labels, network(image))[:, -1:]
    np.testing.assert_allclose(step.judged.scores.numpy(), plain_judgement(gate, labels, image, p), rtol=1e-4)


# ---- what it learns


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("labeled_fakes", [True, False])
def test_the_loss_is_equation_1(labels, network, batch, balanced, labeled_fakes):
    gate = prepared(labels, network, balanced=balanced, labeled_fakes=labeled_fakes)
    step, _ = judge(gate, labels, network, batch)
    parts = batch["labeled"], batch["unlabeled"]
    real = plain_judgement(gate, labels, parts[0]["image"], plain_masks(labels, parts[0]["label"])).ravel()
    fake = [
        plain_judgement(gate, labels, part["image"], foreground(labels, network(part["image"]))).ravel()
        for part in (parts if labeled_fakes else parts[1:])
    ]
    fake = np.concatenate(fake)
    assert (len(real), len(fake)) == (4, 10 if labeled_fakes else 6)
    losses = [-math.log(d) for d in real], [-math.log(1 - d) for d in fake]
    expected = sum(map(np.mean, losses)) / 2 if balanced else np.mean([*losses[0], *losses[1]])
    assert step.numbers["discriminator_loss"].item() == pytest.approx(expected, rel=1e-4)
    assert gate.loss.item() == pytest.approx(expected, rel=1e-4)
    assert step.numbers["discriminator_real"].item() == pytest.approx(real.mean(), rel=1e-4)
    assert step.numbers["discriminator_fake"].item() == pytest.approx(fake.mean(), rel=1e-4)
    assert not any(number.requires_grad for number in step.numbers.values())


def test_by_hand(labels, network, batch):
    """With a line of 0 and a bias b, D is sigmoid(b) of everything."""
    gate = prepared(labels, network)
    nn.init.zeros_(gate.network.line.weight)
    for bias, expected in ((0.0, math.log(2)), (math.log(3), (-math.log(3 / 4) - math.log(1 / 4)) / 2)):
        nn.init.constant_(gate.network.line.bias, bias)
        gate.loss = None
        step, weight = judge(gate, labels, network, batch)
        assert step.numbers["discriminator_loss"].item() == pytest.approx(expected, rel=1e-5)
        assert step.judged.scores.unique().tolist() == pytest.approx([sigmoid(bias)])
        assert (weight == float(sigmoid(bias) > 0.5)).all()


def test_its_step_is_adam_s_and_leaves_the_network_alone(labels, network, batch):
    """The first step of Adam moves each weight by the learning rate, against its gradient."""
    gate = prepared(labels, network, learning_rate=0.01)
    before = copy.deepcopy(gate.network)
    kept = copy.deepcopy(network.state_dict())
    step, _ = judge(gate, labels, network, batch)
    assert all(torch.equal(*both) for both in zip(before.parameters(), gate.network.parameters(), strict=True))
    with torch.no_grad():  # as a method calls it
        gate.after_step(step)
    masks = torch.from_numpy(foreground(labels, network(batch["unlabeled"]["image"])))
    real = before(pairs(batch["labeled"]["image"], torch.from_numpy(plain_masks(labels, batch["labeled"]["label"]))))
    fake = before(pairs(batch["unlabeled"]["image"], masks))
    (-(real.sigmoid().log().mean() + (1 - fake.sigmoid()).log().mean()) / 2).backward()
    for old, new in zip(before.parameters(), gate.network.parameters(), strict=True):
        moved = old - 0.01 * old.grad / (old.grad.abs() + 1e-8)
        large = old.grad.abs() > 1e-5  # of smaller ones, rounding decides the sign
        torch.testing.assert_close(new[large], moved[large], rtol=0, atol=1e-4)
    assert network.final_conv.weight.grad is None and gate.loss is None
    assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())
    gate.after_step(step)  # without another judgement, nothing happens
    assert all(state["step"] == 1 for state in gate.optimizer.state.values())


def test_labels_that_are_ignored_or_soft_are_masks_within_0_and_1(multilabel):
    batch, network = random_batch(multilabel, 8), Pixels(3, 2)
    gate, other = prepared(multilabel, network), prepared(multilabel, network)
    expected, _ = judge(gate, multilabel, network, batch)
    batch["labeled"]["label"][batch["labeled"]["label"] == 0] = -1
    found, _ = judge(other, multilabel, network, batch)
    assert torch.equal(found.numbers["discriminator_loss"], expected.numbers["discriminator_loss"])


def discs(number, size, draw):
    """Images of a bright disc in noise, and the disc as a label."""
    centre, radius = draw.uniform(4, size - 4, (number, 2, 1, 1)), draw.uniform(2, 4, (number, 1, 1))
    place = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"))
    masks = (np.square(place - centre).sum(1) < radius**2)[:, None]
    image = masks + 0.2 * draw.normal(size=masks.shape)
    return torch.from_numpy(image).float(), torch.from_numpy(masks).float()


def test_it_learns_which_masks_fit():
    """Half of the predictions are right, half of another image: without being told, it prefers the right ones."""
    labels, draw = LabelSpace(["disc"]), np.random.default_rng(0)
    gate = Discriminator(features=(16, 16), learning_rate=3e-3)
    gate.prepare(nn.Conv2d(1, 1, 1), labels)
    right = torch.arange(8) < 4
    found = []
    for iteration in range(1, 121):
        (image, label), (other, truth) = discs(8, 16, draw), discs(8, 16, draw)
        mask = torch.where(right.view(-1, 1, 1, 1), truth, truth.roll(1, 0))
        batch = {"labeled": {"image": image, "label": label}, "unlabeled": {"image": other}}
        step = Step(labels, None, batch, iteration)
        gate(step, PseudoLabel(mask, known={"outputs": 30 * (mask - 0.5)}))
        found.append(step)
        gate.after_step(step)
    scores = [torch.cat([step.judged.scores[part] for step in found[-30:]]) for part in (right, ~right)]
    first, last = (steps[0].numbers["discriminator_loss"] for steps in (found, found[-1:]))
    assert first > 0.6 and last < 0.55
    better = (scores[0] > scores[1].T).float().mean().item()  # the area under its ROC curve
    assert better > 0.9


# ---- a part like others


def test_its_first_weights_are_the_seed_s_and_no_other_draw_is_touched(labels, network):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, same, other = (prepared(labels, network, seed=seed, spectral=True) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    states = [gate.network.state_dict() for gate in (one, same, other)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not torch.equal(states[0]["line.bias"], states[2]["line.bias"])
    kept = one.network
    one.prepare(network, labels)  # a second time, by who makes sure of it
    assert one.network is kept


@pytest.mark.parametrize("spectral", [False, True])
def test_it_goes_on_from_its_state_bit_by_bit(labels, network, batch, spectral, tmp_path):
    def some(gate, iterations):
        for iteration in iterations:
            step, _ = judge(gate, labels, network, batch, iteration)
            gate.after_step(step)
        return step.judged.scores

    whole, first, second = (prepared(labels, network, spectral=spectral, learning_rate=0.01) for _ in range(3))
    expected = some(whole, range(1, 7))
    some(first, range(1, 4))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(some(second, range(4, 7)), expected)
    for name, value in whole.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, second.state_dict()[name])


def test_without_gradients_it_judges_and_learns_nothing(labels, network, batch):
    gate = prepared(labels, network, spectral=True)
    expected, _ = judge(gate, labels, network, batch)
    gate.loss, state = None, copy.deepcopy(gate.network.state_dict())
    with torch.no_grad():
        step, _ = judge(gate, labels, network, {"unlabeled": batch["unlabeled"]})
    assert gate.loss is None and step.numbers == {}
    assert all(torch.equal(value, state[name]) for name, value in gate.network.state_dict().items())
    torch.testing.assert_close(step.judged.scores, expected.judged.scores, rtol=0.05, atol=0.02)


def test_without_a_training_every_image_counts(labels, network, batch):
    step, weight = judge(Discriminator(), labels, network, batch)
    assert (weight == 1).all() and step.judged.accepted.shape == (3, 2 if labels.multilabel else 1)


def test_half_precision_changes_nothing(labels, network, batch):
    one, other = (prepared(labels, network) for _ in range(2))
    expected, _ = judge(one, labels, network, batch)
    step = Step(labels, network, batch)
    pseudo = Prediction()(step)
    with torch.autocast("cpu", torch.bfloat16):
        other(step, pseudo)
    assert torch.equal(step.judged.scores, expected.judged.scores)
    assert torch.equal(step.numbers["discriminator_loss"], expected.numbers["discriminator_loss"])


def test_in_a_method_it_has_no_part_in_the_main_optimizer(labels, make_trainer):
    gate = Discriminator(threshold=0.3, features=(4,), learning_rate=0.01)
    method = Method(labels, {"taught": Match(Prediction(), gate, Strong(cutout=0))})
    trainer = make_trainer(method)
    before = copy.deepcopy(gate.network.state_dict())
    trainer.run()
    mine = {id(parameter) for parameter in gate.network.parameters()}
    assert not mine & {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert all(not torch.equal(value, before[name]) for name, value in gate.network.state_dict().items())
    assert all(state["step"] == 6 for state in gate.optimizer.state.values())
    assert trainer.state.output["numbers"]["discriminator_loss"] > 0
    assert trainer.state.output["judged"].scores.shape[0] == 2


def test_a_discriminator_that_diverges_ends_the_training(labels, make_trainer):
    gate = Discriminator(features=(4,), learning_rate=1e25)
    trainer = make_trainer(Method(labels, {"taught": Match(Prediction(), gate)}))
    with pytest.raises(FloatingPointError, match=r"the loss must be finite, got .*'discriminator_loss': (nan|inf)"):
        trainer.run()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 1.0}, r"threshold must be in \(0, 1\), got 1.0"),
        ({"features": ()}, r"features must be the channels of one layer or more, got \(\)"),
        ({"features": (8, 0)}, "features must be the channels"),
        ({"features": 8}, "features must be the channels of one layer or more, got 8"),
        ({"learning_rate": 0}, "learning_rate of the discriminator must be above 0, got 0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Discriminator(**settings)


def test_a_network_without_convolutions_is_refused(labels):
    with pytest.raises(ValueError, match=r"the network must have convolutions.*got a Linear"):
        Discriminator().prepare(nn.Linear(1, 1), labels)
