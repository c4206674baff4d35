"""The training step that all methods share: its terms, its place in MONAI's trainer, and what it refuses."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from plain_terms import Pixels, losses, picture_batch, random_batch
from torch import Tensor, nn

from common.batches import Loader
from common.curriculum import Joining
from common.label_space import LabelSpace
from common.losses import Dice
from common.methods import (
    RPG,
    FixMatch,
    Method,
    MultiTaskAttention,
    NearestNeighbor,
    Popcorn,
    PseudoLabel,
    Supervised,
    UncertaintyGuided,
)
from common.methods.base import rise
from common.methods.finite import EVERY, FiniteTerms
from common.networks import BasicUNet
from common.parts import Needs, Part
from common.ranks import share_gradients
from common.sources import Prediction, References
from common.terms import Match, Term
from common.views import FeatureDropout, Strong, Weak
from common.weights import ClassEntropy, Confidence

METHODS = [Supervised, NearestNeighbor, RPG]


class Twice(Term):
    """Twice the supervised loss; keeps what it was given."""

    def __init__(self, factor=1.0):
        super().__init__(factor)
        self.steps, self.training, self.grads, self.after = [], [], [], []

    def forward(self, step):
        self.steps.append(step)
        self.training.append(step.network.training)
        self.grads.append([None if p.grad is None else p.grad.clone() for p in step.network.parameters()])
        labeled = step.labeled
        return 2 * step.labels.cross_entropy(step.see(labeled["image"]).outputs, labeled["label"])

    def after_step(self, step):
        self.after.append((step.iteration, torch.is_grad_enabled()))


def with_twice(labels, **options):
    return Method(labels, {"twice": Twice()}, **options)


def trainer_of(method, network, batches, epochs=1, optimizer=None, **options):
    optimizer = optimizer or torch.optim.SGD(method.prepare(network), lr=0.1)
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=batches,
        network=network,
        optimizer=optimizer,
        loss_function=method.loss,
        iteration_update=method,
        decollate=False,
        **options,
    )


# ---- one step


def test_one_step_is_the_optimizer_s_on_the_sum_of_terms(labels, make_trainer):
    method = with_twice(labels)
    trainer = make_trainer(method, epochs=1, iterations=1)
    trainer.network.body[-1].p = 0  # no dropout: the step by hand must see the same network
    network = copy.deepcopy(trainer.network)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    trainer.run()
    batch = trainer.state.batch["labeled"]  # the same step by hand
    loss = labels.cross_entropy(network.train()(batch["image"]), batch["label"])
    (3 * loss).backward()
    optimizer.step()
    output = trainer.state.output
    assert set(output) == {"loss", "terms", "notes", "compared", "judged", "numbers"}
    assert output["notes"] == output["numbers"] == {} and output["judged"] is None
    assert all(
        type(value) is Tensor and not value.requires_grad for value in (output["loss"], *output["terms"].values())
    )
    assert output["loss"].item() == pytest.approx(3 * loss.item(), rel=1e-5)
    assert {name: value.item() for name, value in output["terms"].items()} == pytest.approx(
        {"supervised": loss.item(), "twice": 2 * loss.item()}, rel=1e-5
    )
    for name, expected in network.named_parameters():
        if name != "body.0.bias":  # before batch norm: its gradient is rounding alone
            torch.testing.assert_close(trainer.network.get_parameter(name), expected)


def test_terms_are_made_in_training_mode_from_iteration_one(labels, make_trainer):
    method = with_twice(labels, seed=7)
    trainer = make_trainer(method, epochs=2, iterations=2)
    trainer.network.eval()
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: engine.network.eval())  # as a validation does
    trainer.run()
    term = method.terms["twice"]
    assert [step.iteration for step in term.steps] == [1, 2, 3, 4]
    assert [step.seed for step in term.steps] == [7] * 4
    assert term.training == [True] * 4
    assert term.after == [(1, False), (2, False), (3, False), (4, False)]
    assert all(step.labels is labels and step.network is trainer.network for step in term.steps)


@pytest.mark.parametrize("method", METHODS)
def test_training_lowers_the_loss(labels, method, make_trainer):
    found = []
    trainer = make_trainer(method(labels), epochs=1, iterations=25)
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: found.append(engine.state.output["terms"]["supervised"].item())
    )
    trainer.run()
    assert np.mean(found[-5:]) < np.mean(found[:5])


# ---- the terms


def test_supervised_term_is_the_loss_with_its_weights(labels):
    batch, network = random_batch(labels), Pixels(3, labels.num_outputs)
    batch["labeled"]["weight"] = torch.rand(2, 1, 6, 6)
    for loss in (None, Dice(per_image=True)):
        terms, _ = losses(Method(labels, loss=loss), network, batch)
        outputs = network(batch["labeled"]["image"])
        expected = (loss or labels_cross_entropy)(
            labels, outputs, batch["labeled"]["label"], batch["labeled"]["weight"]
        )
        assert list(terms) == ["supervised"]
        torch.testing.assert_close(terms["supervised"], expected)


def labels_cross_entropy(labels, *arguments):
    return labels.cross_entropy(*arguments)


def test_factors_weight_and_ramp_up_multiply(labels):
    batch, network = random_batch(labels), Pixels(3, labels.num_outputs)
    terms = {"one": Match(Prediction()), "other": Match(Prediction(), view=Strong(), factor=0.25)}
    plain, _ = losses(
        Method(labels, {"one": Match(Prediction()), "other": Match(Prediction(), view=Strong())}), network, batch, 5
    )
    scaled, _ = losses(Method(labels, terms, unsupervised_weight=0.3, ramp_up=10), network, batch, 5)
    factor = 0.3 * math.exp(-5 * 0.5**2)
    torch.testing.assert_close(scaled["supervised"], plain["supervised"])
    torch.testing.assert_close(scaled["one"], plain["one"] * factor)
    torch.testing.assert_close(scaled["other"], plain["other"] * factor * 0.25)
    late, _ = losses(Method(labels, terms, ramp_up=10), network, batch, 10)
    whole, _ = losses(Method(labels, terms), network, batch, 10)
    torch.testing.assert_close(late, whole)


def test_the_average_of_the_weights_is_kept_by_eq_5(labels, make_trainer):
    """Against a plain mean of what the network was after each step; the training is that of the network alone."""
    decay, seen, method = 0.7, [], Supervised(labels, average=0.7)

    def note(engine):
        seen.append({name: value.clone() for name, value in engine.network.state_dict().items()})

    trainer = make_trainer(method)
    kept = method.kept(trainer.network)
    assert kept is method.kept(trainer.network) and kept is not trainer.network
    first = {name: value.clone() for name, value in kept.state_dict().items()}
    trainer.add_event_handler(Events.ITERATION_COMPLETED, note)
    trainer.run()
    for name, expected in first.items():
        for time, state in enumerate(seen, start=1):
            rate = min(decay, 1 - 1 / (time + 1))
            floating = expected.is_floating_point()
            expected = rate * expected + (1 - rate) * state[name] if floating else state[name]
        torch.testing.assert_close(kept.state_dict()[name], expected)
    plain = Supervised(labels)
    alone = make_trainer(plain)
    assert plain.kept(alone.network) is alone.network
    alone.run()
    for name, value in alone.network.state_dict().items():
        torch.testing.assert_close(value, trainer.network.state_dict()[name], rtol=0, atol=0)


def test_an_average_begins_with_the_weights_that_were_loaded(labels, make_trainer):
    """As an annotation tool does when it goes on with a model."""
    method = Supervised(labels, average=0.999)
    trainer = make_trainer(method, epochs=1, iterations=1)
    with torch.no_grad():
        trainer.network.final_conv.bias.fill_(100)
    trainer.run()
    assert method.kept(trainer.network).final_conv.bias.min() > 99


def test_the_average_goes_on_where_it_was(labels, tiny_network):
    """It is part of what the checkpoint has of a method."""
    network = tiny_network(labels.num_outputs)
    one, other = (Supervised(labels, average=0.9) for _ in range(2))
    for method in (one, other):
        method.prepare(network)
    with torch.no_grad():
        one.kept(network).final_conv.bias += 1
    one.averaged.updates = 17
    other.load_state_dict(one.state_dict())
    assert other.averaged.updates == 17
    torch.testing.assert_close(other.kept(network).final_conv.bias, network.final_conv.bias + 1)


@pytest.mark.parametrize("average", [-0.1, 1.0, 1.5])
def test_an_average_that_is_none_is_refused(labels, average):
    with pytest.raises(ValueError, match=r"average must be in \[0, 1\), got"):
        Supervised(labels, average=average)


def test_ramp_up_by_hand():
    assert rise(0, 10) == pytest.approx(math.exp(-5))
    assert rise(5, 10) == pytest.approx(math.exp(-1.25))
    assert rise(10, 10) == rise(11, 10) == rise(1, 0) == 1
    values = [rise(iteration, 10) for iteration in range(11)]
    assert values == sorted(values)


def test_labelled_loss_does_not_depend_on_the_unlabelled_images(labels, tiny_network):
    """Batch norm takes its statistics from what shares a pass: the labelled images have theirs to themselves."""
    batch, network = random_batch(labels, channels=1), tiny_network(labels.num_outputs, dropout=0).train()
    other = copy.deepcopy(batch)
    other["unlabeled"]["image"] = 20 + 7 * other["unlabeled"]["image"].flip(0)
    alone = labels.cross_entropy(network(batch["labeled"]["image"]), batch["labeled"]["label"])
    for method in (RPG, FixMatch):
        for each in (batch, other):
            terms, _ = losses(method(labels), copy.deepcopy(network), each)
            torch.testing.assert_close(terms["supervised"], alone, rtol=0, atol=0)
        terms, _ = losses(method(labels, joint=True), copy.deepcopy(network), other)
        assert (terms["supervised"] - alone).abs() > 0.01  # what this guards against does happen in one pass


# ---- settings


def test_settings_that_there_are_not_are_refused_by_name():
    labels = LabelSpace(["lung"])
    with pytest.raises(
        TypeError,
        match=r"FixMatch has the settings labels, threshold, .*, supervised_share, joint, average, seed, got tau\.",
    ):
        FixMatch(labels, tau=0.9)
    with pytest.raises(TypeError, match=r"Method has the settings labels, terms, joining, loss, .*, got one, other"):
        Method(labels, one=1, other=2)


def test_keywords_are_the_settings_as_they_are_in_use():
    labels = LabelSpace(["lung"])
    shares = {"supervised_share": 0.0, "joint": False, "average": 0.0}
    common = {"unsupervised_weight": 1.0, "ramp_up": 0, "seed": 0, **shares}
    assert Method(labels).keywords() == common
    assert FixMatch(labels).keywords() == {**common, "threshold": 0.8}
    assert FixMatch(labels, threshold=0.9, seed=3, view=Strong()).keywords() == {**common, "threshold": 0.9, "seed": 3}
    assert FixMatch(labels, 0.9).keywords()["threshold"] == 0.9
    found = RPG(labels, neighbors=0.5, query_size=None, moving_grid=True).keywords()
    mine = {"neighbors": 0.5, "reference_size": 64, "background": True, "moving_grid": True}
    assert found == {**common, **mine, "per_class": False, "label": "nearest"}
    assert UncertaintyGuided(labels, 7, falloff=1.5).keywords() == {**common, "passes": 7, "falloff": 1.5, "share": 1.0}
    assert copy.deepcopy(FixMatch(labels, 0.9)).keywords()["threshold"] == 0.9


@pytest.mark.parametrize("option", ["unsupervised_weight", "ramp_up", "seed"])
def test_negative_settings_are_refused(labels, option):
    with pytest.raises(ValueError, match=f"{option} must not be negative, got -1"):
        FixMatch(labels, **{option: -1})


def test_a_term_must_not_take_the_place_of_the_supervised_one(labels):
    with pytest.raises(ValueError, match="must not be named supervised"):
        Method(labels, {"supervised": Match(Prediction())})


def test_parts_are_asked_whether_the_label_space_fits():
    class Picky(Part):
        def check(self, labels):
            raise ValueError(f"no {labels.classes[0]}")

    for options in ({"terms": {"one": Match(Picky())}}, {"joining": Joining(source=Picky())}):
        with pytest.raises(ValueError, match="no lung"):
            Method(LabelSpace(["lung"]), **options)


def test_needs_are_those_of_all_parts(multilabel):
    one = {"terms": {"one": Match(References(), ClassEntropy(), Strong())}}
    assert Method(multilabel).needs == Needs()
    assert Method(multilabel, **one).needs == Needs(unlabeled=1, class_cover=True, features=True)
    both = {**one["terms"], "two": Match(Prediction(), view=Weak())}
    assert Method(multilabel, both).needs == Needs(unlabeled=1, class_cover=True, features=True, weak_gradients=True)
    dropped = {"one": Match(Prediction(), view=FeatureDropout())}
    assert Method(multilabel, dropped).needs == Needs(unlabeled=1, features=True)
    assert Method(multilabel, joining=Joining("random")).needs == Needs()
    assert Method(multilabel, joining=Joining()).needs == Needs(features=True)  # latents
    assert Popcorn(multilabel).needs == Needs(pairs=True, features=True)
    assert [Method(multilabel, **o).learns_from_unlabeled for o in ({}, one, {"joining": Joining()})] == [0, 1, 1]


def test_needs_add_up():
    assert (Needs(unlabeled=2) | Needs(unlabeled=1)).unlabeled == 2
    for flag in ("pairs", "class_cover", "features", "levels", "weak_gradients"):
        for one, other in ((True, False), (False, True)):
            assert Needs(**{flag: one}) | Needs(**{flag: other}) == Needs(**{flag: True})
    assert (Needs() | Needs(value_range=(0, 1))).value_range == (0, 1)
    assert (Needs(value_range=(0, 1)) | Needs(value_range=(0, 1))).value_range == (0, 1)
    with pytest.raises(ValueError, match=r"must agree on value_range, got \(0, 1\) and \(-1, 1\)"):
        Needs(value_range=(0, 1)) | Needs(value_range=(-1, 1))


@pytest.mark.parametrize("mode", ["multilabel", "multiclass"])
def test_a_method_made_by_configuration_alone_is_fixmatch(mode, tmp_path):
    config = {
        "labels": {"_target_": "common.label_space.LabelSpace", "classes": ["lung", "heart"], "mode": mode},
        "method": {
            "_target_": "common.methods.Method",
            "labels": "@labels",
            "terms": {
                "unsupervised": {
                    "_target_": "common.terms.Match",
                    "source": {"_target_": "common.sources.Prediction"},
                    "weight": {"_target_": "common.weights.Confidence", "threshold": 0.7},
                    "view": {"_target_": "common.views.Strong"},
                }
            },
        },
    }
    (tmp_path / "method.json").write_text(json.dumps(config))
    parser = ConfigParser()
    parser.read_config(tmp_path / "method.json")
    method = parser.get_parsed_content("method")
    assert type(method) is Method
    labels = parser.get_parsed_content("labels")
    fixmatch = FixMatch(labels, threshold=0.7)
    assert method.needs == fixmatch.needs
    batch, network = picture_batch(labels), Pixels(3, labels.num_outputs, 6)
    for iteration in (1, 2):
        found, expected = (losses(each, network, batch, iteration)[0] for each in (method, fixmatch))
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        assert found["unsupervised"] > 0


# ---- pictures


def test_explained_is_what_the_first_match_teaches(labels):
    batch, network = random_batch(labels), Pixels(3, labels.num_outputs)
    assert Method(labels).explain(network, batch) is None
    assert MultiTaskAttention(labels).explain(network, batch) is None
    terms = {"one": Match(References(9, 6, 4), ClassEntropy()), "two": Match(Prediction(), Confidence(0.9))}
    noted = Method(labels, terms).explain(network, batch)
    _, step = losses(Method(labels, terms), network, batch)
    assert torch.equal(noted.pseudo.label, step.notes["one"].pseudo.label)
    assert torch.equal(noted.weight, step.notes["one"].weight)
    assert noted.pseudo.grid == step.notes["one"].pseudo.grid
    assert not noted.weight.requires_grad


# ---- in MONAI's trainer


def pixel_batches(labels, number, seed=0):
    return [random_batch(labels, seed=seed + index) for index in range(number)]


def stock_trainer(labels, network, batches, epochs, **options):
    """MONAI's own step on the labelled images."""
    pairs = [(batch["labeled"]["image"], batch["labeled"]["label"]) for batch in batches]
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=pairs,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9),
        loss_function=labels.cross_entropy,
        prepare_batch=lambda batch, *_, **__: batch,
        decollate=False,
        **options,
    )


