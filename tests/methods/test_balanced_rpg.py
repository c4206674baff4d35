"""Our own combination: RPG+ with the mean density weight as the factor of its third term."""

from __future__ import annotations

import torch
from plain_terms import Pixels, losses, picture_batch

from common.methods import BalancedRPG, RPGPlus


def test_the_consistency_term_counts_by_the_mean_weight(labels):
    batch = picture_batch(labels)
    network = Pixels(3, labels.num_outputs, 6.0)
    options = {"neighbors": 0.5, "query_size": 5, "unsupervised_weight": 0.5, "consistency_weight": 0.25}
    plain, expected = losses(RPGPlus(labels, **options), network, batch, 3)
    terms, step = losses(BalancedRPG(labels, **options), network, batch, 3)
    weight = step.notes["unsupervised"].weight
    mean = sum(weight.flatten().tolist()) / weight.numel()
    assert 0 < mean < 1
    torch.testing.assert_close(terms["consistency"], plain["consistency"] * mean)
    for name in ("supervised", "unsupervised"):
        torch.testing.assert_close(terms[name], plain[name])
        assert name == "supervised" or torch.equal(step.notes[name].weight, expected.notes[name].weight)
    (gradient,) = torch.autograd.grad(terms["consistency"], network.final_conv.weight, retain_graph=True)
    (other,) = torch.autograd.grad(plain["consistency"], network.final_conv.weight)
    torch.testing.assert_close(gradient, other * mean)  # the factor itself is not learnt
