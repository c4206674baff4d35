"""FixMatch with references that have a veto, against NumPy, and as the parts it is made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from plain_terms import losses, nearest_labels, plain_loss, plain_probabilities

from common.draws import generator
from common.methods import RPG, FixMatch, ReferenceMatch
from common.views import Chain, CutMix, Strong
from common.weights import Confidence


def test_pixels_count_where_the_network_is_sure_of_the_nearest_reference_s_label(labels, batch, network):
    view = Strong(geometry=False, cutout=0, names=["brightness"])
    method = ReferenceMatch(labels, 0.7, view, reference_size=12, query_size=None)
    terms, step = losses(method, network, batch, 4)
    label = nearest_labels(batch)
    p = plain_probabilities(labels, network(batch["unlabeled"]["image"]))
    if labels.multilabel:
        weight = np.where(label > 0, p, 1 - p) >= 0.7
    else:
        weight = np.take_along_axis(p, label.astype(int), axis=1) >= 0.7
    assert 0.05 < weight.mean() < 0.95
    strong = view(batch["unlabeled"]["image"], generator(0, 4, "Strong 1")).image
    expected = plain_loss(labels, network(strong), torch.from_numpy(label), torch.from_numpy(weight * 1.0))
    assert terms["unsupervised"].item() == pytest.approx(expected, rel=1e-5)
    noted = step.notes["unsupervised"]
    own = labels.predict(network(batch["unlabeled"]["image"]))
    assert (noted.pseudo.label == own)[noted.weight.expand_as(own) > 0].all()  # a veto: no label of their own


def test_it_teaches_less_than_fixmatch_and_the_same(labels, batch, network):
    _, fixmatch = losses(FixMatch(labels, 0.7), network, batch)
    _, step = losses(ReferenceMatch(labels, 0.7, reference_size=12, query_size=None), network, batch)
    (theirs, all_of_it), (mine, some) = ((n.pseudo.label, n.weight > 0) for n in map(noted, (fixmatch, step)))
    assert (some <= all_of_it).all() and 0 < some.sum() < all_of_it.sum()
    torch.testing.assert_close(mine[some.expand_as(mine)], theirs[some.expand_as(theirs)])


def noted(step):
    return step.notes["unsupervised"]


def test_it_is_rpg_of_its_parts(labels, batch, network):
    """As the grids have it that were run before it had a name; k is without effect."""
    options = {"reference_size": 8, "query_size": 6, "ramp_up": 10}
    view = Chain([Strong(geometry=False, cutout=0), CutMix()])
    rpg = RPG(labels, Confidence(0.95), view=view, per_class=True, neighbors=0.1, **options)
    for iteration in (1, 2, 3):
        parts, _ = losses(rpg, network, batch, iteration)
        own, _ = losses(ReferenceMatch(labels, **options), network, batch, iteration)
        torch.testing.assert_close(own, parts, rtol=0, atol=0)


def test_bad_settings_are_refused(labels):
    with pytest.raises(ValueError, match=r"threshold must be above 0\.5, .* got 0\.5"):
        ReferenceMatch(labels, threshold=0.5)