@pytest.mark.parametrize("accumulation", [1, 2, 3])
def test_accumulated_gradients_are_those_of_monai_s_step(labels, accumulation):
    """Five batches in an epoch: the last ones are a step of their own, and the next epoch starts anew."""
    batches, options = pixel_batches(labels, 5), {"accumulation_steps": accumulation}
    ours, stock = (Pixels(3, labels.num_outputs) for _ in range(2))
    counts = []

    class Counting(Part):
        def after_step(self, step):
            counts.append(step.iteration)

    method = Supervised(labels)
    method.counting = Counting()
    optimizer = torch.optim.SGD(method.prepare(ours), lr=0.1, momentum=0.9)
    trainer_of(method, ours, batches, 2, optimizer, **options).run()
    stock_trainer(labels, stock, batches, 2, **options).run()
    for found, expected in zip(ours.parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    ends = {1: [1, 2, 3, 4, 5], 2: [2, 4, 5], 3: [3, 5]}[accumulation]
    assert counts == [*ends, *[5 + end for end in ends]]


def test_two_batches_are_one_step_on_the_mean_of_their_gradients(labels):
    batches, network = pixel_batches(labels, 3), Pixels(3, labels.num_outputs)
    expected = copy.deepcopy(network)
    method = FixMatch(labels, threshold=0.6)
    trainer_of(method, network, batches, accumulation_steps=2).run()
    for number, together in ((1, batches[:2]), (3, batches[2:])):
        gradients = []
        for place, batch in enumerate(together):
            terms, _ = losses(method, expected, batch, number + place)
            gradients.append(torch.autograd.grad(sum(terms.values()), expected.parameters()))
        with torch.no_grad():
            for parameter, *parts in zip(expected.parameters(), *gradients, strict=True):
                parameter -= 0.1 * sum(parts) / 2
    for found, parameter in zip(network.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(found, parameter)


def test_accumulation_does_not_change_what_is_reported(labels):
    batches, method, seen = pixel_batches(labels, 2), Supervised(labels), []
    trainer = trainer_of(method, Pixels(3, labels.num_outputs), batches, accumulation_steps=2)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: seen.append(e.state.output["loss"].item()))
    trainer.run()
    network = Pixels(3, labels.num_outputs)
    expected = [losses(method, network, batch)[0]["supervised"].item() for batch in batches]
    assert seen == pytest.approx(expected)


@pytest.mark.parametrize("none", [True, False])
def test_gradients_are_removed_as_the_trainer_says(labels, none):
    method, network = with_twice(labels), Pixels(3, labels.num_outputs)
    trainer_of(method, network, pixel_batches(labels, 2), optim_set_to_none=none).run()
    first, second = method.terms["twice"].grads
    assert all(grad is None for grad in first)
    assert all(grad is None if none else (grad == 0).all() for grad in second)


def test_events_of_an_iteration_fire_once_each_and_in_order(labels):
    method, network, seen = FixMatch(labels, threshold=0.6), Pixels(3, labels.num_outputs), []
    trainer = trainer_of(method, network, pixel_batches(labels, 2))
    before = copy.deepcopy(network.state_dict())
    moved = lambda: not torch.equal(network.final_conv.weight, before["final_conv.weight"])  # noqa: E731
    for event in IterationEvents:
        trainer.add_event_handler(event, lambda e, name=event.name: seen.append((name, moved(), set(e.state.output))))
    trainer.add_event_handler(
        IterationEvents.FORWARD_COMPLETED, lambda e: seen.append(("gradient", network.final_conv.weight.grad))
    )
    trainer.add_event_handler(
        IterationEvents.BACKWARD_COMPLETED,
        lambda e: seen.append(("gradient", network.final_conv.weight.grad.abs().sum() > 0)),
    )
    trainer.run()
    output = {"loss", "terms", "notes", "compared", "judged", "numbers"}
    assert seen[:6] == [
        ("FORWARD_COMPLETED", False, output),
        ("gradient", None),
        ("LOSS_COMPLETED", False, output),
        ("BACKWARD_COMPLETED", False, output),
        ("gradient", True),
        ("MODEL_COMPLETED", True, output),
    ]
    assert [entry[0] for entry in seen[6:]] == [entry[0] for entry in seen[:6]]


def test_a_prepare_batch_of_one_s_own_is_asked_and_its_batch_used(labels):
    batches, asked = pixel_batches(labels, 1), []
    batches[0]["labeled"]["name"] = ["a.png", "b.png"]

    def prepare_batch(batch, device, non_blocking, **kwargs):
        asked.append((batch, device, non_blocking, kwargs))
        return {**batch, "labeled": {**batch["labeled"], "image": 2 * batch["labeled"]["image"]}}

    network = Pixels(3, labels.num_outputs)
    expected = labels.cross_entropy(network(2 * batches[0]["labeled"]["image"]), batches[0]["labeled"]["label"]).item()
    options = {"non_blocking": True, "to_kwargs": {"copy": False}}
    trainer = trainer_of(Supervised(labels), network, batches, prepare_batch=prepare_batch, **options)
    trainer.run()
    assert asked == [(batches[0], torch.device("cpu"), True, {"copy": False})]
    assert trainer.state.output["loss"].item() == pytest.approx(expected)


@pytest.mark.parametrize("method", [*METHODS, FixMatch])
@pytest.mark.filterwarnings("ignore:.*GradScaler")
def test_mixed_precision(labels, method, make_trainer):
    """bfloat16 on a CPU stands in for CUDA's float16: losses near those in full precision, weights in float32."""
    full = make_trainer(method(labels), epochs=1, iterations=2)
    mixed = make_trainer(method(labels), epochs=1, iterations=2, amp=True, amp_kwargs={"dtype": torch.bfloat16})
    dtypes = []
    mixed.network.final_conv.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    full.run()
    mixed.run()
    assert set(dtypes) == {torch.bfloat16}
    assert mixed.state.output["terms"]["supervised"].item() == pytest.approx(
        full.state.output["terms"]["supervised"].item(), rel=0.05
    )
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in mixed.network.parameters())
    assert all(value.dtype == torch.float32 for value in mixed.state.output["terms"].values())
    assert all(noted.weight.dtype == torch.float32 for noted in mixed.state.output["notes"].values())


