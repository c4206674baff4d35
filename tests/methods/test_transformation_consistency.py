"""Elastic deformations against scipy's, the consistency against NumPy, and draws that are the iteration's alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import nn

from common.label_space import LabelSpace
from common.methods import Popcorn, TransformationConsistency
from common.methods.transformation_consistency import comes_from_inside, deformed, random_displacement
from common.networks import BasicUNet

LABELS = LabelSpace(["lesion"])
SIZE = (16, 16, 16)
SIZES = [(16, 16, 16), (7, 12, 9), (48, 16), (5, 8)]


def unet():
    torch.manual_seed(0)
    return BasicUNet(3, 1, 1, (4, 4, 4, 4, 8, 4), norm="batch")


def batch_of(unlabeled=True):
    rng = torch.Generator().manual_seed(1)
    image = torch.randn(4, 1, *SIZE, generator=rng)
    batch = {"labeled": {"image": image, "label": (image > 1).float()}}
    if unlabeled:
        batch["unlabeled"] = {"image": torch.randn(2, 1, *SIZE, generator=rng)}
    return batch


def plain_deformed(maps, field):
    """scipy's linear interpolation at every voxel's source; the border's values go on."""
    out = np.zeros(maps.shape)
    for b, c in np.ndindex(*maps.shape[:2]):
        places = np.indices(maps.shape[2:]) + field[b]
        out[b, c] = map_coordinates(maps[b, c].astype(np.float64), places, order=1, mode="nearest")
    return out


@pytest.mark.parametrize("size", SIZES)
def test_deformed_equals_scipy(size):
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(2, 3, *size)).astype(np.float32)
    field = rng.uniform(-3, 3, (2, len(size), *size)).astype(np.float32)
    found = deformed(torch.tensor(maps), torch.tensor(field)).numpy()
    np.testing.assert_allclose(found, plain_deformed(maps, field), atol=2e-5)


@pytest.mark.parametrize("size", SIZES)
def test_no_displacement_is_the_identity(size):
    maps, field = torch.randn(2, 2, *size), torch.zeros(2, len(size), *size)
    exact = all(side & (side - 1) == 0 for side in size)  # other sides have no exact inverse in binary
    torch.testing.assert_close(deformed(maps, field), maps, rtol=0, atol=0 if exact else 2e-5)
    assert comes_from_inside(field).all()


def test_whole_voxels_are_a_shift():
    maps, field = torch.randn(1, 1, 8, 8, 8), torch.zeros(1, 3, 8, 8, 8)
    field[:, 1] = 2  # values come from two voxels further along the second axis
    found, inside = deformed(maps, field), comes_from_inside(field)
    assert torch.equal(found[:, :, :, :6], maps[:, :, :, 2:])
    assert torch.equal(found[:, :, :, 6:], maps[:, :, :, 7:].expand(-1, -1, -1, 2, -1))
    assert inside[:, :, :, :6].all() and not inside[:, :, :, 6:].any()
    assert inside.shape == (1, 1, 8, 8, 8)


def test_half_a_voxel_is_the_mean_of_two():
    maps, field = torch.arange(8.0).square().view(1, 1, 8, 1).expand(1, 1, 8, 8), torch.zeros(1, 2, 8, 8)
    field[:, 0] = 0.5
    expected = torch.tensor([(i**2 + (i + 1) ** 2) / 2 for i in range(7)])
    torch.testing.assert_close(deformed(maps, field)[0, 0, :7, 3], expected)


