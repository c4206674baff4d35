"""UniMatch's terms against NumPy, with each pixel's partner found by its values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from plain_terms import Pixels, confident, losses, plain_dice, plain_loss

from common.draws import generator
from common.losses import Dice
from common.methods import UniMatch
from common.views import Chain, CutMix, FeatureDropout, Strong
from common.weights import Confidence

FACTORS = {"strong": 0.5, "features": 0.5}


class Watched(Pixels):
    """Keeps the images of its passes."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.images, self.perturbed = [], []

    def forward(self, x, seen=False, perturb=None):
        (self.images if perturb is None else self.perturbed).append(x)
        return super().forward(x, seen, perturb)


@pytest.fixture
def network(labels):
    return Watched(3, labels.num_outputs, 6.0)


def sources(mixed, image):
    """Which image each pixel of mixed images comes from."""
    found = np.zeros((len(mixed), 12, 12), int)
    for b, y, x in np.ndindex(found.shape):
        (found[b, y, x],) = [
            other for other in range(len(image)) if torch.equal(mixed[b, :, y, x], image[other, :, y, x])
        ]
    return found


def taken(maps, source):
    """Maps of mixed images, pixel by pixel from where the images' pixels come from."""
    out = torch.zeros_like(maps)
    for b, y, x in np.ndindex(source.shape):
        out[b, :, y, x] = maps[source[b, y, x], :, y, x]
    return out


@pytest.mark.parametrize("loss", [None, Dice(), Dice(per_image=True)])
def test_the_terms(labels, batch, network, loss):
    image, cutmix = batch["unlabeled"]["image"], Chain([CutMix(prob=1.0)])
    method = UniMatch(labels, threshold=0.8, view=cutmix, unsupervised_loss=loss)
    terms, step = losses(method, network, batch, 3)
    assert list(terms) == ["supervised", *FACTORS]
    _, weak, both = network.images
    assert weak is image and len(both) == 2 * len(image)
    strong = both.split(len(image))
    label, weight = confident(labels, network(image), 0.8)
    assert 0.1 < weight.mean() < 0.9
    plain = plain_loss if loss is None else lambda *a: plain_dice(*a, per_image=loss.per_image)
    mixed = [sources(view, image) for view in strong]
    for source in mixed:
        for b in range(3):
            partners = set(source[b].ravel().tolist())
            assert b in partners and len(partners) == 2  # part of it is of one other image
    mixes = (torch.cat([taken(maps, source) for source in mixed]) for maps in (label, weight))
    assert terms["strong"].item() == pytest.approx(0.5 * plain(labels, network(both), *mixes), rel=1e-5)
    assert (mixed[0] != mixed[1]).any()  # the two strong views differ
    keep = torch.from_numpy(generator(0, 3, "FeatureDropout 1").random((3, 3)) >= 0.5)
    assert keep.any() and not keep.all()
    dropped = network(image * keep[..., None, None] * 2)
    assert terms["features"].item() == pytest.approx(0.5 * plain(labels, dropped, label, weight), rel=1e-5)
    for noted in step.notes.values():  # both teach the one prediction on the weak view
        torch.testing.assert_close(noted.pseudo.label.double(), label)
        torch.testing.assert_close(noted.weight.double(), weight)
    supervised = labels.cross_entropy(network(batch["labeled"]["image"]), batch["labeled"]["label"])
    torch.testing.assert_close(terms["supervised"], supervised)


def test_the_mean_runs_over_all_pixels_not_over_the_confident_ones(labels, batch, network):
    """With a threshold that hardly any pixel passes, hardly anything is learnt."""
    low, _ = losses(UniMatch(labels, 0.6), network, batch)
    high, _ = losses(UniMatch(labels, 0.9999), network, batch)
    for name in FACTORS:
        assert high[name] < 0.1 * low[name]


def test_strong_views_by_default_change_intensities_and_mix(labels, batch, network):
    method = UniMatch(labels)
    both, features = (method.terms[name].view for name in FACTORS)
    assert both.views[0] is both.views[1]
    strong, cutmix = both.views[0].views
    assert type(strong) is Strong and type(cutmix) is CutMix
    assert not strong.geometry and strong.cutout == 0
    assert type(features) is FeatureDropout and features.rate == 0.5
    terms, _ = losses(UniMatch(labels, 0.6), network, batch)
    assert len(network.images) == 3 and len(network.perturbed) == 1
    assert not torch.equal(*network.images[2].chunk(2))
    assert all(term > 0 for term in terms.values())


def test_iterations_and_seeds_draw_other_views(labels, batch, network):
    def views(iteration, seed):
        network.images.clear()
        losses(UniMatch(labels), network, batch, iteration, seed)
        return network.images[2:]

    first = views(1, 0)
    assert all(map(torch.equal, first, views(1, 0)))
    assert not torch.equal(first[0], views(2, 0)[0]) and not torch.equal(first[0], views(1, 1)[0])


def test_the_papers_settings_are_the_defaults(labels):
    method = UniMatch(labels)
    assert {name: term.factor for name, term in method.terms.items()} == FACTORS
    assert {term.weight.threshold for term in method.terms.values()} == {0.95}
    assert len({id(term.source) for term in method.terms.values()}) == 1
    assert all(type(term.weight) is Confidence for term in method.terms.values())
    assert method.needs.unlabeled >= 1 and method.needs.features and not method.needs.weak_gradients


def test_factors_and_views_are_keywords(labels, batch, network):
    rare, still = FeatureDropout(0.0), Strong(names=["identity"], cutout=0)
    method = UniMatch(labels, 0.8, view=still, features=rare, factors={"strong": 2.0, "features": 0.5})
    terms, _ = losses(method, network, batch)
    assert list(terms) == ["supervised", "strong", "features"]
    label, weight = confident(labels, network(batch["unlabeled"]["image"]), 0.8)
    expected = plain_loss(labels, network(batch["unlabeled"]["image"]), label, weight)
    assert terms["strong"].item() == pytest.approx(2 * expected, rel=1e-5)
    assert terms["features"].item() == pytest.approx(0.5 * expected, rel=1e-5)


def test_factors_of_other_terms_are_refused(labels):
    with pytest.raises(ValueError, match="factors must be of strong, features, got strong1, weak"):
        UniMatch(labels, factors={"weak": 1, "strong1": 1, "strong": 1})
    with pytest.raises(ValueError, match="must not be negative"):
        UniMatch(labels, factors={"strong": -1})


def test_an_image_alone_has_no_partner(labels, batch, network):
    batch["unlabeled"]["image"] = batch["unlabeled"]["image"][:1]
    with pytest.raises(ValueError, match="two or more unlabelled images"):
        losses(UniMatch(labels), network, batch)