class Scaler:
    """Scales by 8, and takes it back before the step."""

    def __init__(self):
        self.calls = []

    def scale(self, loss):
        self.calls.append("scale")
        return 8 * loss

    def step(self, optimizer):
        self.calls.append("step")
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad /= 8
        optimizer.step()

    def update(self):
        self.calls.append("update")


@pytest.mark.parametrize(("dtype", "scaled"), [(torch.float16, True), (None, True), (torch.bfloat16, False)])
@pytest.mark.filterwarnings("ignore:.*GradScaler")
def test_the_trainer_s_scaler_is_used_but_with_bfloat16(labels, dtype, scaled):
    batches, networks = pixel_batches(labels, 3), [Pixels(3, labels.num_outputs) for _ in range(2)]
    kwargs = {"amp_kwargs": {} if dtype is None else {"dtype": dtype}, "amp": True, "accumulation_steps": 2}
    trainer = trainer_of(Supervised(labels), networks[0], batches, **kwargs)
    trainer.add_event_handler(Events.STARTED, lambda engine: setattr(engine, "scaler", Scaler()))
    trainer.run()
    assert trainer.scaler.calls == (["scale", "scale", "step", "update", "scale", "step", "update"] if scaled else [])
    trainer_of(Supervised(labels), networks[1], batches, accumulation_steps=2).run()
    for found, expected in zip(*(network.parameters() for network in networks), strict=True):
        torch.testing.assert_close(found, expected, rtol=0.05, atol=2e-3)