@pytest.mark.parametrize("size", [(33, 40, 16), (64, 20)])
def test_displacement_equals_scipy_between_the_drawn_points(size):
    found = random_displacement(2, size, 4, 8, np.random.default_rng(3)).numpy()
    points = [(side - 1) // 8 + 1 for side in size]
    coarse = np.random.default_rng(3).uniform(-4, 4, (2, len(size), *points))
    axes = [np.linspace(0, number - 1, side) for number, side in zip(points, size, strict=True)]
    places = np.stack(np.meshgrid(*axes, indexing="ij"))
    for b, axis in np.ndindex(2, len(size)):
        np.testing.assert_allclose(found[b, axis], map_coordinates(coarse[b, axis], places, order=1), atol=1e-5)
    assert 2 < np.abs(found).max() <= 4


@pytest.mark.parametrize("size", [(16, 16, 16), (17, 18, 40), (64, 64)])
def test_displacement_keeps_the_order_of_voxels(size):
    for seed in range(5):
        field = random_displacement(2, size, 7.4, 15, np.random.default_rng(seed))
        for axis in range(len(size)):
            places = field[:, axis] + torch.arange(size[axis]).view(-1, *[1] * (len(size) - axis - 1))
            assert (places.diff(dim=1 + axis) > 0).all()


class Sharpness(nn.Module):
    """A network that gives p = the sigmoid of a x + b, pixel by pixel."""

    def __init__(self, a=1.5, b=0.3) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(a)), nn.Parameter(torch.tensor(b))

    def forward(self, image):
        return self.a * image + self.b


@pytest.mark.parametrize("unlabeled", [True, False])
@pytest.mark.parametrize("classes", [1, 2])
def test_terms_equal_numpy(unlabeled, classes):
    rng = np.random.default_rng(0)
    labels = LabelSpace(["lesion", "other"][:classes])
    batch = {"labeled": {"image": rng.normal(size=(4, classes, 9, 12, 8)).astype(np.float32)}}
    batch["labeled"]["label"] = rng.integers(0, 2, (4, classes, 9, 12, 8)).astype(np.float32)
    if unlabeled:
        batch["unlabeled"] = {"image": rng.normal(size=(2, classes, 9, 12, 8)).astype(np.float32)}
    method = TransformationConsistency(labels, consistency_weight=0.7, ramp_up=10, displacement=3, spacing=6, seed=5)
    given = {kind: {key: torch.tensor(value) for key, value in part.items()} for kind, part in batch.items()}
    terms, _ = method.terms(Sharpness(), given, 4)
    total = count = 0
    for place, kind in enumerate(batch):
        image = batch[kind]["image"]
        draw = np.random.default_rng([5, 30, 4, 0, place])
        field = random_displacement(len(image), image.shape[2:], 3, 6, draw).numpy()
        change = plain_deformed(1 / (1 + np.exp(-(1.5 * image + 0.3))), field)
        change -= 1 / (1 + np.exp(-(1.5 * plain_deformed(image, field) + 0.3)))
        for b in range(len(image)):
            places = np.indices(image.shape[2:]) + field[b]
            limits = np.array(image.shape[2:]).reshape(3, 1, 1, 1) - 1
            inside = ((places >= 0) & (places <= limits)).all(0)
            total, count = total + (change[b][:, inside] ** 2).sum(), count + inside.sum() * classes
    assert 0 < count < sum(part["image"].size for part in batch.values())
    expected = 0.7 * math.exp(-5 * 0.6**2) * total / count
    assert terms["consistency"].item() == pytest.approx(expected, rel=1e-3)
    baseline = Popcorn(labels).pair_loss(Sharpness()(given["labeled"]["image"]), given["labeled"])
    assert terms["dice"].item() == pytest.approx(baseline.item(), rel=1e-6)


def test_networks_that_follow_the_deformation_are_consistent():
    method = TransformationConsistency(LABELS, ramp_up=0)
    constant = method.terms(Sharpness(a=0.0), batch_of(), 1)[0]["consistency"].item()
    assert constant == pytest.approx(0, abs=1e-10)
    shifted = method.terms(Shift(), batch_of(), 1)[0]["consistency"].item()
    assert shifted > 1e-3
    still = TransformationConsistency(LABELS, ramp_up=0, displacement=0)
    assert still.terms(Shift(), batch_of(), 1)[0]["consistency"].item() == 0


class Shift(nn.Module):
    """Turns the image over: what no deformation goes along with."""

    def forward(self, image):
        return image.flip(2)


