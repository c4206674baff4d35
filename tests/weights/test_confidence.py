"""Eq. 9 and 10 of RPG+ against loops and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from common.label_space import LabelSpace
from common.methods import FixMatch, Step
from common.sources import PseudoLabel
from common.weights import Confidence


def weight_of(labels, outputs, threshold):
    step = Step(labels, None, {})
    return Confidence(threshold)(step, PseudoLabel(labels.predict(outputs), known={"outputs": outputs}))


@pytest.mark.parametrize("threshold", [0.6, 0.8, 0.95])
def test_multilabel_is_equation_10(multilabel, threshold):
    logits = np.random.default_rng(0).normal(0, 3, (2, 2, 4, 5))
    weight = weight_of(multilabel, torch.from_numpy(logits), threshold)
    for place, value in np.ndenumerate(logits):
        assert weight[place] == (abs(1 / (1 + math.exp(-value)) - 0.5) > abs(0.5 - threshold))
    assert 0 < weight.mean() < 1


@pytest.mark.parametrize("threshold", [0.4, 0.8, 0.95])
def test_multiclass_is_equation_9(multiclass, threshold):
    logits = np.random.default_rng(0).normal(0, 3, (2, 3, 4, 5))
    weight = weight_of(multiclass, torch.from_numpy(logits), threshold)
    assert weight.shape == (2, 1, 4, 5)
    for b, y, x in np.ndindex(2, 4, 5):
        e = np.exp(logits[b, :, y, x] - logits[b, :, y, x].max())
        assert weight[b, 0, y, x] == (e.max() / e.sum() > threshold)


def test_by_hand(multilabel):
    p = torch.tensor([0.79, 0.81, 0.19, 0.21, 0.5, 0.999]).double().view(1, 1, 2, 3).expand(1, 2, 2, 3)
    assert weight_of(multilabel, p.logit(), 0.8)[0, 1].tolist() == [[0, 1, 1], [0, 0, 1]]


def test_each_class_of_a_pixel_counts_for_itself(multilabel):
    weight = weight_of(multilabel, torch.tensor([0.1, 9.0]).view(1, 2, 1, 1), 0.95)
    assert weight.flatten().tolist() == [0, 1]


def test_three_dimensions_half_precision_and_no_gradients(labels):
    logits = torch.randn(1, labels.num_outputs, 3, 4, 5, dtype=torch.bfloat16, requires_grad=True)
    weight = weight_of(labels, logits, 0.8)
    assert weight.shape == (1, 2 if labels.multilabel else 1, 3, 4, 5)
    assert weight.dtype == torch.float32 and not weight.requires_grad


@pytest.mark.parametrize("key", ["outputs", "predicted"])
def test_of_another_s_label_it_is_confidence_in_what_that_says(labels, key):
    """Against loops; a pixel of which the network is sure, but of another class, does not count."""
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 3, (2, labels.num_outputs, 4, 5))
    label = rng.integers(0, 2 if labels.multilabel else 3, (2, labels.num_classes if labels.multilabel else 1, 4, 5))
    pseudo = PseudoLabel(torch.from_numpy(label).float(), known={key: torch.from_numpy(logits)})
    weight = Confidence(0.8)(Step(labels, None, {}), pseudo)
    sure = 0
    for b, y, x in np.ndindex(2, 4, 5):
        e = np.exp(logits[b, :, y, x])
        for c, value in enumerate(label[b, :, y, x]):
            p = e[c] / (1 + e[c]) if labels.multilabel else e[value] / e.sum()
            p = 1 - p if labels.multilabel and not value else p
            assert weight[b, c, y, x] == (p > 0.8)
            sure += (max(e[c], 1 / e[c]) / (1 + max(e[c], 1 / e[c])) if labels.multilabel else e.max() / e.sum()) > 0.8
    assert 0 < weight.sum() < sure


@pytest.mark.parametrize("threshold", [0.5, 0.3, 0])
def test_threshold_of_classes_that_may_overlap_is_above_one_half(threshold):
    with pytest.raises(ValueError, match=rf"threshold must be in \(0.5, 1\).*got {threshold}"):
        Confidence(threshold).check(LabelSpace(["lung"]))
    with pytest.raises(ValueError, match=r"threshold must be in \(0.5, 1\)"):
        FixMatch(LabelSpace(["lung"]), threshold)
    Confidence(threshold).check(LabelSpace(["lung"], "multiclass"))


@pytest.mark.parametrize("threshold", [1, -0.1, 80])
def test_threshold_out_of_range_is_refused(threshold):
    with pytest.raises(ValueError, match=rf"threshold must be in \[0, 1\), got {threshold}"):
        Confidence(threshold)
