"""Parts with state: a teacher, a memory, a discriminator with an optimizer of its own. They learn, and are resumed."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from ignite.engine import Events
from torch import nn

from common.handlers import Checkpoint
from common.methods import Method, MultiTaskAttention
from common.networks import unwrapped
from common.parts import Needs, OwnOptimizer, Part
from common.sources import PseudoLabel
from common.terms import Match, Reconstruction, Term
from common.views import Strong
from common.weights import Product, Weight

DECAY = 0.75


class Teacher(Part):
    """Predicts with the moving average of the network's weights; its batch norm follows the network's."""

    needs = Needs(unlabeled=1)

    def prepare(self, network, labels):
        self.network = copy.deepcopy(unwrapped(network)).requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, step):
        outputs = self.network(step.unlabeled["image"])
        return PseudoLabel(step.labels.predict(outputs).float(), known={"outputs": outputs})

    def after_step(self, step):
        theirs = unwrapped(step.network)
        for mine, new in zip(self.network.parameters(), theirs.parameters(), strict=True):
            mine.lerp_(new, 1 - DECAY)
        for mine, new in zip(self.network.buffers(), theirs.buffers(), strict=True):
            mine.copy_(new)


class Memory(Weight):
    """Weights by the similarity to the last features of labelled images, kept in a queue."""

    needs = Needs(features=True)

    def __init__(self, size=5, channels=4):
        super().__init__()
        self.register_buffer("queue", torch.zeros(size, channels))
        self.register_buffer("position", torch.zeros((), dtype=torch.long))

    def forward(self, step, pseudo):
        features = step.see(step.unlabeled["image"]).features.detach()
        mean = self.queue.mean(0).view(1, -1, 1, 1)
        return torch.exp(-(features - mean).square().mean(1, keepdim=True))

    def after_step(self, step):
        for feature in step.see(step.labeled["image"]).features.mean((2, 3)):
            self.queue[self.position % len(self.queue)] = feature
            self.position += 1


class Adversarial(Term, OwnOptimizer):
    """Outputs on unlabelled images shall look like those on labelled ones to a discriminator that learns beside."""

    needs = Needs(unlabeled=1, weak_gradients=True)

    def prepare(self, network, labels):
        self.discriminator = nn.Conv2d(labels.num_outputs, 1, 3)
        self.optimizer = torch.optim.Adam(self.discriminator.parameters(), 0.05)
        self.steps = 0

    def forward(self, step):
        judged = self.discriminator(step.labels.probabilities(step.see(step.unlabeled["image"]).outputs))
        return F.binary_cross_entropy_with_logits(judged, torch.ones_like(judged))

    def after_step(self, step):
        with torch.enable_grad():
            outputs = (step.see(part["image"]).outputs.detach() for part in (step.labeled, step.unlabeled))
            real, fake = (self.discriminator(step.labels.probabilities(each)) for each in outputs)
            self.optimizer.zero_grad()
            (F.softplus(-real).mean() + F.softplus(fake).mean()).backward()
            self.optimizer.step()
        self.steps += 1


def all_of_them(labels):
    terms = {
        "taught": Match(Teacher(), Product([Memory()]), Strong()),
        "adversarial": Adversarial(0.1),
        "reconstruction": Reconstruction(0.5),
    }
    return Method(labels, terms)


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


class Killed(Exception):
    pass


def kill(engine):
    raise Killed


@pytest.fixture
def make_run(make_trainer, labels, tmp_path):
    """``make_run(folder, resume, die)``: a trainer of a method with all three parts, which dies in an iteration."""

    def make(folder, resume=False, die=0):
        torch.manual_seed(0)
        method, path = all_of_them(labels), tmp_path / folder / "checkpoint.pt"

        def handlers(network, optimizer, scheduler, loader):
            state = {"network": network, "optimizer": optimizer, "scheduler": scheduler, "method": method}
            return [Checkpoint(path, {**state, "loader": loader}, resume)]

        trainer = make_trainer(method, handlers, 3, 2)
        if die:
            trainer.add_event_handler(Events.ITERATION_COMPLETED(once=die), kill)
        return trainer, method, path

    return make


def test_resumed_equals_uninterrupted(make_run):
    trainer, method, whole = make_run("whole")
    trainer.run()
    with pytest.raises(Killed):
        make_run("killed", die=3)[0].run()
    resumed, other, killed = make_run("killed", resume=True)
    resumed.run()
    one, two = (torch.load(path, weights_only=True) for path in (whole, killed))
    assert equal(one, two)
    assert equal(method.state_dict(), other.state_dict()) and equal(one["method"], method.state_dict())


def test_state_holds_all_that_moves(make_run):
    trainer, method, path = make_run("run")
    first = copy.deepcopy(method.state_dict())
    trainer.run()
    last = torch.load(path, weights_only=True)["method"]
    moved = [name for name in first if not equal(first[name], last[name])]
    for name in (
        "terms.taught.source.network.final_conv.weight",
        "terms.taught.source.network.body.1.running_mean",
        "terms.taught.source.network.body.1.num_batches_tracked",
        "terms.taught.weight.weights.0.queue",
        "terms.taught.weight.weights.0.position",
        "terms.adversarial.discriminator.weight",
        "terms.adversarial._extra_state",
        "terms.reconstruction.head.weight",
    ):
        assert name in moved
    assert set(moved) == set(first)


def test_the_main_optimizer_has_the_network_s_and_the_head_s_parameters_alone(labels, tiny_network):
    method, network = all_of_them(labels), tiny_network(labels.num_outputs)
    parameters = method.prepare(network)
    head = method.terms["reconstruction"].head
    assert [id(p) for p in parameters] == [id(p) for p in (*network.parameters(), *head.parameters())]
    assert [id(p) for p in method.own_parameters()] == [id(p) for p in head.parameters()]
    assert any(not p.requires_grad for p in method.parameters())  # the teacher's


def test_the_main_optimizer_leaves_the_discriminator_alone_and_it_learns_itself(make_run):
    trainer, method, _ = make_run("run")
    term, seen = method.terms["adversarial"], []
    theirs = {id(p) for p in term.discriminator.parameters()}
    states = []
    trainer.optimizer.register_step_pre_hook(lambda *_: states.append(copy.deepcopy(term.discriminator.state_dict())))
    trainer.optimizer.register_step_post_hook(
        lambda *_: seen.append(equal(states[-1], term.discriminator.state_dict()))
    )
    before = copy.deepcopy(term.discriminator.state_dict())
    trainer.run()
    assert seen == [True] * 6 and term.steps == 6
    assert not equal(before, term.discriminator.state_dict())
    assert not theirs & {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}


def test_teacher_is_the_moving_average_after_each_step(make_run):
    trainer, method, _ = make_run("run")
    teacher = method.terms["taught"].source.network
    expected = {name: value.double() for name, value in trainer.network.state_dict().items()}

    def follow(engine):
        for name, value in engine.network.state_dict().items():
            average = dict(engine.network.named_parameters())
            expected[name] = DECAY * expected[name] + (1 - DECAY) * value if name in average else value

    trainer.add_event_handler(Events.ITERATION_COMPLETED, follow)
    trainer.run()
    for name, value in teacher.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name].double(), rtol=1e-5, atol=1e-6)
    assert not equal(teacher.state_dict(), trainer.network.state_dict())


def test_memory_holds_the_last_features(make_run):
    trainer, method, _ = make_run("run")
    memory, pushed = method.terms["taught"].weight.weights[0], []
    step = method.after_step

    def watched(given):
        pushed.extend(given.see(given.labeled["image"]).features.mean((2, 3)).detach())
        step(given)

    method.after_step = watched
    trainer.run()
    assert memory.position == len(pushed) == 12
    for place, feature in enumerate(pushed[-5:], start=7):
        assert torch.equal(memory.queue[place % 5], feature)


def test_own_optimizer_without_a_network_yet_has_no_state(labels):
    term = Adversarial()
    assert term.get_extra_state() == {}
    term.set_extra_state({})  # of a checkpoint from before the first step
    term.prepare(None, labels)
    other = Adversarial()
    other.prepare(None, labels)
    loss = other.discriminator(torch.rand(1, labels.num_outputs, 4, 4)).sum()
    loss.backward()
    other.optimizer.step()
    term.load_state_dict(other.state_dict())
    assert equal(term.optimizer.state_dict(), other.optimizer.state_dict())
    assert equal(term.state_dict(), other.state_dict())


def test_a_shared_part_follows_once(labels, tiny_network):
    """One teacher of three terms moves once in a step."""

    class Counting(Part):
        count = 0

        def after_step(self, step):
            self.count += 1

    part = Counting()
    method = Method(labels, {name: Match(part, view=Strong()) for name in ("one", "two", "three")})
    assert len([p for p in method.parts() if p is part]) == 1
    method.after_step(None)
    assert part.count == 1


def test_a_method_without_state_has_none_and_refuses_another_s(labels):
    method = Method(labels)
    assert method.state_dict() == {}
    method.load_state_dict({})
    with pytest.raises(RuntimeError, match="teacher"):
        method.load_state_dict({"teacher": torch.zeros(1)})


@pytest.mark.parametrize("prepared", [True, False])
def test_a_head_of_another_shape_or_none_is_refused(labels, tiny_network, prepared):
    method, other = MultiTaskAttention(labels), MultiTaskAttention(labels)
    method.prepare(tiny_network(labels.num_outputs))
    if prepared:
        other.prepare(tiny_network(labels.num_outputs, channels=7))
    with pytest.raises(RuntimeError, match="head"):
        method.load_state_dict(other.state_dict())
