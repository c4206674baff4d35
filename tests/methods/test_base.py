"""The training step that all methods share."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.data import MetaTensor
from torch import Tensor

from common.methods import RPG, Method, NearestNeighbor, Supervised
from common.methods.base import to_device

METHODS = [Supervised, NearestNeighbor, RPG]


class Recorded(Supervised):
    """Supervised with two terms, that keeps what it was given."""

    def __init__(self, labels) -> None:
        super().__init__(labels)
        self.batches, self.iterations, self.steps, self.networks = [], [], 0, []

    def terms(self, network, batch, iteration):
        self.batches.append(batch)
        self.iterations.append(iteration)
        self.networks.append((network.training, copy.deepcopy(network.state_dict())))
        terms, _ = super().terms(network, batch, iteration)
        return {**terms, "twice": 2 * terms["supervised"]}, {"extra": "kept"}

    def after_step(self, engine) -> None:
        self.steps += 1


def test_one_step_is_the_optimizer_s_on_the_sum_of_terms(labels, make_trainer):
    method = Recorded(labels)
    trainer = make_trainer(method, epochs=1, iterations=1)
    trainer.network.body[-1].p = 0  # no dropout: the step by hand must see the same network
    network = copy.deepcopy(trainer.network)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    trainer.run()
    # the same step by hand
    batch = trainer.state.batch["labeled"]
    loss = labels.cross_entropy(network.train()(batch["image"].as_tensor()), batch["label"].as_tensor())
    (3 * loss).backward()
    optimizer.step()
    output = trainer.state.output
    assert output["loss"] == pytest.approx(3 * loss.item(), rel=1e-5)
    assert output["terms"] == pytest.approx({"supervised": loss.item(), "twice": 2 * loss.item()}, rel=1e-5)
    assert output["extra"] == "kept"
    for expected, found in zip(network.parameters(), trainer.network.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


def test_method_is_called_with_plain_tensors_in_training_mode_from_iteration_one(labels, make_trainer):
    method = Recorded(labels)
    make_trainer(method, epochs=2, iterations=2).run()
    assert method.iterations == [1, 2, 3, 4]
    assert method.steps == 4
    assert all(training for training, _ in method.networks)
    for batch in method.batches:
        assert type(batch["labeled"]["image"]) is Tensor and type(batch["unlabeled"]["truth"]) is Tensor
    before, after = method.networks[0][1], method.networks[-1][1]
    assert any((before[name] != after[name]).any() for name in before)


@pytest.mark.parametrize("method", METHODS)
def test_training_lowers_the_loss(labels, method, make_trainer):
    losses = []
    trainer = make_trainer(method(labels), epochs=1, iterations=25)
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: losses.append(engine.state.output["terms"]["supervised"])
    )
    trainer.run()
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore:.*GradScaler")
def test_mixed_precision(labels, method, make_trainer):
    """bfloat16 on a CPU stands in for CUDA's float16: losses near those in full precision, weights in float32."""
    full = make_trainer(method(labels), epochs=1, iterations=2)
    mixed = make_trainer(method(labels), epochs=1, iterations=2, amp=True, amp_kwargs={"dtype": torch.bfloat16})
    full.run()
    mixed.run()
    assert mixed.state.output["terms"]["supervised"] == pytest.approx(
        full.state.output["terms"]["supervised"], rel=0.05
    )
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in mixed.network.parameters())
    if "weight" in mixed.state.output:
        assert mixed.state.output["weight"].dtype == torch.float32


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_the_step(labels, make_trainer, value):
    class Broken(Recorded):
        def terms(self, network, batch, iteration):
            terms, output = super().terms(network, batch, iteration)
            return ({**terms, "twice": terms["twice"] * value} if iteration == 4 else terms), output

    method = Broken(labels)
    trainer = make_trainer(method, epochs=2, iterations=3)
    with pytest.raises(FloatingPointError) as caught:
        trainer.run()
    message = str(caught.value)
    assert "iteration 4" in message and "twice" in message
    files = [f"{part}{index}.png" for part in ("labeled", "unlabeled") for index in range(5)]
    named = {name for name in files if f"'{name}'" in message}
    assert sum(name.startswith("labeled") for name in named) == 2
    assert sum(name.startswith("unlabeled") for name in named) == 2
    assert method.steps == 3
    for before, parameter in zip(
        (method.networks[-1][1][name] for name, _ in trainer.network.named_parameters()),
        trainer.network.parameters(),
        strict=True,
    ):
        torch.testing.assert_close(parameter, before, rtol=0, atol=0)


def test_a_method_without_state_refuses_another_s(labels):
    method = Method(labels)
    assert method.state_dict() == {}
    method.load_state_dict({})
    with pytest.raises(ValueError, match="teacher"):
        Supervised(labels).load_state_dict({"teacher": 1})


def test_tensors_lose_their_metadata_and_the_rest_stays():
    items = {"image": MetaTensor(torch.ones(1, 2)), "label": torch.zeros(1), "patient": ["p1"]}
    moved = to_device(items, torch.device("cpu"))
    assert type(moved["image"]) is Tensor and type(moved["label"]) is Tensor
    assert moved["patient"] == ["p1"]
    torch.testing.assert_close(moved["image"], torch.ones(1, 2))
