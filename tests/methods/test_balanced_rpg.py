"""Our own combination: RPG+ with the mean density weight as the factor of its third term."""

from __future__ import annotations

import torch
from plain_terms import Pixels, random_batch

from common.methods import BalancedRPG, RPGPlus


def test_the_consistency_term_counts_by_the_mean_weight(labels):
    batch = random_batch(labels, size=12)
    batch["unlabeled"]["image"] = batch["unlabeled"]["image"].sigmoid()
    network = Pixels(3, labels.num_outputs)
    network.head.weight.data.mul_(6)
    plain, output = RPGPlus(labels, neighbors=0.5, query_size=None).terms(network, batch, 3)
    terms, same = BalancedRPG(labels, neighbors=0.5, query_size=None).terms(network, batch, 3)
    mean = sum(output["weight"].flatten().tolist()) / output["weight"].numel()
    assert 0 < mean < 1
    torch.testing.assert_close(terms["consistency"], plain["consistency"] * mean)
    for name in ("supervised", "unsupervised"):
        torch.testing.assert_close(terms[name], plain[name])
    torch.testing.assert_close(same, output)


def test_without_unlabelled_images_the_supervised_term_is_left(labels):
    terms, output = BalancedRPG(labels).terms(
        Pixels(3, labels.num_outputs), {"labeled": random_batch(labels)["labeled"]}, 1
    )
    assert list(terms) == ["supervised"] and output == {}