# ---- what is not finite


class Broken(Twice):
    """A term that is not finite in the fourth iteration."""

    def __init__(self, value):
        super().__init__()
        self.value, self.weights = value, []

    def forward(self, step):
        self.weights.append(copy.deepcopy(list(step.network.parameters())))
        return super().forward(step) * (self.value if step.iteration == 4 else 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_the_step(labels, make_trainer, value):
    term = Broken(value)
    trainer = make_trainer(Method(labels, {"twice": term, "other": Match(Prediction())}), epochs=2, iterations=3)
    with pytest.raises(FloatingPointError) as caught:
        trainer.run()
    message = str(caught.value)
    assert "at iteration 4" in message and f"'twice': {value}" in message and "'supervised': " in message
    files = [f"{part}{index}.png" for part in ("labeled", "unlabeled") for index in range(5)]
    named = {name for name in files if f"'{name}'" in message}
    assert sum(name.startswith("labeled") for name in named) == 2
    assert sum(name.startswith("unlabeled") for name in named) == 2
    assert [iteration for iteration, _ in term.after] == [1, 2, 3]
    for before, parameter in zip(term.weights[-1], trainer.network.parameters(), strict=True):
        torch.testing.assert_close(parameter, before, rtol=0, atol=0)


class OnGPU(Tensor):
    """A tensor that says that it lies on a GPU."""

    @property
    def device(self):
        return torch.device("cuda")


def test_on_a_gpu_terms_are_looked_at_together_after_some_iterations():
    finite = FiniteTerms()
    batch = {"labeled": {"name": ["a.png"]}, "values": (0, 1), "unlabeled": {}}
    for iteration in range(1, EVERY):
        value = math.nan if iteration in (3, 5) else 0.5
        terms = {"supervised": torch.tensor(0.25), "other": torch.tensor(value, dtype=torch.bfloat16)}
        finite.add(iteration, {name: term.as_subclass(OnGPU) for name, term in terms.items()}, batch)
    assert len(finite.waiting) == EVERY - 1
    with pytest.raises(FloatingPointError) as caught:
        finite.add(EVERY, {"supervised": torch.tensor(0.0).as_subclass(OnGPU), "other": torch.tensor(0.0)}, batch)
    assert "{'supervised': 0.25, 'other': nan} at iteration 3 " in str(caught.value)
    assert "the files {'labeled': ['a.png'], 'unlabeled': ['unknown']}" in str(caught.value)
    assert finite.waiting == []
    finite.look()  # nothing to look at


def test_iterations_may_have_different_numbers_to_look_at():
    """A part that begins later has none in the first ones."""
    finite, zero = FiniteTerms(), torch.tensor(0.0).as_subclass(OnGPU)
    finite.add(1, {"supervised": zero}, {})
    finite.add(2, {"supervised": zero, "discriminator_loss": torch.tensor(0.5)}, {})
    finite.look()
    finite.add(3, {"supervised": zero}, {})
    finite.add(4, {"supervised": zero, "discriminator_loss": torch.tensor(math.inf)}, {})
    with pytest.raises(FloatingPointError, match="'discriminator_loss': inf} at iteration 4 "):
        finite.look()


# ---- optimizer, network


def unet(outputs=1, dropout=0.0):
    return BasicUNet(2, 1, outputs, (4, 4, 4, 4, 8, 4), dropout=dropout)


def image_batches():
    image = torch.rand(2, 1, 16, 16)
    labeled = {"image": image, "label": (image > 0.5).float()}
    return [{"labeled": labeled, "unlabeled": {"image": torch.rand(2, 1, 16, 16)}}]


@pytest.mark.parametrize("prepared", [True, False])
def test_an_optimizer_without_a_part_s_parameters_is_refused_by_name(prepared):
    method, network = MultiTaskAttention(LabelSpace(["lesion"])), unet()
    if prepared:
        method.prepare(network)
    before = copy.deepcopy(network.state_dict())
    trainer = trainer_of(method, network, image_batches(), optimizer=torch.optim.SGD(network.parameters(), 0.1))
    head = r"terms\.reconstruction\.head\."
    words = (
        rf"MultiTaskAttention's parts, got none of {head}weight, {head}bias: set optimizer#params to \$@method\.prepare"
    )
    with pytest.raises(ValueError, match=words):
        trainer.run()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_method_without_parameters_does_with_the_network_s(labels):
    class Asking(Part):
        prepared = 0

        def prepare(self, network, labels):
            self.prepared += 1

        def forward(self, step):
            return Prediction()(step)

    network = Pixels(3, labels.num_outputs)
    method = Method(labels, {"one": Match(Asking())})
    trainer_of(method, network, pixel_batches(labels, 2), optimizer=torch.optim.SGD(network.parameters(), 0.1)).run()
    assert method.terms["one"].source.prepared == 1  # before the first step where nobody did before
    method = Method(labels, {"one": Match(Asking())})
    trainer_of(method, network, pixel_batches(labels, 2)).run()
    assert method.terms["one"].source.prepared == 1


def test_a_part_of_the_optimizer_s_groups_is_enough(labels):
    method, network = MultiTaskAttention(LabelSpace(["lesion"])), unet()
    method.prepare(network)
    groups = [{"params": network.parameters()}, {"params": method.own_parameters(), "lr": 1.0}]
    trainer_of(method, network, image_batches(), optimizer=torch.optim.SGD(groups, 0.1)).run()


def test_networks_without_features_are_refused_by_those_who_learn_from_them(labels):
    network = nn.Conv2d(3, labels.num_outputs, 1)
    with pytest.raises(ValueError, match="must give its features, which RPG learns from, got a Conv2d: use common"):
        RPG(labels).prepare(network)
    assert FixMatch(labels).prepare(network) == list(network.parameters())


def test_gradients_are_shared_before_each_step_of_the_optimizer(labels, monkeypatch):
    method, network, seen = Supervised(labels), Pixels(3, labels.num_outputs), []
    before = network.final_conv.weight.detach().clone()

    def share(parameters):
        assert list(parameters) == method.own_parameters()
        seen.append((network.final_conv.weight.grad.abs().sum() > 0, torch.equal(network.final_conv.weight, before)))

    monkeypatch.setattr("common.methods.base.share_gradients", share)
    trainer_of(method, network, pixel_batches(labels, 3), accumulation_steps=2).run()
    assert seen == [(True, True), (True, False)]


def of_rank(rank, address, network):
    dist.init_process_group("gloo", init_method=f"file://{address}", rank=rank, world_size=2)
    method = MultiTaskAttention(LabelSpace(["lesion"]))
    method.prepare(network)
    head = method.terms["reconstruction"].head
    head.weight.grad = torch.full_like(head.weight, 1.0 + 2 * rank)
    network.final_conv.weight.grad = torch.full_like(network.final_conv.weight, 1.0 + rank)
    share_gradients(method.own_parameters())  # the bias has no gradient
    assert head.bias.grad is None
    torch.save([head.weight.grad, network.final_conv.weight.grad], f"{address}.{rank}")
    dist.destroy_process_group()


def test_processes_share_the_mean_of_the_parts_gradients(tmp_path):
    mp.start_processes(of_rank, (tmp_path / "meet", unet()), nprocs=2, start_method="fork")
    for rank in (0, 1):
        mine, networks = torch.load(tmp_path / f"meet.{rank}", weights_only=True)
        torch.testing.assert_close(mine, torch.full_like(mine, 2.0))
        torch.testing.assert_close(networks, torch.full_like(networks, 1.0 + rank))  # its wrapper's business


def test_labelled_and_unlabelled_images_alone_are_enough_for_who_wants_no_more(labels):
    """A batch for one who needs no unlabelled images has none."""
    network, batch = Pixels(3, labels.num_outputs), random_batch(labels)
    terms, _ = losses(Supervised(labels), network, {"labeled": batch["labeled"]})
    expected, _ = losses(PseudoLabel(labels), network, batch)
    torch.testing.assert_close(terms["supervised"], expected["supervised"])


def test_terms_are_looked_at_when_an_epoch_ends(labels, make_trainer):
    """A GPU's terms are looked at ten by ten; the last ones of an epoch must not wait for the next."""
    method = with_twice(labels)
    method.finite.add = lambda *given: method.finite.waiting.append((given[0], given[1], {"labeled": ["a.png"]}))
    trainer = make_trainer(method, epochs=2, iterations=3)

    def spoil(engine):
        method.terms["twice"].factor = float("nan") if engine.state.iteration == 3 else 1.0

    trainer.add_event_handler(Events.ITERATION_STARTED, spoil)
    with pytest.raises(FloatingPointError, match=r"at iteration 3 with the files .*a\.png"):
        trainer.run()
    assert trainer.state.epoch == 1


# ---- what a trainer may not ask


def test_trainers_that_ask_for_something_else_are_refused(labels, make_batches, tiny_network):
    method, network = with_twice(labels), tiny_network(labels.num_outputs)
    trainer = trainer_of(method, network, Loader(make_batches(method), 2))
    trainer.loss_function = torch.nn.BCELoss()
    with pytest.raises(ValueError, match=r"loss_function of the trainer must be the method's, .* got BCELoss"):
        trainer.run()
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=Loader(make_batches(method), 2),
        network=network,
        optimizer=torch.optim.SGD(method.prepare(network), 0.1),
        loss_function=method.loss,
        iteration_update=method,
    )
    with pytest.raises(ValueError, match="decollate of the trainer must be false"):
        trainer.run()


def test_terms_of_a_method_that_has_its_own_are_refused(labels):
    with pytest.raises(TypeError, match="FixMatch has terms of its own, got others: put them together with Method"):
        FixMatch(labels, terms={"twice": Twice()})


def test_dropout_draws_from_seed_and_iteration(labels, make_trainer):
    """Whatever else draws from torch's generator meanwhile, and not the same in each iteration or with each seed."""

    def trained(seed, draws):
        trainer = make_trainer(with_twice(labels, seed=seed), epochs=1, iterations=3, seed=5)
        assert trainer.network.body[-1].p > 0
        trainer.add_event_handler(Events.ITERATION_STARTED, lambda engine: torch.rand(draws))
        trainer.run()
        return torch.cat([p.detach().flatten() for p in trainer.network.parameters()])

    assert torch.equal(trained(1, 1), trained(1, 7))
    assert not torch.equal(trained(1, 1), trained(2, 1))
