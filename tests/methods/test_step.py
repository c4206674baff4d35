"""One pass for each image, with gradients where they are needed, and draws that are the iteration's alone."""

from __future__ import annotations

import copy

import pytest
import torch
from plain_terms import Pixels, losses, random_batch
from torch import nn

from common.methods import FixMatch, Method, PseudoLabel, RPGPlus, Step, UniMatch
from common.parts import Part
from common.sources import Prediction
from common.step import gives_features
from common.terms import Match, Term
from common.views import Chain, Flip, IntensityJitter, Values, View, Viewed, Weak


class Counted(nn.Module):
    """A network, and for each of its passes the images and whether gradients were kept."""

    def __init__(self, network):
        super().__init__()
        self.network, self.passes = network, []
        self.forward_features = network.forward_features

    def forward(self, image, seen=False, perturb=None):
        self.passes.append((image, torch.is_grad_enabled(), perturb is not None))
        return self.network(image, seen, perturb)


@pytest.fixture
def batch(labels):
    return random_batch(labels)


@pytest.fixture
def network(labels):
    return Counted(Pixels(3, labels.num_outputs))


def test_of_the_same_images_the_network_is_asked_once(labels, batch, network):
    step = Step(labels, network, batch)
    image = batch["unlabeled"]["image"]
    first = step.see(image)
    assert step.see(image) is first and len(network.passes) == 1
    step.see(image.clone())  # others, though equal
    step.see(batch["labeled"]["image"])
    assert len(network.passes) == 3
    assert torch.equal(first.outputs, network(image)) and torch.equal(first.features, image)


def test_a_teacher_looks_in_evaluation_and_is_asked_once_too(labels, batch, network):
    step, teacher = Step(labels, network, batch), Counted(Pixels(3, labels.num_outputs, 2.0))
    image = batch["unlabeled"]["image"]
    seen = step.see(image, network=teacher.train())
    assert step.see(image, network=teacher) is seen and not teacher.training
    assert len(teacher.passes) == 1 and not network.passes
    assert torch.equal(seen.outputs, teacher.network(image)) and torch.equal(seen.features, image)
    assert not seen.outputs.requires_grad and torch.is_grad_enabled()
    assert step.see(image) is not seen and len(network.passes) == 1
    plain = nn.Conv2d(3, labels.num_outputs, 1)  # gives no features
    seen = step.see(image, network=plain)
    assert torch.equal(seen.outputs, plain(image)) and seen.features is None


@torch.no_grad()
def test_images_that_are_gone_are_not_taken_for_others(labels, batch):
    """Freed memory, and with it the identity of an image, is used again."""
    network = nn.Conv2d(3, labels.num_outputs, 1)
    step = Step(labels, network, batch)
    for value in range(50):
        image = torch.full((1, 3, 2, 2), float(value))
        torch.testing.assert_close(step.see(image).outputs, network(image))
        del image


@pytest.mark.parametrize("weak_gradients", [True, False])
def test_a_source_without_gradients_leaves_those_that_are_needed(labels, batch, network, weak_gradients):
    step = Step(labels, network, batch, weak_gradients=weak_gradients)
    pseudo = Prediction()(step)  # the first to ask, under no_grad
    seen = step.see(batch["unlabeled"]["image"])
    assert len(network.passes) == 1
    assert not pseudo.known["outputs"].requires_grad
    assert seen.outputs.requires_grad == weak_gradients
    with torch.no_grad():
        assert step.see(batch["labeled"]["image"]).outputs.requires_grad
        assert step.see(batch["labeled"]["image"] + 1).outputs.requires_grad


