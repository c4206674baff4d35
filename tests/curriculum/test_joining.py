"""Which images join when, by number, and what their label is."""

from __future__ import annotations

import pytest
import torch

from common.curriculum import Joining
from common.label_space import LabelSpace
from common.methods import Step, Supervised
from common.sources import Prediction, References
from common.weights import Confidence, Uncertainty


@pytest.mark.parametrize(
    ("settings", "images", "plan"),
    [
        ({"step_size": 2}, 5, [2, 2, 1]),
        ({"step_size": 2}, 4, [2, 2]),
        ({"step_size": 200}, 5, [5]),
        ({"step_size": 1}, 3, [1, 1, 1]),
        ({"step_size": None}, 7, [7]),
        ({"step_size": None, "share": 0.5}, 7, [4]),  # rounded up
        ({"step_size": 3, "share": 0.5}, 11, [3, 3]),
        ({"step_size": 2, "share": 0.01}, 50, [1]),
        ({"step_size": 2, "share": 0.01}, 101, [2]),
        ({"step_size": 2}, 0, []),
        ({"step_size": None}, 0, []),
        ({}, 2901, [200] * 14 + [101]),  # the paper's
    ],
)
def test_how_many_join_in_each_step(settings, images, plan):
    assert Joining(**settings).plan(images) == plan


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"selection": "none"}, "selection must be one of .*, got 'none'"),
        ({"step_size": 0}, "step_size must be at least 1, got 0"),
        ({"step_epochs": 0}, "step_epochs must be at least 1, got 0"),
        ({"neighbors": 0}, "neighbors must be at least 1, got 0"),
        ({"share": 0}, "share must be above 0 and at most 1, got 0"),
        ({"share": 1.1}, "share must be above 0 and at most 1, got 1.1"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        Joining(**settings)


@pytest.mark.parametrize("size", [(8, 8), (8, 8, 8)])
def test_the_label_is_the_network_s_decision_where_no_source_is_given(tiny_network, labels, size):
    network = tiny_network(labels.num_outputs, dimensions=len(size)).eval()
    image = torch.rand(2, 1, *size)
    label, weight = Joining().label(Step(labels, network, {"unlabeled": {"image": image}}))
    outputs = network(image)
    expected = (outputs > 0).float() if labels.multilabel else outputs.argmax(1, keepdim=True).float()
    assert torch.equal(label, expected)
    assert weight is None and not label.requires_grad


def test_source_and_weight_are_its_own(tiny_network, multilabel):
    network = tiny_network(2).eval()
    image = torch.rand(2, 1, 8, 8)
    step = Step(multilabel, network, {"unlabeled": {"image": image}})
    label, weight = Joining(source=Prediction(soft=True), weight=Confidence(0.6)).label(step)
    probability = network(image).sigmoid()
    torch.testing.assert_close(label, probability.detach())
    assert torch.equal(weight, ((probability - 0.5).abs() > 0.1).float())


def test_its_parts_are_parts_of_the_method():
    """A source with layers or checks of its own is prepared as all others are."""
    joining = Joining(source=Prediction(soft=True), weight=Confidence(0.4))
    assert {type(module) for module in joining.modules()} == {Joining, Prediction, Confidence}
    with pytest.raises(ValueError, match="threshold must be in"):
        Supervised(LabelSpace(["lesion"]), joining=joining)


def test_a_label_that_cannot_be_made_when_an_image_joins_is_refused_at_once():
    with pytest.raises(ValueError, match=r"Uncertainty asks for the spread .* got Prediction, which knows outputs"):
        Joining(weight=Uncertainty())
    with pytest.raises(ValueError, match="source must label an image on its own, got References"):
        Joining(source=References())
