"""Soft labels of a Monte-Carlo dropout teacher with their weights, for all unlabelled images in one step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.inferers import SimpleInferer
from plain_terms import Pixels, losses, plain_dice, random_batch
from torch import nn

from common.handlers import Curriculum, CurriculumSteps
from common.label_space import LabelSpace
from common.losses import CrossEntropy, Dice
from common.methods import Step, UncertaintyGuided
from common.networks import BasicUNet

LABELS = LabelSpace(["lesion"])


class GivenPasses(nn.Module):
    """A network with dropout whose outputs, pass after pass, are given."""

    def __init__(self, outputs: np.ndarray) -> None:
        super().__init__()
        self.dropout, self.outputs, self.calls = nn.Dropout(0.5), torch.tensor(outputs), 0

    def forward(self, image):
        self.calls += 1
        return self.outputs[self.calls - 1]


def test_label_and_weight_of_an_image_equal_numpy(labels):
    outputs = np.random.default_rng(0).normal(scale=3, size=(7, 1, labels.num_outputs, 4, 5))
    network, image = GivenPasses(outputs), torch.zeros(1, 1, 4, 5)
    step = Step(labels, network, {"unlabeled": {"image": image}}, inferer=SimpleInferer())
    label, weight = UncertaintyGuided(labels, passes=7, falloff=3).joining.label(step)
    sums = 1 + np.exp(outputs) if labels.multilabel else np.exp(outputs).sum(2, keepdims=True)
    p = np.exp(outputs) / sums
    assert network.calls == 7
    np.testing.assert_allclose(label.numpy(), p.mean(0), atol=1e-6)
    np.testing.assert_allclose(weight.numpy(), np.exp(-3 * p.std(0).max(1, keepdims=True)), atol=1e-6)
    assert weight.shape == (1, 1, 4, 5) and weight.min() > 0 and weight.max() <= 1


def test_weight_by_hand():
    # probabilities 1/2 twice, 1/4 and 3/4, and (nearly) 0 and 1: spreads of 0, 1/4 and 1/2
    outputs = np.array([[0, -np.log(3), -50], [0, np.log(3), 50]], np.float32).reshape(2, 1, 1, 3, 1, 1)
    step = Step(LABELS, GivenPasses(outputs), {"unlabeled": {"image": torch.zeros(1, 1, 3, 1, 1)}})
    label, weight = UncertaintyGuided(LABELS, passes=2, falloff=2).joining.label(step)
    assert label.flatten().tolist() == pytest.approx([0.5, 0.5, 0.5])
    assert weight.flatten().tolist() == pytest.approx([1, np.exp(-0.5), np.exp(-1)])


def test_student_learns_soft_labels_by_their_weights(labels):
    batch, network = random_batch(labels), Pixels(3, labels.num_outputs)
    soft = torch.rand(2, labels.num_outputs, 6, 6)
    soft = soft if labels.multilabel else soft / soft.sum(1, keepdim=True)
    weight = torch.rand(2, 1, 6, 6)
    labeled = {"image": batch["labeled"]["image"], "label": soft, "weight": weight}
    terms, _ = losses(UncertaintyGuided(labels), network, {"labeled": labeled})
    assert list(terms) == ["supervised"]
    expected = plain_dice(labels, network(labeled["image"]), soft, weight)
    assert terms["supervised"].item() == pytest.approx(expected, rel=1e-5)


def test_pixels_of_weight_zero_do_not_count(labels):
    network, image = Pixels(3, labels.num_outputs), torch.randn(2, 3, 6, 6)
    label = torch.rand(2, labels.num_outputs, 6, 6)
    weight = (torch.rand(2, 1, 6, 6) > 0.5).float()
    values = [
        losses(UncertaintyGuided(labels), network, {"labeled": {"image": image, "label": soft, "weight": weight}})[0]
        for soft in (label, label * weight, label * (1 - weight))
    ]
    torch.testing.assert_close(values[0], values[1])
    assert (values[0]["supervised"] - values[2]["supervised"]).abs() > 0.1


def test_all_join_in_one_step():
    assert UncertaintyGuided(LABELS).joining.plan(11) == [11]
    assert UncertaintyGuided(LABELS, share=0.5).joining.plan(11) == [6]
    assert UncertaintyGuided(LABELS).joining.plan(0) == []
    method = UncertaintyGuided(LABELS)
    assert method.joining.selection == "random" and list(method.terms) == [] and method.learns_from_unlabeled
    assert method.needs.unlabeled == 0 and not method.needs.pairs
    assert type(method.loss) is Dice and type(UncertaintyGuided(LABELS, loss=CrossEntropy()).loss) is CrossEntropy


def test_settings_reach_the_teacher():
    joining = UncertaintyGuided(LABELS, passes=4, falloff=1.5, seed=9).joining
    assert (joining.source.passes, joining.source.seed, joining.weight.falloff) == (4, 9, 1.5)
    assert UncertaintyGuided(LABELS, seed=9).seed == 9


def test_a_network_without_dropout_is_refused_before_the_training():
    with pytest.raises(ValueError, match="set network_def#dropout"):
        UncertaintyGuided(LABELS).prepare(BasicUNet(2, 1, 1, (4, 4, 4, 4, 8, 4)))
    network = BasicUNet(2, 1, 1, (4, 4, 4, 4, 8, 4), dropout=0.1)
    assert UncertaintyGuided(LABELS).prepare(network) == list(network.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"passes": 1}, "passes must be at least 2"),
        ({"falloff": -1}, "falloff must not be negative"),
        ({"seed": -1}, "seed must not be negative"),
        ({"share": 0}, "share must be above 0"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        UncertaintyGuided(LABELS, **settings)


def test_curriculum_trains_on_soft_labels_with_weights(labels, make_batches, tiny_network, tmp_path):
    found = []
    for folder in ("one", "other"):
        torch.manual_seed(0)
        method, network = UncertaintyGuided(labels, passes=3), tiny_network(labels.num_outputs, dropout=0.3)
        batches = make_batches(method)
        curriculum = Curriculum(method, batches, network, SimpleInferer(), tmp_path / folder)
        engine = Engine(lambda *_: None)
        engine.state.device = torch.device("cpu")
        CurriculumSteps(curriculum).attach(engine)
        torch.rand(3 * len(found))  # what the global generator did before is of no importance
        engine.run([0], max_epochs=2)
        assert [len(rows) for rows in curriculum.joined] == [5]
        found.append({image.name: image.arrays() for image in batches.joined})
    for name, arrays in found[0].items():
        image = torch.from_numpy(np.array(arrays["image"], np.float32))[None]
        step = Step(labels, network.eval(), {"unlabeled": {"image": image}}, inferer=SimpleInferer())
        for key, expected in zip(("label", "weight"), method.joining.label(step), strict=True):
            np.testing.assert_allclose(arrays[key], expected[0].numpy(), rtol=2**-10, atol=1e-4)
            np.testing.assert_array_equal(arrays[key], found[1][name][key])
    drawn = [batches[iteration] for iteration in range(12)]
    weighted = [batch["labeled"] for batch in drawn if "weight" in batch["labeled"]]  # else both are labelled by people
    assert weighted and not any("unlabeled" in batch for batch in drawn)
    for part in weighted:
        assert part["weight"].shape == (2, 1, 16, 16) and part["label"].shape[1] == labels.num_outputs
        assert torch.isfinite(losses(method, network.train(), {"labeled": part})[0]["supervised"])