def test_within_no_grad_a_step_keeps_no_gradients(labels, batch, network):
    with torch.no_grad():
        step = Step(labels, network, batch)
    assert not step.see(batch["labeled"]["image"]).outputs.requires_grad


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (PseudoLabel, [("labeled", True), ("unlabeled", True)]),
        (FixMatch, [("labeled", True), ("unlabeled", False), ("strong", True)]),
        (RPGPlus, [("labeled", True), ("unlabeled", True), ("strong", True)]),
        (UniMatch, [("labeled", True), ("unlabeled", False), ("strong", True), ("perturbed", True)]),
    ],
)
@pytest.mark.parametrize("joint", [False, True])
def test_passes_of_methods(labels, batch, network, method, expected, joint):
    terms, _ = losses(method(labels, joint=joint), network, batch)
    names = {id(batch[part]["image"]): part for part in ("labeled", "unlabeled")}
    found = [
        ("perturbed" if perturbed else names.get(id(image), "strong"), gradients)
        for image, gradients, perturbed in network.passes
    ]
    if joint:
        expected = [("strong", True), *expected[2:]]
        assert len(network.passes[0][0]) == 5
    assert found == expected
    assert all(term.requires_grad for term in terms.values())


@pytest.mark.parametrize("method", [Method, PseudoLabel, FixMatch, RPGPlus])
def test_one_joint_pass_equals_separate_ones_without_batch_norm(labels, batch, network, method):
    separate, _ = losses(method(labels), network, batch, 3)
    joint, step = losses(method(labels, joint=True), network, batch, 3)
    torch.testing.assert_close(joint, separate)
    image = batch["unlabeled"]["image"]
    torch.testing.assert_close(step.see(image).outputs, network(image))
    assert len(step.see(image).features) == 3 and len(step.see(batch["labeled"]["image"]).bottleneck) == 2


def test_with_batch_norm_a_joint_pass_shares_statistics(labels, tiny_network):
    batch, network = random_batch(labels, channels=1), tiny_network(labels.num_outputs, dropout=0).train()
    batch["unlabeled"]["image"] = 20 + 7 * batch["unlabeled"]["image"]
    seen = {}
    for joint in (False, True):
        step = Step(labels, copy.deepcopy(network), batch, joint=joint)
        seen[joint] = step.see(batch["labeled"]["image"]).outputs
    whole = torch.cat([batch["labeled"]["image"], batch["unlabeled"]["image"]])
    torch.testing.assert_close(seen[True], network(whole)[:2])
    torch.testing.assert_close(seen[False], network(batch["labeled"]["image"]))
    assert (seen[True] - seen[False]).abs().max() > 0.3


def test_a_joint_step_without_unlabelled_images_asks_for_the_labelled_ones_alone(labels, batch, network):
    step = Step(labels, network, {"labeled": batch["labeled"]}, joint=True)
    step.see(batch["labeled"]["image"])
    assert len(network.passes[0][0]) == 2
    Step(labels, network, batch, joint=True).see(batch["labeled"]["image"] + 1)  # images of no part of the batch
    assert len(network.passes[1][0]) == 2


@pytest.mark.parametrize("joint", [False, True])
def test_levels_are_asked_of_the_network_where_they_are_needed(labels, tiny_network, joint):
    batch, network = random_batch(labels, size=8, channels=1), tiny_network(labels.num_outputs).eval()
    for part in batch.values():
        seen = Step(labels, network, batch, joint=joint, levels=True).see(part["image"])
        expected = network(part["image"], seen=True, levels=True).levels
        assert [level.shape[2:] for level in seen.levels] == [(2, 2), (4, 4)]
        torch.testing.assert_close(seen.levels, expected)
        assert Step(labels, network, batch, joint=joint).see(part["image"]).levels is None


def test_networks_without_features_give_outputs_alone(labels, batch):
    network = nn.Conv2d(3, labels.num_outputs, 1)
    assert not gives_features(network) and gives_features(Pixels(3, 2))
    for joint in (False, True):
        seen = Step(labels, network, batch, joint=joint).see(batch["unlabeled"]["image"])
        torch.testing.assert_close(seen.outputs, network(batch["unlabeled"]["image"]))
        assert seen.features is None and seen.bottleneck is None


