"""References of which as large a share of each class counts, on whole images and volumes."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from sources.plain_references import at_pixels, plain_distances, plain_votes, random_task, step_of, tensors

from common.sources import References
from common.weights import ClassEntropy


@pytest.mark.parametrize("k", [0.3, 3])
@pytest.mark.parametrize("size", [(6, 5), (3, 4, 2)])
def test_neighbours_of_each_class(labels, size, k):
    """The distances of loops, whose entropy is the weight; the label is still the nearest reference's."""
    task = random_task(labels, size)
    step = step_of(labels, *tensors(*task))
    found, nearest = References(k, 64, None, per_class=True)(step), References(7, 64, None)(step)
    expected = at_pixels(plain_distances, labels, *task, k, 2 if labels.multilabel else 3)
    np.testing.assert_allclose(found.known["distances"].numpy(), expected, atol=1e-6)
    assert torch.equal(found.label, nearest.label)
    assert not torch.equal(found.known["distances"], nearest.known["distances"])
    weight = ClassEntropy()(step, found)
    assert weight.shape == (2, 1, *size) and weight.min() > 0 and weight.max() < 1


@pytest.mark.parametrize("size", [(6, 5), (3, 4, 2)])
def test_votes_of_each_class(labels, size):
    """The label of loops; with the same distances, so the same weight."""
    task = random_task(labels, size)
    step = step_of(labels, *tensors(*task))
    nearest, found = (References(0.3, 64, None, per_class=True, label=label)(step) for label in ("nearest", "votes"))
    np.testing.assert_array_equal(found.label.numpy(), at_pixels(plain_votes, labels, *task, 0.3))
    assert not torch.equal(found.label, nearest.label) and found.label.dtype == torch.float32
    assert torch.equal(found.known["distances"], nearest.known["distances"])


def test_what_is_voted_needs_distances_of_each_class():
    with pytest.raises(ValueError, match="label 'votes' needs per_class, got none"):
        References(0.3, label="votes")
    with pytest.raises(ValueError, match=r"label must be one of \('nearest', 'votes'\), got 'mean'"):
        References(0.3, label="mean")


@pytest.mark.parametrize(("neighbors", "warned"), [(7000, True), (0.1, False)])
def test_all_references_of_each_class_are_warned_about(multilabel, caplog, neighbors, warned):
    """The paper's k, which is the default, says little here."""
    with caplog.at_level(logging.WARNING):
        References(neighbors, 4, 4, per_class=True)(step_of(multilabel, *tensors(*random_task(multilabel))))
    assert ("mean over all of its references and weights say little: give a share" in caplog.text) == warned
