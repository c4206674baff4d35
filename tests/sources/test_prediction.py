"""Pseudo-labels that the network predicts itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from methods.plain_terms import Pixels, random_batch

from common.methods import Step
from common.sources import Prediction


def probabilities(labels, logits):
    logits = logits.detach().double().numpy()
    if labels.multilabel:
        return 1 / (1 + np.exp(-logits))
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


@pytest.mark.parametrize("soft", [False, True])
def test_label_is_the_decision_or_the_probabilities(labels, soft):
    batch, network = random_batch(labels), Pixels(3, labels.num_outputs)
    pseudo = Prediction(soft)(Step(labels, network, batch))
    logits = network(batch["unlabeled"]["image"])
    p = probabilities(labels, logits)
    hard = (p > 0.5) if labels.multilabel else p.argmax(1)[:, None]
    np.testing.assert_allclose(pseudo.label.numpy(), p if soft else hard, rtol=1e-5)
    assert pseudo.label.dtype == torch.float32
    assert pseudo.grid is None
    assert labels.is_soft(pseudo.label) == (soft and not labels.multilabel)
    assert list(pseudo.known) == ["outputs"]
    torch.testing.assert_close(pseudo.known["outputs"], logits.detach())


def test_no_gradient_and_full_precision(labels):
    batch, network = random_batch(labels), Pixels(3, labels.num_outputs)
    with torch.autocast("cpu", torch.bfloat16):
        pseudo = Prediction(soft=True)(Step(labels, network, batch))
    assert pseudo.label.dtype == pseudo.known["outputs"].dtype == torch.float32
    assert not pseudo.label.requires_grad and not pseudo.known["outputs"].requires_grad
