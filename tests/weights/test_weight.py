"""What all weights have in common: they multiply, and say what they ask of a source."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from given import GivenWeight
from methods.plain_terms import Pixels, random_batch

from common.methods import Method, Step
from common.sources import MonteCarloDropout, Prediction, PseudoLabel, References
from common.terms import Match
from common.weights import ClassEntropy, Confidence, EntropyShare, Ones, Product, Uncertainty


@pytest.mark.parametrize("size", [(4, 5), (3, 4, 2)])
def test_ones_are_one_for_each_pixel(size):
    weight = Ones()(None, PseudoLabel(torch.rand(2, 3, *size)))
    assert weight.shape == (2, 1, *size) and (weight == 1).all()


def test_product_multiplies_also_weights_of_classes_with_weights_of_pixels():
    one, other, third = torch.rand(2, 1, 3, 3), torch.rand(2, 2, 3, 3), torch.rand(2, 1, 3, 3)
    step = SimpleNamespace(factors={})
    product = Product([GivenWeight(one), Product([GivenWeight(other), Ones()]), GivenWeight(third)])
    found = product(step, SimpleNamespace(label=other))
    factors = step.factors[id(product)]
    assert list(factors) == ["GivenWeight", "Ones"]
    assert torch.equal(factors["GivenWeight"], one)  # of equal names the first
    for b, c, y, x in torch.cartesian_prod(*map(torch.arange, (2, 2, 3, 3))):
        assert found[b, c, y, x].item() == pytest.approx(
            (one[b, 0, y, x] * other[b, c, y, x] * third[b, 0, y, x]).item()
        )


def test_product_of_parts_is_asked_as_they_are(labels):
    batch, network = random_batch(labels), Pixels(3, labels.num_outputs)
    outputs = network(batch["unlabeled"]["image"]).detach()
    pseudo = PseudoLabel(labels.predict(outputs), known={"outputs": outputs, "spread": torch.rand_like(outputs) / 2})
    step = Step(labels, network, batch)
    parts = Confidence(0.8), Uncertainty(3)
    torch.testing.assert_close(Product(parts)(step, pseudo), parts[0](step, pseudo) * parts[1](step, pseudo))


@pytest.mark.parametrize(
    ("source", "weight", "words"),
    [
        (Prediction(), ClassEntropy(), "ClassEntropy asks for the distances .* got Prediction, which knows outputs"),
        (
            References(5),
            EntropyShare(),
            "EntropyShare asks for the outputs .* got References, which knows distances, p",
        ),
        (MonteCarloDropout(), Confidence(), "Confidence asks for the outputs .* got MonteCarloDropout, which knows sp"),
        (
            Prediction(),
            Product([Ones(), Uncertainty()]),
            "Uncertainty asks for the spread .* which knows outputs: take another",
        ),
    ],
)
def test_source_that_does_not_know_is_refused_with_a_sentence(source, weight, words):
    with pytest.raises(ValueError, match=words):
        Match(source, weight)


def test_source_that_knows_nothing_is_refused():
    with pytest.raises(ValueError, match="got a source that knows nothing: take another weight or another source"):
        ClassEntropy()(None, PseudoLabel(torch.zeros(1, 1, 2, 2)))


def test_weights_within_a_product_are_checked_when_a_method_is_put_together(multilabel):
    with pytest.raises(ValueError, match="threshold must be in"):
        Method(multilabel, {"unsupervised": Match(Prediction(), Product([Ones(), Confidence(0.4)]))})
    Method(multilabel, {"unsupervised": Match(MonteCarloDropout(), Product([Ones(), Uncertainty()]))})
