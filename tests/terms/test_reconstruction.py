"""The reconstruction of regions against plain loops and by hand, and its head."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from common.label_space import LabelSpace
from common.methods import Step
from common.networks import BasicUNet, Seen
from common.terms import Reconstruction
from common.terms.reconstruction import foreground, squared_error

LABELS = LabelSpace(["lesion"])


class GivenFeatures(nn.Module):
    """A network whose features and outputs are given, for labelled images and then for unlabelled ones."""

    def __init__(self, *given: tuple[np.ndarray, np.ndarray]) -> None:
        super().__init__()
        self.conv_0, self.final_conv = nn.Conv3d(2, 3, 1), nn.Conv3d(3, given[0][1].shape[1], 1)
        self.given = [tuple(torch.tensor(part, dtype=torch.float32) for part in parts) for parts in given]
        self.calls = 0

    def forward_features(self, image):
        raise AssertionError("one pass is enough")

    def forward(self, image, seen, perturb=None):
        self.calls += 1
        features, outputs = self.given[self.calls - 1]
        return Seen(outputs, features)


def probability_of_any_class(labels, logits):
    if labels.multilabel:
        return 1 - math.prod(1 - 1 / (1 + math.exp(-value)) for value in logits)
    return 1 - math.exp(logits[0]) / sum(math.exp(value) for value in logits)


def plain_error(labels, features, outputs, image, weight, bias):
    """Both regions' squared errors in float64 loops: sums, and how many numbers a region has."""
    total = count = 0
    for b, x, y, z in np.ndindex(len(image), *image.shape[2:]):
        p = probability_of_any_class(labels, outputs[b, :, x, y, z].tolist())
        for region, attention in enumerate((p, 1 - p)):
            for c in range(image.shape[1]):
                row = region * image.shape[1] + c
                made = bias[row] + sum(weight[row, k] * features[b, k, x, y, z] for k in range(features.shape[1]))
                total += (made - attention * image[b, c, x, y, z]) ** 2
                count += region
    return total, count


def test_equals_plain_loops(labels):
    rng = np.random.default_rng(0)
    given = [(rng.normal(size=(n, 3, 2, 3, 2)), rng.normal(size=(n, labels.num_outputs, 2, 3, 2))) for n in (4, 2)]
    images = [rng.normal(size=(n, 2, 2, 3, 2)) for n in (4, 2)]
    network, term = GivenFeatures(*given), Reconstruction(0.7, seed=3)
    term.prepare(network, labels)
    nn.init.normal_(term.head.bias, generator=torch.Generator().manual_seed(0))
    batch = {
        part: {"image": torch.tensor(values, dtype=torch.float32)}
        for part, values in zip(("labeled", "unlabeled"), images, strict=True)
    }
    found = term(Step(labels, network, batch))
    weight, bias = term.head.weight.detach().numpy().reshape(4, 3), term.head.bias.detach().numpy()
    parts = [plain_error(labels, *given[i], images[i], weight, bias) for i in (0, 1)]
    expected = sum(total for total, _ in parts) / sum(count for _, count in parts)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    assert network.calls == 2


def test_error_by_hand():
    image, attention = torch.full((1, 1, 2, 2, 2), 2.0), torch.full((1, 1, 2, 2, 2), 0.25)
    perfect = torch.cat([torch.full_like(image, 0.5), torch.full_like(image, 1.5)], 1)
    assert squared_error(perfect, image, attention).item() == 0
    assert squared_error(perfect + 1, image, attention).item() == pytest.approx(2 * 8)
    assert squared_error(torch.zeros_like(perfect), image, attention).item() == pytest.approx((0.25 + 2.25) * 8)


def test_foreground_by_hand(multilabel, multiclass):
    logits = torch.log(torch.tensor([1.0, 3.0])).view(1, 2, 1, 1).requires_grad_()
    probability = foreground(multilabel, logits)  # 1/2 and 3/4 that may overlap
    assert probability.item() == pytest.approx(1 - 1 / 2 * 1 / 4)
    assert not probability.requires_grad
    logits = torch.log(torch.tensor([1.0, 2.0, 5.0])).view(1, 3, 1, 1)
    probability = foreground(multiclass, logits)
    assert probability.item() == pytest.approx(7 / 8) and probability.shape == (1, 1, 1, 1)


def unet(channels=1, dimensions=2, outputs=1):
    torch.manual_seed(0)
    return BasicUNet(dimensions, channels, outputs, (4, 4, 4, 4, 8, 4))


def batch_of(channels=1):
    rng = torch.Generator().manual_seed(1)
    return {part: {"image": torch.randn(2, channels, 16, 16, generator=rng)} for part in ("labeled", "unlabeled")}


def test_it_changes_features_and_its_head_but_not_the_classifier():
    network, term = unet(), Reconstruction()
    term.prepare(network, LABELS)
    term(Step(LABELS, network, batch_of())).backward()
    assert all(parameter.grad is None for parameter in network.final_conv.parameters())
    assert network.conv_0.conv_0.conv.weight.grad.abs().sum() > 0
    assert term.head.weight.grad.abs().sum() > 0 and term.head.bias.grad.abs().sum() > 0


def test_mixed_precision_is_close():
    network, term = unet(), Reconstruction()
    term.prepare(network, LABELS)
    expected = term(Step(LABELS, network, batch_of()))
    with torch.autocast("cpu", torch.bfloat16):
        found = term(Step(LABELS, network, batch_of()))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=0.05)


@pytest.mark.parametrize(("dimensions", "channels"), [(2, 1), (3, 2)])
def test_head_fits_the_network_and_leaves_draws_alone(dimensions, channels):
    network, term = unet(channels, dimensions), Reconstruction(seed=5)
    state = torch.get_rng_state()
    term.prepare(network, LABELS)
    torch.testing.assert_close(torch.get_rng_state(), state)
    assert term.head.weight.shape == (2 * channels, 4, *[1] * dimensions)
    assert (term.head.bias == 0).all()
    assert term.head.weight.abs().max() <= math.sqrt(6 / (4 + 2 * channels))  # Xavier's bound
    head = term.head
    term.prepare(network, LABELS)
    assert term.head is head  # asking again makes no other head
    torch.rand(3)
    twin, other = Reconstruction(seed=5), Reconstruction(seed=6)
    twin.prepare(network, LABELS)
    other.prepare(network, LABELS)
    assert torch.equal(twin.head.weight, head.weight)
    assert not torch.equal(other.head.weight, head.weight)


def test_a_network_without_a_final_conv_is_refused():
    with pytest.raises(ValueError, match=r"must have a final_conv.*got a Linear: use common"):
        Reconstruction().prepare(nn.Linear(2, 2), LABELS)


def test_what_it_needs_and_refuses():
    needs = Reconstruction().needs
    assert (needs.unlabeled, needs.features, needs.weak_gradients) == (1, True, True)
    with pytest.raises(ValueError, match="factor of a term must not be negative"):
        Reconstruction(-1)
