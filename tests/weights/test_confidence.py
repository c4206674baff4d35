"""Eq. 9 and 10 of RPG+ against loops and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from common.label_space import LabelSpace
from common.methods.confident_prediction import ConfidentPrediction


@pytest.mark.parametrize("threshold", [0.6, 0.8, 0.95])
def test_multilabel_is_equation_10(multilabel, threshold):
    logits = np.random.default_rng(0).normal(0, 3, (2, 2, 4, 5))
    label, weight = ConfidentPrediction(multilabel, threshold)(torch.from_numpy(logits))
    for place, value in np.ndenumerate(logits):
        p = 1 / (1 + math.exp(-value))
        assert label[place] == round(p)
        assert weight[place] == (abs(p - 0.5) > abs(0.5 - threshold))
    assert 0 < weight.mean() < 1


@pytest.mark.parametrize("threshold", [0.4, 0.8, 0.95])
def test_multiclass_is_equation_9(multiclass, threshold):
    logits = np.random.default_rng(0).normal(0, 3, (2, 3, 4, 5))
    label, weight = ConfidentPrediction(multiclass, threshold)(torch.from_numpy(logits))
    assert label.shape == weight.shape == (2, 1, 4, 5)
    for b, y, x in np.ndindex(2, 4, 5):
        e = np.exp(logits[b, :, y, x] - logits[b, :, y, x].max())
        p = e / e.sum()
        assert label[b, 0, y, x] == p.argmax()
        assert weight[b, 0, y, x] == (p.max() > threshold)


def test_by_hand(multilabel):
    p = torch.tensor([0.79, 0.81, 0.19, 0.21, 0.5, 0.999]).double().view(1, 1, 2, 3).expand(1, 2, 2, 3)
    label, weight = ConfidentPrediction(multilabel, 0.8)(p.logit())
    assert label[0, 0].tolist() == [[1, 1, 0], [0, 0, 1]]
    assert weight[0, 1].tolist() == [[0, 1, 1], [0, 0, 1]]


def test_three_dimensions_and_no_gradients(labels):
    logits = torch.randn(1, labels.num_outputs, 3, 4, 5, requires_grad=True)
    label, weight = ConfidentPrediction(labels, 0.8)(logits)
    assert label.shape == weight.shape == (1, 2 if labels.multilabel else 1, 3, 4, 5)
    assert not label.requires_grad and not weight.requires_grad


@pytest.mark.parametrize("threshold", [0.5, 1, 0.3, -1, 80])
def test_threshold_out_of_range_is_refused(threshold):
    with pytest.raises(ValueError, match=r"threshold must be in \(0.5, 1\)"):
        ConfidentPrediction(LabelSpace(["lung"]), threshold)


@pytest.mark.parametrize("threshold", [1, -0.1])
def test_threshold_out_of_range_is_refused_for_exclusive_classes(multiclass, threshold):
    with pytest.raises(ValueError, match=r"threshold must be in \[0, 1\)"):
        ConfidentPrediction(multiclass, threshold)
