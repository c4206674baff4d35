"""Where a segmentation and a detector agree, by hand and against loops over pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from methods.plain_terms import Pixels, random_batch

from common.label_space import LabelSpace
from common.methods import RPG, Method, Step
from common.pseudo_label import Grid, PseudoLabel
from common.sources import Prediction
from common.terms import Match
from common.weights import Confidence, DetectorAgreement, Product, RankSimilarity, Reliable

TAU = 0.7


def step_of(labels, boxes=None, boxed=None):
    unlabeled = {} if boxes is None else {"boxes": boxes, "boxed": boxed}
    return Step(labels, torch.nn.Identity(), {"unlabeled": unlabeled})


def drawn(labels, size, seed=0):
    """Outputs, boxes of the classes, and of which there are any: not of the last one."""
    random = torch.Generator().manual_seed(seed)
    outputs = 3 * torch.randn(2, labels.num_outputs, *size, generator=random)
    boxes = (torch.rand(2, labels.num_classes, *size, generator=random) > 0.5).float()
    boxed = torch.arange(labels.num_classes) < labels.num_classes - 1
    boxes[:, -1] = 0
    return outputs, boxes, boxed


def plain(labels, outputs, boxes, boxed, background):
    """Pixel by pixel; ``background`` is what becomes of confident pixels of classes without boxes."""
    outputs, boxes = outputs.double().numpy(), boxes.numpy()
    found = np.zeros((len(outputs), labels.num_classes if labels.multilabel else 1, *outputs.shape[2:]), bool)
    for image in range(len(outputs)):
        for place in np.ndindex(outputs.shape[2:]):
            logits = outputs[(image, slice(None), *place)]
            if labels.multilabel:
                for c, logit in enumerate(logits):
                    p = 1 / (1 + np.exp(-logit))
                    known = p > 0.5 and bool(boxed[c])
                    agrees = boxes[(image, c, *place)] == 1 if known else background
                    found[(image, c, *place)] = agrees and max(p, 1 - p) >= TAU
            else:
                p = np.exp(logits) / np.exp(logits).sum()
                c = int(p.argmax()) - 1
                known = c >= 0 and bool(boxed[c])
                agrees = boxes[(image, c, *place)] == 1 if known else background
                found[(image, 0, *place)] = agrees and p.max() >= TAU
    return found


@pytest.mark.parametrize("mode", ["multilabel", "multiclass"])
@pytest.mark.parametrize("size", [(6, 5), (4, 3, 5)])
def test_equals_loops_over_pixels(mode, size):
    labels = LabelSpace(["a", "b", "c"], mode)
    outputs, boxes, boxed = drawn(labels, size)
    pseudo = PseudoLabel(labels.predict(outputs), known={"outputs": outputs})
    step = step_of(labels, boxes, boxed)
    reliable = Reliable(TAU)(step, pseudo)
    np.testing.assert_array_equal(reliable.numpy(), plain(labels, outputs, boxes, boxed, background=False))
    weight = DetectorAgreement(TAU)(step, pseudo)
    np.testing.assert_array_equal(weight.numpy(), plain(labels, outputs, boxes, boxed, background=True))
    assert 0 < reliable.mean() < weight.mean() < 1


def test_a_row_of_pixels_by_hand():
    labels = LabelSpace(["a", "b"], "multiclass")
    # background; a in a box of a; a in a box of b; a outside; a in a box, but not sure; b, of which there are no boxes
    says = torch.tensor([0, 1, 1, 1, 1, 2])
    p = torch.tensor([0.9, 0.7, 0.9, 0.9, 0.6, 0.9])
    outputs = torch.full((1, 3, 1, 6), 0.0)
    for place in range(6):
        outputs[0, :, 0, place] = ((1 - p[place]) / 2).log()
        outputs[0, says[place], 0, place] = p[place].log()
    boxes = torch.tensor([[[[0, 1, 0, 0, 1, 1.0]], [[0, 0, 1, 0, 0, 0.0]]]])
    pseudo = PseudoLabel(labels.predict(outputs), known={"outputs": outputs})
    step = step_of(labels, boxes, torch.tensor([True, False]))
    assert Reliable(0.699)(step, pseudo).flatten().tolist() == [0, 1, 0, 0, 0, 0]
    assert DetectorAgreement(0.699)(step, pseudo).flatten().tolist() == [1, 1, 0, 0, 0, 1]


def test_a_label_of_references_must_be_the_detector_s_and_the_network_s():
    """By hand: a row of pixels that references take for a, all in a box of a but the last."""
    labels = LabelSpace(["a", "b"], "multiclass")
    # sure of a; sure of b; sure of the background; not sure of a; sure of a, outside of the box
    p = torch.tensor([[0.1, 0.05, 0.9, 0.2, 0.0], [0.8, 0.05, 0.05, 0.6, 0.9], [0.1, 0.9, 0.05, 0.2, 0.1]])
    pseudo = PseudoLabel(torch.ones(1, 1, 1, 5), known={"predicted": p.clamp(min=1e-6).log()[None, :, None]})
    boxes = torch.tensor([[[[1.0, 1, 1, 1, 0]], [[0, 0, 0, 0, 0]]]])
    step = step_of(labels, boxes, torch.tensor([True, False]))
    for weight in (Reliable(0.75), DetectorAgreement(0.75)):
        assert weight(step, pseudo).flatten().tolist() == [1, 0, 0, 0, 0]


def test_references_have_reliable_pixels():
    """RPG's pseudo-labels, at the queries alone, with boxes of the whole images."""
    labels = LabelSpace(["a", "b"], "multiclass")
    batch, network = random_batch(labels, 12), Pixels(3, 3, 4.0)
    batch["unlabeled"] |= {"boxes": torch.ones(3, 2, 12, 12), "boxed": torch.tensor([True, True])}
    batch["unlabeled"]["boxes"][:, :, 6:] = 0
    method = RPG(labels, neighbors=5, query_size=4, added_weight=RankSimilarity(k=2, reliable=Reliable(0.4)))
    assert method.needs.boxes
    pseudo = method.terms["unsupervised"].source(step := Step(labels, network, batch))
    reliable, p = Reliable(0.4)(step, pseudo), pseudo.known["predicted"].double().softmax(1)
    expected = np.zeros((3, 1, 4, 4))
    for b, y, x in np.ndindex(3, 4, 4):
        said = int(pseudo.label[b, 0, y, x])
        expected[b, 0, y, x] = said > 0 and pseudo.grid.places[0][y] < 6 and p[b, said, y, x] >= 0.4
    np.testing.assert_array_equal(reliable.numpy(), expected)
    assert 0 < expected.sum() < (pseudo.label[:, :, :2] > 0).sum()


