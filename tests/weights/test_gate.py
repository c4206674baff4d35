"""Gates against loops and by hand: whole images count, or do not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from methods.plain_terms import Pixels, plain_entropies, random_batch

from common.label_space import LabelSpace
from common.methods import Method, Step
from common.parts import Part
from common.sources import Prediction, PseudoLabel
from common.terms import Match
from common.weights import Confidence, ConfidenceMap, Gate, MeanConfidence, Product


def judged_by(gate, labels, outputs):
    """The weight, and what is kept of it for the log."""
    step = Step(labels, None, {})
    weight = gate(step, PseudoLabel(labels.predict(outputs), known={"outputs": outputs}))
    return weight, step.judged


@pytest.mark.parametrize("size", [(4, 5), (3, 2, 4)])
def test_mean_confidence_equals_loops(labels, size):
    draw = np.random.default_rng(0)
    logits = draw.normal(0, 2, (6, labels.num_outputs, *size)) * np.linspace(0.5, 3, 6).reshape(
        6, *[1] * (1 + len(size))
    )
    weight, judged = judged_by(MeanConfidence(0.8), labels, torch.from_numpy(logits))
    columns = labels.num_classes if labels.multilabel else 1
    assert weight.shape == (6, columns, *size) and judged.scores.shape == (6, columns)
    for b in range(6):
        for c in range(columns):
            sure = []
            for place in np.ndindex(size):
                pixel = logits[(b, slice(None), *place)]
                if labels.multilabel:
                    p = 1 / (1 + math.exp(-pixel[c]))
                    sure.append(max(p, 1 - p))
                else:
                    sure.append(math.exp(max(pixel)) / sum(map(math.exp, pixel)))
            score = sum(sure) / len(sure)
            assert judged.scores[b, c].item() == pytest.approx(score, rel=1e-5)
            assert (weight[b, c] == (score > 0.8)).all() and judged.accepted[b, c] == (score > 0.8)
    assert 0 < weight.mean() < 1


def test_mean_confidence_by_hand():
    labels = LabelSpace(["tumor"])
    p = torch.tensor([[0.9, 0.2, 1.0, 0.7], [0.5, 0.5, 0.5, 0.9]]).double().view(2, 1, 2, 2)
    weight, judged = judged_by(MeanConfidence(0.8), labels, p.logit())
    assert judged.scores.flatten().tolist() == pytest.approx([0.85, 0.6])  # 3.4 / 4, 2.4 / 4
    assert judged.accepted.flatten().tolist() == [1, 0]
    assert weight.flatten(1).tolist() == [[1] * 4, [0] * 4]


def test_an_image_at_the_threshold_does_not_count(multilabel):
    class Half(Gate):
        def scores(self, step, pseudo):
            return torch.tensor([[0.5, 0.5000001], [0.4999999, 1.0]])

    weight, judged = judged_by(Half(0.5), multilabel, torch.zeros(2, 2, 3, 3))
    assert judged.accepted.tolist() == [[0, 1], [0, 1]] and weight[:, :, 1, 2].tolist() == [[0, 1], [0, 1]]


def test_the_confidence_map_is_confidence_and_says_what_counts(labels):
    outputs = torch.randn(3, labels.num_outputs, 6, 6, generator=torch.Generator().manual_seed(0)) * 4
    weight, judged = judged_by(ConfidenceMap(0.9), labels, outputs)
    expected, none = judged_by(Confidence(0.9), labels, outputs)
    assert torch.equal(weight, expected) and none is None
    for b, c in np.ndindex(*judged.scores.shape):
        assert judged.scores[b, c].item() == pytest.approx(weight[b, c].sum().item() / 36)
    assert torch.equal(judged.scores, judged.accepted) and 0 < judged.accepted.mean() < 1


def test_refused_images_add_nothing_and_the_mean_is_over_all(labels):
    """Algorithm 1, line 6: the sum over the images that are accepted, divided by the number of all."""
    batch, network = random_batch(labels), Pixels(3, labels.num_outputs, 3.0)
    outputs = network(batch["unlabeled"]["image"])
    _, judged = judged_by(MeanConfidence(0.6), labels, outputs)
    bound = judged.scores.median().item()  # some above, some below
    step = Step(labels, network, batch)
    found = Match(Prediction(), MeanConfidence(bound))(step)
    accepted = judged.scores.numpy() > bound
    assert 0 < accepted.mean() < 1
    entropies = plain_entropies(labels, outputs, labels.predict(outputs)).mean((2, 3))
    assert found.item() == pytest.approx((entropies * accepted).mean(), rel=1e-5)


def test_of_several_gates_the_first_is_logged(multilabel):
    outputs = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    step = Step(multilabel, None, {})
    pseudo = PseudoLabel(multilabel.predict(outputs), known={"outputs": outputs})
    both = Product([MeanConfidence(0.6), ConfidenceMap(0.7)])(step, pseudo)
    assert torch.equal(step.judged.scores, judged_by(MeanConfidence(0.6), multilabel, outputs)[1].scores)
    expected = judged_by(MeanConfidence(0.6), multilabel, outputs)[0] * Confidence(0.7)(step, pseudo)
    assert torch.equal(both, expected)


@pytest.mark.parametrize("threshold", [0, 1, -0.2, 1.5, math.nan])
def test_threshold_outside_of_0_and_1_is_refused(threshold):
    with pytest.raises(ValueError, match=rf"threshold must be in \(0, 1\), got {threshold}"):
        MeanConfidence(threshold)


def test_threshold_that_every_image_would_pass_is_refused(labels):
    terms = {"taught": Match(Prediction(), MeanConfidence(0.5))}
    if labels.multilabel:
        with pytest.raises(ValueError, match=r"threshold must be in \(0.5, 1\) for multi-label.*got 0.5"):
            Method(labels, terms)
    else:
        Method(labels, terms)


def test_a_source_that_knows_no_outputs_is_refused():
    class Silent(Part):
        knows = ("distances",)

    for gate in (MeanConfidence(), ConfidenceMap()):
        with pytest.raises(ValueError, match=f"{type(gate).__name__} asks for the outputs"):
            Match(Silent(), gate)


def test_half_precision_and_no_gradients(labels):
    outputs = torch.randn(2, labels.num_outputs, 4, 4, dtype=torch.bfloat16, requires_grad=True)
    for gate in (MeanConfidence(0.6), ConfidenceMap(0.6)):
        weight, judged = judged_by(gate, labels, outputs)
        assert weight.dtype == torch.float32 and not weight.requires_grad
        assert not judged.scores.requires_grad and judged.scores.dtype == torch.float32
    with pytest.raises(NotImplementedError):
        Gate(0.5).scores(None, None)
