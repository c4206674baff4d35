"""POPCORN's loss, eq. 1 to 5, against plain loops; which images join in which step."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from plain_terms import losses
from torch import nn

from common.label_space import LabelSpace
from common.losses import CrossEntropy, Dice
from common.methods import Popcorn
from common.networks import Seen
from common.sources import Prediction

LABELS = LabelSpace(["lesion"])


class GivenOutputs(nn.Module):
    """A network whose bottleneck and outputs are given."""

    def __init__(self, bottleneck, outputs):
        super().__init__()
        self.bottleneck, self.outputs = nn.Parameter(torch.tensor(bottleneck)), nn.Parameter(torch.tensor(outputs))

    def forward_features(self, image):
        return image

    def forward(self, image, seen, perturb=None):
        return Seen(self.outputs, None, self.bottleneck)


def plain_dice_loss(outputs, label, weight):
    """One minus Dice over all pixels of some images of one class (eq. 1), in float64 loops."""
    overlap = total = 0.0
    for z, y, w in zip(outputs.flatten().tolist(), label.flatten().tolist(), weight.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-z))
        overlap, total = overlap + w * p * y, total + w * p + w * y
    return 1 - (2 * overlap + 1) / (total + 1)


def plain_total(outputs, label, weight, bottleneck, pairs, alpha, squared, per_image):
    """Eq. 1 to 5 for one batch of pairs."""
    regularization = 0.0
    for i, j in pairs:
        hi, hj = bottleneck[i].flatten().tolist(), bottleneck[j].flatten().tolist()
        difference = sum((a - b) ** 2 for a, b in zip(hi, hj, strict=True))
        norms = sum(a * a for a in hi), sum(b * b for b in hj)
        if squared:
            distance = 2 * difference / (norms[0] + norms[1])
        else:
            distance = 2 * math.sqrt(difference) / (math.sqrt(norms[0]) + math.sqrt(norms[1]))
        yi, yj = label[i].flatten().tolist(), label[j].flatten().tolist()
        mse = sum((a - b) ** 2 for a, b in zip(yi, yj, strict=True)) / len(yi)
        regularization += distance * math.exp(-mse) / len(pairs)
    segmentation = 0.0
    for half in zip(*pairs, strict=True):
        parts = [[index] for index in half] if per_image else [list(half)]
        segmentation += sum(plain_dice_loss(outputs[p], label[p], weight[p]) for p in parts) / len(parts)
    return segmentation, alpha * regularization


def case(pairs=((0, 3), (1, 4), (2, 5)), weighted=False, soft=False):
    rng = np.random.default_rng(0)
    outputs, bottleneck = rng.normal(size=(6, 1, 3, 4, 2)), rng.normal(size=(6, 5, 2, 1, 1))
    label = rng.random((6, 1, 3, 4, 2)) if soft else rng.integers(0, 2, (6, 1, 3, 4, 2)).astype(float)
    weight = rng.random((6, 1, 3, 4, 2)) if weighted else np.ones((6, 1, 3, 4, 2))
    labeled = {"image": torch.zeros(6, 1, 3, 4, 2), "label": torch.tensor(label), "pairs": torch.tensor(pairs)}
    labeled |= {"weight": torch.tensor(weight)} if weighted else {}
    return {"labeled": labeled}, GivenOutputs(bottleneck, outputs), (outputs, label, weight, bottleneck, pairs)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("per_image", [True, False])
@pytest.mark.parametrize(("weighted", "soft"), [(False, False), (True, False), (True, True)])
def test_terms_equal_plain_loops(squared, per_image, weighted, soft):
    batch, network, plain = case(weighted=weighted, soft=soft)
    method = Popcorn(LABELS, consistency_weight=0.7, squared=squared, loss=Dice(per_image=per_image))
    terms, _ = losses(method, network, batch)
    segmentation, consistency = plain_total(*plain, 0.7, squared, per_image)
    assert terms["supervised"].item() == pytest.approx(segmentation, abs=1e-6)
    assert terms["consistency"].item() == pytest.approx(consistency, abs=1e-6)
    sum(terms.values()).backward()
    assert network.bottleneck.grad.abs().sum() > 0 and network.outputs.grad.abs().sum() > 0


def test_pairs_say_which_images_are_the_first_ones():
    batch, network, plain = case(pairs=((5, 0), (1, 4), (3, 2)))
    terms, _ = losses(Popcorn(LABELS), network, batch)
    segmentation, consistency = plain_total(*plain, 0.2, True, False)
    assert terms["supervised"].item() == pytest.approx(segmentation, abs=1e-6)
    assert terms["consistency"].item() == pytest.approx(consistency, abs=1e-6)
    other, _ = losses(Popcorn(LABELS), network, case()[0])
    assert other["supervised"].item() != pytest.approx(segmentation, abs=1e-4)


def test_several_classes_and_softmax(labels):
    rng = np.random.default_rng(0)
    channels = labels.num_outputs
    outputs, bottleneck = rng.normal(size=(4, channels, 4, 4)), rng.normal(size=(4, 3, 1, 1))
    label = rng.integers(0, 2, (4, 2, 4, 4)) if labels.multilabel else rng.integers(0, 3, (4, 1, 4, 4))
    pairs = torch.tensor([[0, 2], [1, 3]])
    batch = {"labeled": {"image": torch.zeros(4, 1, 4, 4), "label": torch.tensor(label).double(), "pairs": pairs}}
    for loss in (Dice(per_image=True), CrossEntropy()):
        terms, _ = losses(Popcorn(labels, loss=loss), GivenOutputs(bottleneck, outputs), batch)
        halves = [
            loss(labels, torch.tensor(outputs[half]), torch.tensor(label[half]).double()).item()
            for half in (slice(0, 2), slice(2, 4))
        ]
        assert terms["supervised"].item() == pytest.approx(sum(halves))


def test_voxels_without_weight_are_left_out():
    rng = np.random.default_rng(1)
    outputs, label = rng.normal(size=(2, 1, 4, 4, 4)), torch.zeros(2, 1, 4, 4, 4)
    label[:, :, :2], weight = 1, torch.ones(2, 1, 4, 4, 4)
    weight[:, :, 3:] = 0
    bottleneck, pairs = np.ones((2, 3, 1, 1, 1)), torch.tensor([[0, 1]])
    whole = {"image": label, "label": label, "weight": weight, "pairs": pairs}
    part = {"image": label[:, :, :3], "label": label[:, :, :3], "pairs": pairs}
    terms, _ = losses(Popcorn(LABELS), GivenOutputs(bottleneck, outputs), {"labeled": whole})
    expected, _ = losses(Popcorn(LABELS), GivenOutputs(bottleneck, outputs[:, :, :3]), {"labeled": part})
    assert terms["supervised"].item() == pytest.approx(expected["supervised"].item(), abs=1e-6)


def test_the_similarity_is_handed_on():
    assert Popcorn(LABELS).terms["consistency"].similarity == "mse"
    method = Popcorn(LABELS, similarity="dice")
    assert method.terms["consistency"].similarity == "dice" and method.keywords()["similarity"] == "dice"
    batch, network, _ = case()
    batch["labeled"]["label"][:3], batch["labeled"]["label"][3:] = 0, 1  # Dice 0, where exp(-mse) is 0.37
    assert losses(method, network, batch)[0]["consistency"].item() == 0
    assert losses(Popcorn(LABELS), network, batch)[0]["consistency"].item() > 0.1


def test_one_patch_twice_has_no_distance():
    batch, network, _ = case()
    network.bottleneck.data[3:] = network.bottleneck.data[:3]
    assert losses(Popcorn(LABELS), network, batch)[0]["consistency"].item() == pytest.approx(0, abs=1e-6)


def test_rows_of_table_1():
    whole = Popcorn(LABELS)
    assert list(whole.terms) == ["consistency"] and whole.terms["consistency"].factor == 0.2
    assert whole.terms["consistency"].squared and type(whole.loss) is Dice and not whole.loss.per_image
    joining = whole.joining
    assert (joining.selection, joining.step_size, joining.step_epochs) == ("proximity", 200, 2)
    assert (joining.neighbors, joining.share, joining.weight) == (5, 1.0, None)
    assert type(joining.source) is Prediction and not joining.source.soft
    alone = Popcorn(LABELS, consistency_weight=0)
    assert list(alone.terms) == [] and alone.needs.pairs and alone.needs.features  # latents
    assert not Popcorn(LABELS, selection="random", consistency_weight=0).needs.features
    batch, network, _ = case()
    assert set(losses(alone, network, batch)[0]) == {"supervised"}
    assert Popcorn(LABELS, selection="random").joining.selection == "random"
    with pytest.raises(ValueError, match="selection must be one of proximity, random and none, got 'off'"):
        Popcorn(LABELS, selection="off")
    baseline = Popcorn(LABELS, selection="none", consistency_weight=0)
    assert baseline.joining is None and not baseline.learns_from_unlabeled and whole.learns_from_unlabeled


@pytest.mark.parametrize(
    ("settings", "images", "expected"),
    [
        ({}, 2901, [200] * 14 + [101]),  # the paper's
        ({"share": 0.5}, 2901, [200] * 7 + [51]),
        ({"step_size": 3}, 7, [3, 3, 1]),
        ({"step_size": 10}, 7, [7]),  # K larger than what there is
        ({"selection": "random", "step_size": 4}, 8, [4, 4]),
        ({}, 0, []),
    ],
)
def test_steps(settings, images, expected):
    assert Popcorn(LABELS, **settings).joining.plan(images) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"consistency_weight": -1}, "factor of a term must not be negative, got -1"),
        ({"selection": "best"}, "selection must be one of"),
        ({"similarity": "iou"}, "similarity must be one of mse, dice, got 'iou'"),
        ({"step_size": 0}, "step_size must be at least 1"),
        ({"step_epochs": 0}, "step_epochs must be at least 1"),
        ({"neighbors": 0}, "neighbors must be at least 1"),
        ({"share": 0}, "share must be above 0"),
        ({"share": 1.5}, "share must be above 0"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        Popcorn(LABELS, **settings)
