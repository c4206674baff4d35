"""Cross-entropy as a loss, and sums of losses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from methods.plain_terms import plain_dice, plain_loss

from common.losses import CrossEntropy, Dice, Loss, Sum


def case(labels, soft, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(2, labels.num_outputs, 5, 4))
    if soft:
        label = rng.random(logits.shape)
        label = label if labels.multilabel else label / label.sum(1, keepdims=True)
    elif labels.multilabel:
        label = rng.integers(0, 2, logits.shape).astype(float)
    else:
        label = rng.integers(0, 3, (2, 1, 5, 4)).astype(float)
    return torch.from_numpy(logits), torch.from_numpy(label)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("channels", [0, 1, 2])
def test_cross_entropy_equals_numpy(labels, soft, channels):
    logits, label = case(labels, soft)
    if channels == 2 and not labels.multilabel:
        channels = 1
    weight = torch.from_numpy(np.random.default_rng(1).random((2, channels, 5, 4))) if channels else None
    found = CrossEntropy()(labels, logits, label, weight)
    ones = torch.ones(2, 1, 5, 4)
    assert found.item() == pytest.approx(plain_loss(labels, logits, label, ones if weight is None else weight))


@pytest.mark.parametrize("soft", [False, True])
def test_sum_of_losses(labels, soft):
    logits, label = case(labels, soft)
    weight = torch.from_numpy(np.random.default_rng(1).random((2, 1, 5, 4)))
    losses = [CrossEntropy(), Dice(per_image=True)]
    parts = plain_loss(labels, logits, label, weight), plain_dice(labels, logits, label, weight, per_image=True)
    for factors, expected in [(None, sum(parts) / 2), ([2, 0.5], 2 * parts[0] + 0.5 * parts[1])]:
        assert Sum(losses, factors)(labels, logits, label, weight).item() == pytest.approx(expected)
    assert Sum(losses[:1])(labels, logits, label).item() == pytest.approx(losses[0](labels, logits, label).item())


def test_sum_by_hand(multilabel):
    class Given(Loss):
        def __init__(self, value):
            self.value = value

        def __call__(self, labels, logits, label, weight=None):
            return self.value

    losses = [Given(3.0), Given(5.0), Given(10.0)]
    assert Sum(losses)(multilabel, None, None) == pytest.approx(6)
    assert Sum(losses, [1, 0, 0.5])(multilabel, None, None) == pytest.approx(8)


@pytest.mark.parametrize(("losses", "weights"), [([], None), ([], []), ([Dice()], [1, 2]), ([Dice(), Dice()], [1])])
def test_sum_refuses(losses, weights):
    number = len(losses) if weights is None else len(weights)
    with pytest.raises(ValueError, match=f"a weight for each loss, got {len(losses)} losses and {number} weights"):
        Sum(losses, weights)


def test_soft_labels_at_their_lowest(labels):
    """Cross-entropy with a soft label is lowest where the outputs say that label: its own entropy."""
    if labels.multilabel:
        p = torch.tensor([0.2, 0.7]).view(1, 2, 1, 1)
        logits = p.logit()
        entropy = -sum(v * math.log(v) + (1 - v) * math.log(1 - v) for v in (0.2, 0.7)) / 2
    else:
        p = torch.tensor([0.2, 0.7, 0.1]).view(1, 3, 1, 1)
        logits = p.log()
        entropy = -sum(v * math.log(v) for v in (0.2, 0.7, 0.1))
    logits.requires_grad_()
    found = CrossEntropy()(labels, logits, p)
    found.backward()
    assert found.item() == pytest.approx(entropy)
    torch.testing.assert_close(logits.grad, torch.zeros_like(logits), atol=1e-6, rtol=0)