def test_an_inferer_looks_at_whole_images_with_the_network(labels, batch, network):
    asked = []

    def inferer(image, network):
        asked.append(image)
        return network(image) + 1

    step = Step(labels, network, batch, inferer=inferer)
    seen = step.see(batch["unlabeled"]["image"])
    torch.testing.assert_close(seen.outputs, network(batch["unlabeled"]["image"]) + 1)
    assert asked == [batch["unlabeled"]["image"]] and seen.features is None
    step.outputs_of(batch["unlabeled"]["image"])
    step.outputs_of(batch["unlabeled"]["image"])
    assert len(asked) == 3  # a pass of its own each time


def test_perturbed_passes_are_made_each_time_and_leave_the_plain_one(labels, batch, network):
    step, image = Step(labels, network, batch, weak_gradients=False), batch["unlabeled"]["image"]
    plain = step.see(image)
    halved = [step.see(image, lambda levels: tuple(0.5 * level for level in levels)) for _ in range(2)]
    assert len(network.passes) == 3 and step.see(image) is plain
    for seen in halved:
        torch.testing.assert_close(seen.features, 0.5 * image)
        assert seen.outputs.requires_grad and not plain.outputs.requires_grad


def numbers(labels, seed=0, iteration=1, part="view", times=1):
    step = Step(labels, None, {}, iteration, seed)
    return [step.draw(part).random(4).tolist() for _ in range(times)]


def test_draws_are_those_of_seed_iteration_part_and_turn(labels):
    first, second = numbers(labels, times=2)
    assert first != second
    assert numbers(labels, times=2) == [first, second]
    torch.manual_seed(5)
    assert numbers(labels) == [first]
    others = numbers(labels, seed=1), numbers(labels, iteration=2), numbers(labels, part="other")
    assert all(other != [first] for other in others)
    step = Step(labels, None, {}, 1, 0)
    step.draw("other")
    assert step.draw("view").random(4).tolist() == first  # whatever other parts have drawn


def test_views_of_one_iteration_differ_and_come_again(labels, batch, network):
    view, image = Chain([Flip((0, 1)), IntensityJitter(prob=1.0)]), batch["unlabeled"]["image"]

    def seen(iteration=1, seed=0):
        step = Step(labels, network, batch, iteration, seed)
        return [step.view(view, image).image for _ in range(2)]

    one, other = seen()
    assert not torch.equal(one, other)
    again = seen()
    assert torch.equal(again[0], one) and torch.equal(again[1], other)
    assert not torch.equal(seen(iteration=2)[0], one) and not torch.equal(seen(seed=1)[0], one)


def test_views_get_the_values_and_the_step(labels, batch, network):
    given = {}

    class Asking(View):
        def forward(self, image, draw, values=None, groups=None, step=None):
            given.update(values=values, step=step, groups=groups)
            return Weak()(image, draw)

    values = Values(-1.0, 3.0)
    step = Step(labels, network, {**batch, "values": values})
    viewed = step.view(Asking(), batch["unlabeled"]["image"])
    assert isinstance(viewed, Viewed) and viewed.image is batch["unlabeled"]["image"]
    assert given == {"values": values, "step": step, "groups": None}
    assert Step(labels, network, batch).values == Values()


def test_notes_are_of_the_terms_that_teach(labels, batch, network):
    class Silent(Term):
        def forward(self, step):
            return step.see(step.labeled["image"]).outputs.mean()

    method = Method(
        labels, {"one": Match(Prediction()), "silent": Silent(), "two": Match(Prediction(soft=True)), "last": Silent()}
    )
    _, step = losses(method, network, batch)
    assert list(step.notes) == ["one", "two"]
    assert not torch.equal(step.notes["one"].pseudo.label, step.notes["two"].pseudo.label)
    assert step.notes["one"].weight.shape == (3, 1, 6, 6)


def test_parts_do_nothing_unless_they_say_so(labels):
    part = Part()
    part.check(labels)
    part.prepare(None, labels)
    part.after_step(None)
    assert list(part.parameters()) == [] and part.state_dict() == {}
