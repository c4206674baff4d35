"""The baseline sees labelled images alone."""

from __future__ import annotations

import pytest
import torch
from plain_terms import losses

from common.losses import CrossEntropy
from common.methods import Supervised
from common.parts import Needs


def batch_of(labels):
    torch.manual_seed(1)
    label = torch.randint(0, 2, (2, 2, 8, 8)) if labels.multilabel else torch.randint(0, 3, (2, 1, 8, 8))
    return {
        "labeled": {"image": torch.randn(2, 1, 8, 8), "label": label.float()},
        "unlabeled": {"image": torch.full((2, 1, 8, 8), torch.nan)},
    }


def test_its_only_term_is_the_cross_entropy_of_the_labelled_images(labels, tiny_network):
    network = tiny_network(labels.num_outputs, dropout=0).eval()
    batch = batch_of(labels)
    terms, step = losses(Supervised(labels), network, batch)
    logits = network(batch["labeled"]["image"]).detach()
    if labels.multilabel:
        expected = torch.nn.BCELoss()(logits.sigmoid(), batch["labeled"]["label"])
    else:
        expected = torch.nn.NLLLoss()(logits.softmax(1).log(), batch["labeled"]["label"][:, 0].long())
    assert list(terms) == ["supervised"]
    assert step.notes == {}
    torch.testing.assert_close(terms["supervised"], expected)


def test_unlabelled_images_are_left_alone(labels, tiny_network):
    network = tiny_network(labels.num_outputs, dropout=0)
    batch, method = batch_of(labels), Supervised(labels)
    both, _ = losses(method, network, batch)
    alone, _ = losses(method, network, {"labeled": batch["labeled"]})
    assert both["supervised"].item() == pytest.approx(alone["supervised"].item(), rel=1e-6)
    assert method.explain(network, batch) is None
    assert method.needs == Needs() and not method.learns_from_unlabeled
    assert type(method.loss) is CrossEntropy
