"""Where a pseudo-label says what the network does, by hand and against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from methods.plain_terms import Pixels, losses, picture_batch, random_batch

from common.label_space import LabelSpace
from common.methods import RPG, BalancedRPG, NearestNeighbor, RPGPlus, Step
from common.pseudo_label import PseudoLabel
from common.sources import MonteCarloDropout, Prediction
from common.terms import Match
from common.weights import Confidence, PredictionAgreement


def weight_of(labels, label, outputs, key="predicted"):
    return PredictionAgreement()(Step(labels, None, {}), PseudoLabel(label, known={key: outputs}))


def test_by_hand():
    logits = torch.tensor([[0.2, 0.1, 0.0, 5.0], [0.1, 0.2, 0.0, 5.1], [0.0, 0.1, 3.0, 0.0]])[None, :, None]
    label = torch.tensor([[[[0.0, 2, 2, 1]]]])
    assert weight_of(LabelSpace(["a", "b"], "multiclass"), label, logits).flatten().tolist() == [1, 0, 1, 1]
    logits, label = torch.tensor([[[[-0.1, 2.0]], [[0.1, -9.0]]]]), torch.tensor([[[[0.0, 1]], [[0, 1]]]])
    assert weight_of(LabelSpace(["a", "b"]), label, logits).tolist() == [[[[1, 1]], [[0, 0]]]]


@pytest.mark.parametrize("key", ["outputs", "predicted"])
@pytest.mark.parametrize("size", [(4, 5), (3, 4, 2)])
def test_equals_loops(labels, size, key):
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 3, (2, labels.num_outputs, *size))
    label = rng.integers(0, 2 if labels.multilabel else 3, (2, labels.num_classes if labels.multilabel else 1, *size))
    weight = weight_of(labels, torch.from_numpy(label).float(), torch.from_numpy(logits), key)
    assert weight.shape == label.shape and weight.dtype == torch.float32
    for b, c, *place in np.ndindex(label.shape):
        at = logits[(b, slice(None), *place)]
        said = int(at[c] > 0) if labels.multilabel else at.tolist().index(max(at))
        assert weight[(b, c, *place)] == (said == label[(b, c, *place)])
    assert 0.2 < weight.mean() < 0.8


def test_confidence_is_agreement_of_which_the_network_is_sure(labels):
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(2, labels.num_outputs, 6, 6, generator=generator)
    label = labels.predict(torch.randn(2, labels.num_outputs, 6, 6, generator=generator))
    pseudo, step = PseudoLabel(label, known={"predicted": outputs}), Step(labels, None, {})
    agrees, sure = PredictionAgreement()(step, pseudo), Confidence(0.500001)(step, pseudo)
    assert torch.equal(agrees * sure, sure) and torch.equal(agrees, sure) == labels.multilabel


def test_of_the_network_s_own_label_every_pixel_counts(labels):
    batch, network = random_batch(labels), Pixels(3, labels.num_outputs)
    step = Step(labels, network, batch)
    assert (PredictionAgreement()(step, Prediction()(step)) == 1).all()
    soft = Prediction(soft=True)(step)
    assert (PredictionAgreement()(step, soft) == 1).all()


@pytest.mark.parametrize("kind", [NearestNeighbor, RPG, RPGPlus, BalancedRPG])
def test_references_that_disagree_do_not_count(labels, kind):
    batch, network = picture_batch(labels), Pixels(3, labels.num_outputs, 4.0)
    options = {"neighbors": 0.3, "query_size": 5, "per_class": True}
    _, step = losses(kind(labels, added_weight=PredictionAgreement(), **options), network, batch)
    _, plain = losses(kind(labels, **options), network, batch)
    noted, without = step.notes["unsupervised"], plain.notes["unsupervised"].weight
    agrees = labels.predict(noted.pseudo.known["predicted"]) == noted.pseudo.label
    assert torch.equal(noted.weight, without * agrees) and 0.1 < agrees.float().mean() < 0.95
    _, step = losses(kind(labels, weight=PredictionAgreement(), **options), network, batch)
    assert torch.equal(step.notes["unsupervised"].weight, agrees.float())


def test_a_source_that_does_not_know_is_refused():
    with pytest.raises(ValueError, match=r"PredictionAgreement asks for the outputs .* got MonteCarloDropout"):
        Match(MonteCarloDropout(), PredictionAgreement())


def test_no_gradients_and_half_precision(labels):
    outputs = torch.randn(2, labels.num_outputs, 3, 3, dtype=torch.bfloat16, requires_grad=True)
    weight = weight_of(labels, labels.predict(outputs.detach()).float(), outputs)
    assert not weight.requires_grad and weight.dtype == torch.float32 and (weight == 1).all()