def test_gradients_go_through_both_outputs():
    network, method = Sharpness(), TransformationConsistency(LABELS, ramp_up=0, displacement=3)
    batch = batch_of(unlabeled=False)
    method.terms(network, batch, 2)[0]["consistency"].backward()
    gradient, step = network.a.grad.item(), 1e-2
    values = [method.terms(Sharpness(1.5 + sign * step), batch, 2)[0]["consistency"].item() for sign in (1, -1)]
    assert gradient == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-2)


def test_draws_are_the_iteration_s_and_the_seed_s():
    image = torch.zeros(2, 1, *SIZE)
    method = TransformationConsistency(LABELS)
    state = torch.get_rng_state()
    field = method.field(image, 7, "labeled")
    torch.testing.assert_close(torch.get_rng_state(), state)
    method.field(image, 8, "labeled")
    assert torch.equal(TransformationConsistency(LABELS).field(image, 7, "labeled"), field)
    others = [
        method.field(image, 8, "labeled"),
        method.field(image, 7, "unlabeled"),
        TransformationConsistency(LABELS, seed=1).field(image, 7, "labeled"),
    ]
    assert not any(torch.equal(other, field) for other in others)
    assert not torch.equal(field[0], field[1])  # each image has its own
    assert field.abs().max() <= 4


def test_places_are_exact_under_mixed_precision():
    maps = torch.randn(1, 1, 64, 64)
    field = random_displacement(1, (64, 64), 4, 16, np.random.default_rng(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, inside = deformed(maps, field), comes_from_inside(field)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, deformed(maps, field), rtol=0, atol=0)
    torch.testing.assert_close(inside, comes_from_inside(field))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms, _ = TransformationConsistency(LABELS, ramp_up=0).terms(unet(), batch_of(), 1)
    plain, _ = TransformationConsistency(LABELS, ramp_up=0).terms(unet(), batch_of(), 1)
    assert terms["consistency"].item() == pytest.approx(plain["consistency"].item(), rel=0.1)


def train(method, network, optimizer, iterations, first=0):
    losses = []
    for iteration in range(first, first + iterations):
        optimizer.zero_grad()
        terms, _ = method.terms(network, batch_of(), iteration + 1)
        sum(terms.values()).backward()
        optimizer.step()
        losses.append({name: term.item() for name, term in terms.items()})
    return losses


def test_training_lowers_the_loss_and_the_term_makes_consistent():
    found = {}
    for weight in (1e-6, 50.0):
        method, network = TransformationConsistency(LABELS, consistency_weight=weight, ramp_up=0), unet()
        losses = train(method, network, torch.optim.Adam(method.parameters(network), 0.02), 12)
        assert sum(losses[-1].values()) < sum(losses[0].values())
        found[weight] = losses[-1]["consistency"] / weight
    assert found[50.0] < found[1e-6]


def test_resumed_equals_uninterrupted():
    def start():
        network, method = unet(), TransformationConsistency(LABELS, ramp_up=3)
        return method, network, torch.optim.Adam(method.parameters(network), 0.01)

    whole, parts, resumed = start(), start(), start()
    train(*whole, 4)
    train(*parts, 2)
    for item, other in zip(resumed, parts, strict=True):
        item.load_state_dict(other.state_dict())
    train(*resumed, 2, first=2)
    for expected, found in zip(whole[1].parameters(), resumed[1].parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_nobody_joins_and_without_the_term_it_is_the_baseline():
    method = TransformationConsistency(LABELS, consistency_weight=0, step_size=3, neighbors=2)
    assert method.steps(11) == []
    assert method.unlabeled_batch > 0
    assert method.state_dict() == {}
    assert method.terms(unet(), batch_of(), 1)[0].keys() == {"dice"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"consistency_weight": -1}, "consistency_weight must not be negative"),
        ({"ramp_up": -1}, "must not be negative"),
        ({"displacement": -1}, "must not be negative"),
        ({"seed": -1}, "must not be negative"),
        ({"displacement": 9}, "twice the displacement of 9 voxels, got 16.0"),
        ({"displacement": 0, "spacing": 0.5}, "spacing must be at least 1"),
        ({"step_size": 0}, "step_size must be at least 1"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        TransformationConsistency(LABELS, **settings)
