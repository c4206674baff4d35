"""What outputs and labels stand for, and the cross-entropy of eq. 8."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from common.label_space import LabelSpace

RNG = np.random.default_rng(0)


def binary_cross_entropy(logits, label):
    probability = 1 / (1 + np.exp(-logits))
    return -(label * np.log(probability) + (1 - label) * np.log(1 - probability))


def softmax_cross_entropy(logits, label):
    """Of logits (B, C, ...) and class indices (B, 1, ...), as (B, 1, ...)."""
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return -np.log(np.take_along_axis(probability, label.astype(int), axis=1))


def random_pair(labels, shape=(2, 5, 3)):
    batch, *space = shape
    logits = RNG.normal(scale=3, size=(batch, labels.num_outputs, *space))
    if labels.multilabel:
        return logits, RNG.integers(0, 2, (batch, labels.num_classes, *space)).astype(np.float64)
    return logits, RNG.integers(0, labels.num_classes + 1, (batch, 1, *space)).astype(np.float64)


@pytest.mark.parametrize("shape", [(2, 5, 3), (2, 4, 3, 2)], ids=["2D", "3D"])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_is_the_plain_formula(labels, shape, weighted):
    logits, label = random_pair(labels, shape)
    weight = RNG.uniform(size=(shape[0], 1, *shape[1:])) if weighted else None
    loss = labels.cross_entropy(
        torch.from_numpy(logits), torch.from_numpy(label), None if weight is None else torch.from_numpy(weight)
    )
    pixels = (binary_cross_entropy if labels.multilabel else softmax_cross_entropy)(logits, label)
    expected = np.mean(pixels if weight is None else pixels * weight)
    assert loss.dtype == torch.float64
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-12)


def test_cross_entropy_by_hand():
    two = LabelSpace(["a", "b"], "multilabel")
    # outputs of 0 say a half for everything: ln 2 for each of the two classes
    loss = two.cross_entropy(torch.zeros(1, 2, 1, 1), torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1))
    assert loss.item() == pytest.approx(math.log(2))
    three = LabelSpace(["a", "b"], "multiclass")
    logits = torch.tensor([0.0, math.log(2), 0.0]).reshape(1, 3, 1, 1)  # probabilities 1/4, 1/2, 1/4
    assert three.cross_entropy(logits, torch.full((1, 1, 1, 1), 1.0)).item() == pytest.approx(math.log(2))
    assert three.cross_entropy(logits, torch.full((1, 1, 1, 1), 2.0)).item() == pytest.approx(math.log(4))


def test_weights_scale_the_loss_and_are_not_normalised_away(labels):
    logits, label = (torch.from_numpy(array) for array in random_pair(labels))
    full = labels.cross_entropy(logits, label)
    quarter = labels.cross_entropy(logits, label, torch.full((2, 1, 5, 3), 0.25, dtype=torch.float64))
    torch.testing.assert_close(quarter, full / 4)
    assert labels.cross_entropy(logits, label, torch.zeros(2, 1, 5, 3)) == 0


def test_ignored_pixels_have_no_gradient(labels):
    logits, label = (torch.from_numpy(array) for array in random_pair(labels))
    label[:, :, 0] = -1
    logits.requires_grad_()
    loss = labels.cross_entropy(logits, label)
    loss.backward()
    assert torch.isfinite(loss)
    assert (logits.grad[:, :, 0] == 0).all()
    assert (logits.grad[:, :, 1:] != 0).all()


def random_soft(labels, shape=(2, 5, 3)):
    batch, *space = shape
    label = RNG.uniform(size=(batch, labels.num_outputs, *space))
    return label if labels.multilabel else label / label.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_of_soft_labels(labels, weighted):
    logits, _ = random_pair(labels)
    label, weight = random_soft(labels), RNG.uniform(size=(2, 1, 5, 3)) if weighted else None
    if labels.multilabel:
        pixels = binary_cross_entropy(logits, label)
    else:
        pixels = -(label * np.log(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))).sum(1, keepdims=True)
    loss = labels.cross_entropy(
        torch.from_numpy(logits), torch.from_numpy(label), None if weight is None else torch.from_numpy(weight)
    )
    np.testing.assert_allclose(loss.item(), np.mean(pixels if weight is None else pixels * weight), rtol=1e-12)


def test_a_weight_of_its_own_for_each_class_of_a_pixel(multilabel):
    logits, label = random_pair(multilabel)
    weight = RNG.uniform(size=label.shape)
    loss = multilabel.cross_entropy(*(torch.from_numpy(array) for array in (logits, label, weight)))
    np.testing.assert_allclose(loss.item(), np.mean(binary_cross_entropy(logits, label) * weight), rtol=1e-12)


def test_hard_labels_are_soft_labels_of_zeros_and_ones(labels):
    logits, label = (torch.from_numpy(array) for array in random_pair(labels))
    soft = labels.one_hot(label)
    assert labels.is_soft(soft) == (not labels.multilabel) and not labels.is_soft(label)
    torch.testing.assert_close(labels.cross_entropy(logits, soft), labels.cross_entropy(logits, label))


def test_one_hot_and_masks_of_soft_labels(labels):
    _, label = random_pair(labels)
    hot = labels.one_hot(torch.from_numpy(label))
    assert hot.shape == (2, labels.num_outputs, 5, 3) and hot.dtype == torch.float32
    if labels.multilabel:
        np.testing.assert_array_equal(hot.numpy(), label)
    else:
        expected = np.concatenate([label == value for value in range(3)], axis=1)
        np.testing.assert_array_equal(hot.numpy(), expected)
    soft = random_soft(labels)
    np.testing.assert_allclose(labels.one_hot(torch.from_numpy(soft)).numpy(), soft, rtol=1e-6)
    np.testing.assert_array_equal(labels.masks(torch.from_numpy(soft)).numpy(), soft[:, -2:])


@pytest.mark.parametrize("soft", [False, True])
def test_mixed_precision_is_close(labels, soft):
    logits, label = (torch.from_numpy(array).float() for array in random_pair(labels))
    label = torch.from_numpy(random_soft(labels)).float() if soft else label
    with torch.autocast("cpu", torch.bfloat16):
        loss = labels.cross_entropy(logits.bfloat16(), label)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, labels.cross_entropy(logits, label), rtol=0.02, atol=0)


def test_prediction_at_the_edges(multilabel, multiclass):
    """Just over one half is yes, one half is no; of equals the first class."""
    assert multilabel.predict(torch.tensor([0.0, 1e-6]).view(1, 2, 1, 1)).flatten().tolist() == [0, 1]
    assert multiclass.predict(torch.tensor([1.0, 1.0, 0.0]).view(1, 3, 1, 1)).item() == 0


def test_forms(labels):
    assert labels.forms == (("lung", "heart"),)


@pytest.mark.parametrize("value", [-60.0, 60.0])
def test_sure_outputs_give_finite_losses(labels, value):
    _, label = random_pair(labels)
    loss = labels.cross_entropy(torch.full((2, labels.num_outputs, 5, 3), value), torch.from_numpy(label).float())
    assert torch.isfinite(loss)


def test_probabilities_and_prediction(multilabel, multiclass):
    logits = torch.tensor([0.0, math.log(3)]).reshape(1, 2, 1, 1)
    torch.testing.assert_close(multilabel.probabilities(logits).flatten(), torch.tensor([0.5, 0.75]))
    torch.testing.assert_close(multilabel.predict(logits).flatten(), torch.tensor([0.0, 1.0]))
    probabilities = torch.tensor([0.25, 0.6]).reshape(1, 2, 1, 1)
    torch.testing.assert_close(multilabel.confidence(probabilities).flatten(), torch.tensor([0.75, 0.6]))
    logits = torch.tensor([0.0, math.log(3), math.log(4)]).reshape(1, 3, 1, 1)
    torch.testing.assert_close(multiclass.probabilities(logits).flatten(), torch.tensor([1, 3, 4]) / 8)
    confidence = multiclass.confidence(multiclass.probabilities(logits))
    torch.testing.assert_close(confidence, torch.full((1, 1, 1, 1), 0.5))
    assert multiclass.predict(logits).shape == (1, 1, 1, 1)
    assert multiclass.predict(logits).item() == 2


def test_masks_of_both_kinds_are_the_same(multilabel, multiclass):
    label_map = torch.tensor([[0, 1, 2], [2, 1, 0]]).reshape(1, 1, 2, 3)
    expected = torch.tensor([[[0, 1, 0], [0, 1, 0]], [[0, 0, 1], [1, 0, 0]]]).float()[None]
    torch.testing.assert_close(multiclass.masks(label_map), expected)
    torch.testing.assert_close(multiclass.masks(label_map.float()), expected)
    torch.testing.assert_close(multilabel.masks(expected), expected)


def test_numbers_of_channels(multilabel, multiclass):
    assert (multilabel.num_classes, multilabel.num_outputs, multilabel.multilabel) == (2, 2, True)
    assert (multiclass.num_classes, multiclass.num_outputs, multiclass.multilabel) == (2, 3, False)
    assert "lung" in repr(multiclass) and "multiclass" in repr(multiclass)


@pytest.mark.parametrize(
    ("classes", "mode", "words"),
    [
        ([], "multilabel", "at least one name"),
        ("lung", "multilabel", "list"),
        (["lung", "lung"], "multilabel", "differ"),
        (["lung"], "softmax", "multiclass"),
    ],
)
def test_bad_label_spaces_are_refused(classes, mode, words):
    with pytest.raises(ValueError, match=words):
        LabelSpace(classes, mode)


def test_shapes_that_do_not_fit_are_refused(labels):
    logits, label = (torch.from_numpy(array) for array in random_pair(labels))
    with pytest.raises(ValueError, match="outputs of shape"):
        labels.cross_entropy(logits, label[..., :-1])
    with pytest.raises(ValueError, match=f"{labels.num_outputs} output channels"):
        labels.cross_entropy(torch.cat([logits, logits], dim=1), label)
