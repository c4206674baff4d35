"""Outputs that follow a movement, against scipy's interpolation in float64 and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.transforms.utils import create_translate
from scipy.ndimage import map_coordinates
from torch import nn

from common.draws import generator
from common.label_space import LabelSpace
from common.methods import Step
from common.terms import Equivariance
from common.views import Affine, Elastic, Flip, Geometry, Intensity

LABELS = LabelSpace(["lesion"])


class Sharpness(nn.Module):
    """A network that gives p = the sigmoid (or softmax) of a x + b, pixel by pixel."""

    def __init__(self, a=1.5, b=0.3) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(a)), nn.Parameter(torch.tensor(b))

    def forward(self, image):
        return self.a * image + self.b


class Across(nn.Module):
    """Turns the image over: what no deformation goes along with."""

    def forward(self, image):
        return image.flip(2)


class Shift(Geometry):
    def motion(self, number, size, draw, device):
        return np.stack([create_translate(len(size), [2, 0])] * number), None


def batch_of(channels=1, size=(9, 12, 8)):
    rng = np.random.default_rng(0)
    return {
        part: {"image": torch.from_numpy(rng.normal(size=(number, channels, *size))).float()}
        for part, number in (("labeled", 4), ("unlabeled", 2))
    }


def term_of(labels, network, batch, view=None, iteration=4, seed=5):
    return Equivariance(1.0, view)(Step(labels, network, batch, iteration, seed))


def plain_moved(maps, places):
    """scipy's linear interpolation at every pixel's source; the border's values go on."""
    out = np.zeros(maps.shape)
    for b, c in np.ndindex(*maps.shape[:2]):
        out[b, c] = map_coordinates(maps[b, c], places[b], order=1, mode="nearest")
    return out


def places_of(view, part, batch, seed=5, iteration=4):
    """Where each pixel of the moved images comes from, in pixels."""
    image = batch[part]["image"]
    number, size = len(image), image.shape[2:]
    draw = generator(seed, iteration, f"{type(view).__name__} {list(batch).index(part) + 1}")
    matrix, field = view.motion(number, size, draw, torch.device("cpu"))
    centre = ((np.array(size) - 1) / 2).reshape(-1, *[1] * len(size))
    linear = np.einsum("bij,j...->bi...", matrix[:, :-1, :-1], np.indices(size) - centre)
    shift = matrix[:, :-1, -1].reshape(number, -1, *[1] * len(size))
    return linear + shift + centre + (0 if field is None else field.double().numpy())


def probabilities(labels, logits):
    if labels.multilabel:
        return 1 / (1 + np.exp(-logits))
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


@pytest.mark.parametrize("view", [Elastic(3, 6), Affine(rotate=20, scale=0.1, translate=0.1)])
@pytest.mark.parametrize("size", [(9, 12, 8), (13, 10)])
def test_equals_numpy(labels, view, size):
    batch = batch_of(labels.num_outputs, size)
    found = term_of(labels, Sharpness(), batch, view)
    total = count = pixels = 0
    for part in batch:
        image, places = batch[part]["image"].double().numpy(), places_of(view, part, batch)
        difference = plain_moved(probabilities(labels, 1.5 * image + 0.3), places)
        difference = difference - probabilities(labels, 1.5 * plain_moved(image, places) + 0.3)
        for b in range(len(image)):
            limits = np.array(size).reshape(-1, *[1] * len(size)) - 0.5
            inside = ((places[b] >= -0.5) & (places[b] <= limits)).all(0)
            total += (difference[b][:, inside] ** 2).sum()
            count += inside.sum() * labels.num_outputs
            pixels += inside.size
    assert 0.5 * pixels < count / labels.num_outputs < pixels
    assert found.item() == pytest.approx(total / count, rel=1e-3)


def test_by_hand():
    """A row of four pixels, 0 and 1 in turn, moved by one pixel two further: the flipped output says the opposite."""
    image = torch.tensor([[0.0, 100, 0, 100, 0, 100]]).view(1, 1, 6, 1).expand(1, 1, 6, 4)
    batch = {"labeled": {"image": image}, "unlabeled": {"image": image}}
    # p(X) = 1, 1/2, 1, ... from the flip, moved: the first four rows are known, 1, 1/2, 1, 1/2; of the moved image the
    # last pixel goes on: 0, 100, 0, 100, 100, 100, over which the flip gives 1, 1, 1, 1/2, 1, 1/2
    found = term_of(LABELS, Across(), batch, Shift())
    assert found.item() == pytest.approx((0 + 0.25 + 0 + 0) / 4)


def test_networks_that_follow_the_movement_are_consistent():
    for view in (Elastic(), Affine(rotate=30), Flip((0, 1))):
        assert term_of(LABELS, Sharpness(a=0.0), batch_of(), view).item() == pytest.approx(0, abs=1e-10)
        assert term_of(LABELS, Across(), batch_of(), Elastic(3, 6)).item() > 1e-3
    assert term_of(LABELS, Sharpness(), batch_of(), Flip((0, 1))).item() == pytest.approx(0, abs=1e-10)
    assert term_of(LABELS, Across(), batch_of(), Elastic(displacement=0)).item() == pytest.approx(0, abs=1e-6)


def test_gradients_go_through_both_outputs():
    network, step, view = Sharpness(), 1e-2, Elastic(3, 6)
    term_of(LABELS, network, batch_of(), view).backward()
    values = [term_of(LABELS, Sharpness(1.5 + sign * step), batch_of(), view).item() for sign in (1, -1)]
    assert network.a.grad.item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-2)


def test_labelled_and_unlabelled_images_move_in_their_own_ways():
    batch = batch_of(size=(16, 16))
    batch["unlabeled"]["image"] = batch["labeled"]["image"].clone()
    seen = []
    network = Sharpness()
    network.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    term_of(LABELS, network, batch)
    moved = [image for image in seen if all(image is not part["image"] for part in batch.values())]
    assert len(seen) == 4 and len(moved) == 2
    assert not torch.equal(*moved)


def test_mixed_precision():
    batch = batch_of(size=(16, 16))
    expected = term_of(LABELS, Sharpness(), batch)
    with torch.autocast("cpu", torch.bfloat16):
        found = term_of(LABELS, Sharpness(), batch)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=0.05)


def test_probabilities_are_compared_in_full_precision():
    """Also where outputs are in half precision."""

    class Darker(Intensity):
        def changed(self, image, draw, values):
            return image - 0.25

    class Half(nn.Module):
        def forward(self, image):
            return image.bfloat16()

    image = torch.linspace(0.25, 0.75, 64).view(1, 1, 8, 8)
    batch = {part: {"image": image} for part in ("labeled", "unlabeled")}
    here, there = (torch.sigmoid(each.bfloat16().double()) for each in (image, image - 0.25))
    found = term_of(LABELS, Half(), batch, Darker())
    assert found.item() == pytest.approx((here - there).square().mean().item(), rel=1e-5)


def test_images_that_leave_altogether_have_no_loss():
    view = Shift()
    view.motion = lambda number, size, draw, device: (np.stack([create_translate(2, [99, 0])] * number), None)
    assert term_of(LABELS, Sharpness(), batch_of(size=(8, 8)), view).item() == 0


def test_what_it_needs_and_refuses():
    needs = Equivariance().needs
    assert (needs.unlabeled, needs.weak_gradients, needs.features) == (1, True, False)
    assert type(Equivariance().view) is Elastic
    with pytest.raises(ValueError, match="factor of a term must not be negative"):
        Equivariance(-1)
