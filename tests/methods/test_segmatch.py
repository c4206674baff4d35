"""SegMatch: algorithm 1 with each gate against NumPy, the paper's numbers as defaults, and a resumed training."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from ignite.engine import Events
from plain_terms import Pixels, confident, losses, plain_entropies, plain_probabilities, random_batch
from training import require_resumed_equals_uninterrupted

from common.label_space import LabelSpace
from common.losses import CrossEntropy, Dice
from common.methods import FixMatch, SegMatch, Step
from common.terms import Match, MatchBack
from common.views import Chain, CutOut, Flip, Strong
from common.weights import ConfidenceMap, ConfidencePower, Discriminator, MeanConfidence, Ones

GATES = ("identity", "mean_confidence", "confidence_map", "discriminator")
FLIP = Flip(axes=[0], prob=1)


@pytest.fixture
def batch(labels):
    return random_batch(labels, size=8)


@pytest.fixture
def network(labels):
    return Pixels(3, labels.num_outputs, 4.0)


def plain_weight(gate, labels, outputs, threshold, scores):
    """Which images, pixels or classes count, ``B 1`` or ``B C`` over pixels, in float64."""
    p = plain_probabilities(labels, outputs)
    if gate == "identity":
        return np.ones((len(p), 1, 1, 1))
    if gate == "confidence_map":
        return confident(labels, outputs, threshold)[1].numpy()
    sure = np.maximum(p, 1 - p) if labels.multilabel else p.max(1, keepdims=True)
    judged = sure.mean((2, 3)) if gate == "mean_confidence" else scores
    return (judged > threshold)[..., None, None]


@pytest.mark.parametrize("gate", GATES)
def test_the_unsupervised_loss_is_algorithm_1(labels, network, batch, gate):
    """Of a flip, which is undone exactly: the prediction on the flipped image, flipped back, and the gate's label."""
    image = batch["unlabeled"]["image"]
    outputs = network(image)
    p = plain_probabilities(labels, outputs)
    sure = np.maximum(p, 1 - p) if labels.multilabel else p.max(1, keepdims=True)
    threshold = {"confidence_map": 0.8, "mean_confidence": float(np.median(sure.mean((2, 3))))}.get(gate)
    method, scores = SegMatch(labels, gate, threshold, view=FLIP), None
    method.prepare(network)
    if gate == "discriminator":  # near one half before it has learnt
        step = Step(labels, network, batch)
        method.terms["unsupervised"].taught(step)
        scores = step.judged.scores.numpy()
        method.terms["unsupervised"].weight.threshold = threshold = float(np.median(scores))
    terms, step = losses(method, network, batch)
    weight = plain_weight(gate, labels, outputs, threshold, scores)
    assert gate == "identity" or 0 < weight.mean() < 1
    label = torch.from_numpy(p) if gate == "identity" else labels.predict(outputs)
    entropies = plain_entropies(labels, network(image.flip(2)).flip(2), label)
    assert terms["unsupervised"].item() == pytest.approx((entropies * weight).mean(), rel=1e-4)
    torch.testing.assert_close(step.notes["unsupervised"].pseudo.label.double(), label.double())
    expected = labels.cross_entropy(network(batch["labeled"]["image"]), batch["labeled"]["label"])
    torch.testing.assert_close(terms["supervised"], expected)


def test_lambda_is_the_factor(labels, network, batch):
    one, three = (
        losses(SegMatch(labels, "identity", view=FLIP, unsupervised_weight=w), network, batch)[0] for w in (1, 3)
    )
    torch.testing.assert_close(three["unsupervised"], 3 * one["unsupervised"])
    torch.testing.assert_close(three["supervised"], one["supervised"])


def test_the_papers_numbers_are_the_defaults(labels):
    for gate, kind, threshold in zip(
        GATES, (Ones, MeanConfidence, ConfidenceMap, Discriminator), (None, 0.99, 0.99, 0.5), strict=True
    ):
        (term,) = SegMatch(labels, gate).terms.values()
        assert type(term) is MatchBack and type(term.weight) is kind and term.factor == 1
        assert getattr(term.weight, "threshold", None) == threshold
        assert term.source.soft == (gate == "identity")
        assert type(term.view) is Strong and term.view.geometry and term.view.cutout == 0
    weight = SegMatch(labels).terms["unsupervised"].weight
    assert type(weight) is Discriminator and weight.learning_rate == 1e-4
    assert not weight.spectral and weight.balanced and not weight.hard and not weight.labeled_fakes
    method = SegMatch(labels)
    assert method.unsupervised_weight == 1 and type(method.terms["unsupervised"].loss) is CrossEntropy
    assert method.needs.unlabeled == 1 and not method.needs.weak_gradients


