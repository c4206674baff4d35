"""Which pixels have the lowest entropies, against NumPy and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from methods.plain_terms import plain_probabilities

from common.methods import Step
from common.pseudo_label import PseudoLabel
from common.weights import EntropyShare
from common.weights.entropy import entropy


def plain_entropy(labels, outputs):
    p = plain_probabilities(labels, outputs)
    if labels.multilabel:
        return -(p * np.log(p) + (1 - p) * np.log(1 - p))
    return -(p * np.log(p)).sum(1, keepdims=True)


def weight_of(labels, outputs, unreliable, progress):
    step = Step(labels, torch.nn.Identity(), {}, progress=progress)
    return EntropyShare(unreliable)(step, PseudoLabel(labels.predict(outputs), known={"outputs": outputs}))


def test_entropies_equal_numpy(labels):
    outputs = torch.randn(2, labels.num_outputs, 5, 4)
    np.testing.assert_allclose(entropy(labels, outputs).numpy(), plain_entropy(labels, outputs), rtol=1e-5)


def test_entropies_by_hand(multilabel, multiclass):
    half = torch.zeros(1, 2, 1, 1)
    assert entropy(multilabel, half)[0, :, 0, 0].tolist() == pytest.approx([math.log(2)] * 2)
    assert entropy(multiclass, torch.zeros(1, 3, 1, 1)).item() == pytest.approx(math.log(3))
    assert entropy(multiclass, torch.tensor([200.0, 0, 0]).view(1, 3, 1, 1)).item() == 0  # not NaN


@pytest.mark.parametrize(("unreliable", "progress", "left_out"), [(0.2, 0, 0.2), (0.2, 0.5, 0.1), (0.4, 0.75, 0.1)])
def test_the_share_that_is_left_out_falls_with_the_training(labels, unreliable, progress, left_out):
    outputs = 3 * torch.randn(2, labels.num_outputs, 25, 20)
    weight = weight_of(labels, outputs, unreliable, progress)
    found, entropies = weight.numpy(), plain_entropy(labels, outputs)
    assert found.mean() == pytest.approx(1 - left_out, abs=0.002)
    assert entropies[found == 1].max() < entropies[found == 0].min()


def test_at_the_end_every_pixel_counts(labels):
    assert (weight_of(labels, torch.randn(1, labels.num_outputs, 6, 6), 0.2, 1.0) == 1).all()


def test_equal_pixels_all_count(labels):
    assert (weight_of(labels, torch.zeros(1, labels.num_outputs, 6, 6), 0.5, 0.0) == 1).all()


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_bad_shares(share):
    with pytest.raises(ValueError, match=r"unreliable must be a share of the pixels in \[0, 1\), got"):
        EntropyShare(share)
