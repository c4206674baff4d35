"""The class confidence against loops over pixels in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from methods.plain_terms import plain_probabilities

from common.class_confidence import ClassConfidence
from common.methods import Step


def prepared(labels, decay=0.999):
    bank = ClassConfidence(decay)
    bank.prepare(torch.nn.Conv2d(1, 1, 1), labels)
    return bank


@pytest.mark.parametrize("decay", [0.0, 0.6, 0.999])
def test_the_running_mean_is_that_of_loops(labels, decay):
    bank, mean, times = prepared(labels, decay), [0.0] * labels.num_outputs, [0] * labels.num_outputs
    rng = np.random.default_rng(0)
    for t in range(1, 5):
        outputs = torch.from_numpy(rng.normal(size=(2, labels.num_outputs, 4, 3)))
        label = torch.from_numpy(rng.integers(0, 2, (2, 2 if labels.multilabel else 1, 4, 3))).float()
        if labels.multilabel and t == 2:
            label[:, 0] = 0  # the first class is absent
        p = plain_probabilities(labels, outputs)
        bank.note(labels, outputs, label)
        bank.after_step(Step(labels, torch.nn.Identity(), {}, t))
        for c in range(labels.num_outputs):
            of_class = label[:, c] == 1 if labels.multilabel else label[:, 0] == c
            found = p[:, c][of_class.numpy()]
            if len(found):  # class 2 never occurs in multi-class, and keeps its 0
                rate = min(decay, 1 - 1 / (times[c] + 1))
                mean[c], times[c] = rate * mean[c] + (1 - rate) * found.mean(), times[c] + 1
    np.testing.assert_allclose(bank.confidence.numpy(), mean, rtol=1e-5)
    assert bank.times.tolist() == times


def test_the_first_iteration_sets_it_by_hand(multiclass):
    bank = prepared(multiclass)
    outputs = torch.log(torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.7, 0.2]])).T.reshape(1, 3, 1, 2)
    bank.note(multiclass, outputs, torch.tensor([[[[0.0, 1.0]]]]))
    assert bank.confidence.tolist() == [0, 0, 0]  # it counts after the step
    bank.after_step(Step(multiclass, torch.nn.Identity(), {}, 1))
    assert bank.confidence.tolist() == pytest.approx([0.5, 0.7, 0])
    bank.after_step(Step(multiclass, torch.nn.Identity(), {}, 2))  # nothing was said
    assert bank.times.tolist() == [1, 1, 0]


def test_need_and_rates_by_hand(multiclass):
    bank = prepared(multiclass)
    bank.confidence.copy_(torch.tensor([0.9, 0.8, 0.2]))
    e = np.exp([0.2, 0.8])
    np.testing.assert_allclose(bank.need(), e / e.sum(), rtol=1e-6)  # of the two classes, without the background
    assert bank.rates(1).tolist() == pytest.approx([0.125, 0.25, 1])
    assert bank.rates(2).tolist() == pytest.approx([0.125**2, 0.0625, 1])
    bank.confidence.fill_(1)
    assert bank.rates(1).tolist() == [0, 0, 0]  # not NaN


def test_it_is_part_of_the_checkpoint(labels):
    bank, other = prepared(labels), prepared(labels)
    bank.confidence.fill_(0.3)
    bank.times.fill_(2)
    other.load_state_dict(bank.state_dict())
    assert torch.equal(other.confidence, bank.confidence) and torch.equal(other.times, bank.times)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_bad_decays(decay):
    with pytest.raises(ValueError, match=r"decay of the class confidence must be in \[0, 1\), got"):
        ClassConfidence(decay)


def test_several_batches_of_one_step_count_together(multiclass):
    bank, one = prepared(multiclass), prepared(multiclass)
    outputs, label = torch.randn(4, 3, 5, 5), torch.randint(0, 3, (4, 1, 5, 5)).float()
    for rows in (slice(0, 1), slice(1, 4)):
        bank.note(multiclass, outputs[rows], label[rows])
    one.note(multiclass, outputs, label)
    for each in (bank, one):
        each.after_step(Step(multiclass, torch.nn.Identity(), {}, 1))
    torch.testing.assert_close(bank.confidence, one.confidence)
    assert bank.times.tolist() == [1, 1, 1]