def test_soft_labels_and_grids_of_pixels(labels):
    outputs, boxes, boxed = drawn(labels, (8, 8))
    grid = Grid.of_cells((8, 8), 4)
    step = step_of(labels, boxes, boxed)
    whole = PseudoLabel(labels.predict(outputs), known={"outputs": outputs})
    some = grid.of(outputs)
    coarse = PseudoLabel(labels.probabilities(some), grid, {"outputs": some})
    for weight in (Reliable(TAU), DetectorAgreement(TAU)):
        assert torch.equal(weight(step, coarse), grid.of(weight(step, whole)))


def test_without_boxes_nothing_is_reliable_and_pixels_count_by_confidence(labels):
    outputs, _, _ = drawn(labels, (6, 6))
    pseudo = PseudoLabel(labels.predict(outputs), known={"outputs": outputs})
    assert not Reliable(TAU)(step_of(labels), pseudo).any()
    p = labels.probabilities(outputs)
    sure = torch.maximum(p, 1 - p) if labels.multilabel else p.amax(1, keepdim=True)
    assert torch.equal(DetectorAgreement(TAU)(step_of(labels), pseudo), (sure >= TAU).float())


def test_a_method_with_either_asks_for_boxes():
    labels = LabelSpace(["a"])
    for weight, boxes in (
        (DetectorAgreement(), True),
        (Product([Confidence(), Reliable()]), True),
        (Confidence(), False),
    ):
        assert Method(labels, {"match": Match(Prediction(), weight)}).needs.boxes == boxes


@pytest.mark.parametrize("kind", [Reliable, DetectorAgreement])
def test_thresholds_that_are_none_are_refused(kind, multilabel):
    for threshold in (-0.1, 1.0):
        with pytest.raises(ValueError, match=r"threshold must be in \[0, 1\), got"):
            kind(threshold)
    with pytest.raises(ValueError, match=r"must be in \(0\.5, 1\) for multi-label"):
        kind(0.5).check(multilabel)