def test_settings_reach_their_parts(labels):
    dice = Dice()
    method = SegMatch(
        labels, threshold=0.4, discriminator={"spectral": True, "features": [8]}, seed=3, unsupervised_loss=dice
    )
    weight = method.terms["unsupervised"].weight
    assert (weight.threshold, weight.spectral, weight.features, weight.seed) == (0.4, True, (8,), 3)
    assert method.terms["unsupervised"].loss is dice
    assert SegMatch(labels, discriminator={"seed": 5}, seed=3).terms["unsupervised"].weight.seed == 5
    assert SegMatch(labels, soft=True).terms["unsupervised"].source.soft
    assert not SegMatch(labels, "identity", soft=False).terms["unsupervised"].source.soft
    own = ConfidencePower(3)
    assert SegMatch(labels, own).terms["unsupervised"].weight is own
    assert SegMatch(labels, threshold=0.4).keywords()["threshold"] == 0.4


def test_with_the_label_moved_along_the_confidence_map_is_fixmatch(labels, network, batch):
    batch["unlabeled"]["image"] = batch["unlabeled"]["image"].sigmoid()
    view = Chain([Strong(cutout=0.5)])
    method = SegMatch(labels, "confidence_map", 0.8, view=view, mapped_back=False)
    assert type(method.terms["unsupervised"]) is Match
    found, _ = losses(method, network, batch)
    expected, _ = losses(FixMatch(labels, 0.8, view=view), network, batch)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"Cut cannot be undone.*mapped_back false"):
        losses(SegMatch(labels, "confidence_map", 0.8, view=CutOut(0.5)), network, batch)


@pytest.mark.parametrize("threshold", [0, 1, -1, 1.5])
@pytest.mark.parametrize("gate", GATES[1:])
def test_tau_outside_of_0_and_1_is_refused(labels, gate, threshold):
    with pytest.raises(ValueError, match=rf"threshold must be in \(0, 1\), got {threshold}"):
        SegMatch(labels, gate, threshold)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gate": "oracle"}, "gate must be one of identity, mean_confidence, .* or a weight .*, got 'oracle'"),
        ({"gate": "identity", "threshold": 0.9}, "gate identity has no use for threshold, got 0.9: leave it out"),
        ({"gate": Ones(), "threshold": 0.9}, "gate Ones has no use for threshold, got 0.9"),
        ({"gate": "confidence_map", "discriminator": {"hard": True}}, "confidence_map has no use for discriminator"),
        ({"discriminator": {"learning_rate": -1}}, "learning_rate of the discriminator must be above 0, got -1"),
    ],
)
def test_bad_settings_are_refused(multiclass, settings, message):
    with pytest.raises(ValueError, match=message):
        SegMatch(multiclass, **settings)


@pytest.mark.parametrize("mode", ["multilabel", "multiclass"])
@pytest.mark.parametrize("gate", [*GATES, "mended"])
def test_a_training_of_one_class_goes_on_bit_by_bit(tiny_network, tmp_path, mode, gate):
    labels = LabelSpace(["tumor"], mode)
    mended = {"discriminator": {"spectral": True, "hard": True, "labeled_fakes": True, "learning_rate": 0.01}}
    settings = {**mended, "threshold": 0.3} if gate == "mended" else {"gate": gate}
    settings |= {"threshold": 0.55} if gate in GATES[1:3] else {}
    draw = torch.Generator().manual_seed(0)
    image, label = torch.rand(4, 1, 16, 16, generator=draw), torch.rand(2, 1, 16, 16, generator=draw).round()

    def batch_of():
        return {"labeled": {"image": image[:2], "label": label}, "unlabeled": {"image": image[2:]}}

    def start():
        torch.manual_seed(0)
        network, method = tiny_network(labels.num_outputs, dropout=0), SegMatch(labels, **settings)
        return [network, method, torch.optim.Adam(method.prepare(network), 0.01)]

    require_resumed_equals_uninterrupted(start, tmp_path, batch_of=batch_of)


def test_labels_alone_are_learnt_from_first(labels, make_trainer):
    """As long as nothing is judged, the discriminator stays as it is."""
    method = SegMatch(labels, discriminator={"features": (4,)}, supervised_share=0.5)
    trainer, seen = make_trainer(method, epochs=2, iterations=2), []
    gate = method.terms["unsupervised"].weight
    first = copy.deepcopy(gate.network.state_dict())

    def look(engine):
        moved = not torch.equal(first["line.weight"], gate.network.line.weight)
        seen.append({**engine.state.output, "moved": moved})

    trainer.add_event_handler(Events.ITERATION_COMPLETED, look)
    trainer.run()
    assert [one["moved"] for one in seen] == [False, False, True, True]
    assert [one["judged"] is None for one in seen] == [True, True, False, False]
    assert [bool(one["numbers"]) for one in seen] == [False, False, True, True]
