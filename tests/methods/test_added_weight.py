"""A weight beside the method's own, as a keyword of every method that matches pseudo-labels."""

from __future__ import annotations

import pytest
import torch
from monai.bundle import ConfigParser
from plain_terms import Pixels, confident, losses, plain_loss, random_batch

from common import methods
from common.curriculum import Joining
from common.label_space import LabelSpace
from common.methods import RPG, U2PL, FixMatch, Method, RPGPlus, Step, Supervised, UniMatch
from common.terms import Match
from common.views import Weak
from common.weights import ClassEntropy, Confidence, EntropyShare, Ones, Product, RankSimilarity, Uncertainty, Weight

NAMES = [name for name in methods.__all__ if name not in ("Method", "Step")]
WITHOUT = ("Supervised", "Popcorn", "UncertaintyGuided", "MultiTaskAttention", "TransformationConsistency", "IIC")


class Given(Weight):
    """A random weight of each pixel, and how often it was asked for."""

    def __init__(self, size=12):
        super().__init__()
        self.value, self.times = torch.rand(3, 1, size, size), 0

    def forward(self, step, pseudo):
        self.times += 1
        return self.value


def test_the_weights_are_multiplied(labels):
    batch, network, given = random_batch(labels, 12), Pixels(3, labels.num_outputs, 4.0), Given()
    terms, step = losses(FixMatch(labels, 0.7, Weak(), added_weight=given), network, batch)
    outputs = network(batch["unlabeled"]["image"])
    label, own = confident(labels, outputs, 0.7)
    assert terms["unsupervised"].item() == pytest.approx(
        plain_loss(labels, outputs, label, own * given.value), rel=1e-5
    )
    torch.testing.assert_close(step.notes["unsupervised"].weight.double(), own * given.value.double())


@pytest.mark.parametrize("name", NAMES)
def test_every_method_with_pseudo_labels_takes_it_and_the_others_refuse(name, multilabel):
    make, given = getattr(methods, name), Given()
    if name in WITHOUT:
        with pytest.raises(ValueError, match=f"added_weight needs pseudo-labels .* got {name}, which has none"):
            make(multilabel, added_weight=given)
        return
    own = [term.weight for term in make(multilabel).terms.values() if isinstance(term, Match)]
    found = [term.weight for term in make(multilabel, added_weight=given).terms.values() if isinstance(term, Match)]
    assert len(own) == len(found) > 0
    for one, product in zip(own, found, strict=True):
        assert type(product) is Product
        assert type(product.weights[0]) is type(one) and product.weights[1] is given


def test_terms_that_share_a_weight_ask_for_it_once(multilabel):
    method = UniMatch(multilabel, added_weight=Given())
    strong, features = method.terms.values()
    assert strong.weight is features.weight
    given = strong.weight.weights[1]
    losses(method, Pixels(3, 2), random_batch(multilabel, 12))
    assert given.times == 1


def test_terms_of_other_weights_keep_their_own(multilabel):
    references, prediction = RPGPlus(multilabel, added_weight=Given()).terms.values()
    assert type(references.weight.weights[0]) is ClassEntropy and type(prediction.weight.weights[0]) is Confidence
    method = U2PL(multilabel, added_weight=Given())
    assert type(method.terms["contrast"].reliable) is EntropyShare  # negatives are chosen as without it
    (match,) = RPG(multilabel, weight=Ones(), added_weight=Given()).terms.values()
    assert type(match.weight.weights[0]) is Ones  # RPG's weight takes the place of its own


def test_one_that_asks_what_the_source_does_not_know_is_refused(multilabel):
    with pytest.raises(ValueError, match=r"Uncertainty asks for the spread .* got Prediction, which knows outputs"):
        FixMatch(multilabel, added_weight=Uncertainty())
    with pytest.raises(ValueError, match=r"EntropyShare asks for the outputs .* got References, which knows distances"):
        RPG(multilabel, added_weight=RankSimilarity(reliable=EntropyShare()))  # also within another


def test_one_that_is_no_weight_is_refused(multilabel):
    """``null`` on MONAI's command line is text."""
    with pytest.raises(
        ValueError, match=r"added_weight must be one of common\.weights or None, got 'null': for None wr"
    ):
        FixMatch(multilabel, added_weight="null")


def test_it_is_part_of_the_needs_and_the_settings(multilabel):
    assert not FixMatch(multilabel).needs.features
    method = FixMatch(multilabel, added_weight=RankSimilarity(k=3))
    assert method.needs.features and method.needs.unlabeled == 1
    assert "k" not in method.keywords()
    with pytest.raises(ValueError, match="must give its features"):
        method.prepare(torch.nn.Conv2d(1, 2, 1))


def test_by_configuration_alone():
    config = {
        "labels": {"_target_": "common.label_space.LabelSpace", "classes": ["lung"]},
        "method": {
            "_target_": "common.methods.Method",
            "labels": "@labels",
            "terms": {
                "consistency": {
                    "_target_": "common.terms.Match",
                    "source": {"_target_": "common.sources.Prediction"},
                    "view": {"_target_": "common.views.Strong"},
                }
            },
            "added_weight": {"_target_": "common.weights.RankSimilarity", "k": 4, "released": True},
        },
    }
    (term,) = ConfigParser(config).get_parsed_content("method").terms.values()
    assert [type(each).__name__ for each in term.weight.weights] == ["Ones", "RankSimilarity"]
    assert term.weight.weights[1].k == 4 and term.weight.weights[1].released


def test_whole_images_that_join_have_no_features_to_compare():
    with pytest.raises(ValueError, match="weigh an image on its own, got RankSimilarity, which compares features of a"):
        Joining(weight=RankSimilarity())


def test_what_an_image_would_be_taught_is_weighed_and_not_remembered(labels):
    network, batch = Pixels(6, labels.num_outputs, 4.0), random_batch(labels, 8, 6)
    method = FixMatch(labels, 0.6, added_weight=RankSimilarity(k=2, threshold=0.6))
    method.prepare(network)
    step = Step(labels, network, batch, 1, weak_gradients=False)
    method.losses(step)
    method.after_step(step)
    before = {key: value.clone() for key, value in method.state_dict().items()}
    noted = method.explain(network, batch)
    assert len(noted.weight.unique()) > 2
    method.after_step(Step(labels, network, batch, 2))
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items() if "memory" in key)


def test_without_pseudo_labels_there_is_nothing_to_weigh():
    labels = LabelSpace(["lung"])
    for make in (Supervised, Method):
        with pytest.raises(ValueError, match=r"leave it out \(null in a file, .*\), or take a method such as FixMatch"):
            make(labels, added_weight=Given())
