"""AEL's weights against NumPy, and how many pixels of each class are sampled."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from methods.plain_terms import plain_probabilities

from common.class_confidence import ClassConfidence
from common.methods import Step
from common.pseudo_label import PseudoLabel
from common.weights import ClassSample, ConfidencePower


def bank_of(labels, confidence):
    bank = ClassConfidence()
    bank.prepare(torch.nn.Conv2d(1, 1, 1), labels)
    bank.confidence.copy_(torch.tensor(confidence))
    return bank


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_the_confidence_to_a_power_equals_numpy(labels, power):
    outputs = torch.randn(2, labels.num_outputs, 5, 4)
    step = Step(labels, torch.nn.Identity(), {})
    found = ConfidencePower(power)(step, PseudoLabel(labels.predict(outputs), known={"outputs": outputs}))
    p = plain_probabilities(labels, outputs)
    expected = np.maximum(p, 1 - p) if labels.multilabel else p.max(1, keepdims=True)
    np.testing.assert_allclose(found.numpy(), expected**power, rtol=1e-5)


def test_classes_that_are_learnt_badly_are_sampled_more_multiclass(multiclass):
    label = torch.randint(0, 3, (4, 1, 60, 60)).float()
    weight = ClassSample(bank_of(multiclass, [0.9, 0.6, 0.2]))
    found = weight(Step(multiclass, torch.nn.Identity(), {}), PseudoLabel(label))
    assert set(found.unique().tolist()) == {0.0, 1.0} and found.shape == label.shape
    for value, rate in enumerate([0.1 / 0.8, 0.4 / 0.8, 1.0]):
        assert found[label == value].mean().item() == pytest.approx(rate, abs=0.02)


def test_pixels_that_are_not_of_a_class_all_count_multilabel(multilabel):
    label = torch.randint(0, 2, (4, 2, 60, 60)).float()
    weight = ClassSample(bank_of(multilabel, [0.9, 0.5]), power=2)
    found = weight(Step(multilabel, torch.nn.Identity(), {}), PseudoLabel(label))
    assert (found[label == 0] == 1).all()
    for index, rate in enumerate([(0.1 / 0.5) ** 2, 1.0]):
        assert found[:, index][label[:, index] == 1].mean().item() == pytest.approx(rate, abs=0.02)


def test_with_power_0_every_pixel_counts_and_without_a_training_too(labels):
    label = labels.predict(torch.randn(1, labels.num_outputs, 8, 8))
    step = Step(labels, torch.nn.Identity(), {})
    bank = bank_of(labels, [0.9] * labels.num_outputs)
    assert (ClassSample(bank, 0)(step, PseudoLabel(label)) == 1).all()
    assert (ClassSample(ClassConfidence())(step, PseudoLabel(label)) == 1).all()


def test_another_iteration_samples_other_pixels(multiclass):
    label, weight = torch.ones(1, 1, 30, 30), ClassSample(bank_of(multiclass, [0.2, 0.6, 0.9]))
    one, again, other = (weight(Step(multiclass, torch.nn.Identity(), {}, t), PseudoLabel(label)) for t in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)


@pytest.mark.parametrize("make", [ConfidencePower, lambda power: ClassSample(ClassConfidence(), power)])
def test_negative_powers_are_refused(make):
    with pytest.raises(ValueError, match="power must not be negative, got -1"):
        make(-1)
