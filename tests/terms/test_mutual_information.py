"""The mutual information of two views against loops over pixels in float64 and by hand, and what it is good for."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from monai.transforms.utils import create_translate
from torch import nn

from common.label_space import LabelSpace
from common.methods import Step
from common.terms import MutualInformation
from common.terms.mutual_information import correlated, joint, mutual_information
from common.views import Affine, Chain, CutOut, Elastic, Flip, Geometry, IntensityJitter, Strong, Weak

SPACES = {
    "multi-label": LabelSpace(["lung", "heart"]),
    "multi-class": LabelSpace(["lung", "heart"], "multiclass"),
    "one class": LabelSpace(["lesion"]),
    "one of two": LabelSpace(["lesion"], "multiclass"),
}


@pytest.fixture(params=SPACES)
def space(request) -> LabelSpace:
    return SPACES[request.param]


def random_probabilities(space, size, number=2, seed=0):
    rng = np.random.default_rng(seed)
    if space.multilabel:
        return rng.random((number, space.num_classes, *size))
    return np.moveaxis(rng.dirichlet([0.5] * space.num_outputs, (number, *size)), -1, 1)


def plain_information(joint):
    """I of one joint distribution, in loops."""
    joint = (joint + joint.T) / 2
    total = 0.0
    for c, d in np.ndindex(*joint.shape):
        if joint[c, d] > 0:
            total += joint[c, d] * math.log(joint[c, d] / (joint[c].sum() * joint[:, d].sum()))
    return total


def plain_joints(space, here, there, inside, reach):
    """For each displacement the joint distribution of each variable, pixel by pixel."""
    size = here.shape[2:]
    for t in itertools.product(range(-reach, reach + 1), repeat=len(size)):
        found, pairs = 0.0, 0
        for b, *u in np.ndindex(len(here), *size):
            v = tuple(np.add(u, t))
            if any(not 0 <= place < side for place, side in zip(v, size, strict=True)) or not inside[(b, 0, *v)]:
                continue
            p, q = here[(b, slice(None), *u)], there[(b, slice(None), *v)]
            if space.multilabel:
                found = found + np.stack([np.outer([1 - x, x], [1 - y, y]) for x, y in zip(p, q, strict=True)])
            else:
                found = found + np.outer(p, q)[None]
            pairs += 1
        yield found / max(pairs, 1)


def plain_term(space, here, there, inside, reach):
    joints = plain_joints(space, here, there, inside, reach)
    return -np.mean([np.mean([plain_information(each) for each in variables]) for variables in joints])


# ---- the joint distribution and its information


@pytest.mark.parametrize(("size", "reach"), [((6, 5), 0), ((6, 5), 1), ((5, 7), 2), ((4, 3, 5), 1), ((3, 4, 3), 2)])
def test_equals_plain_loops(space, size, reach):
    here, there = (random_probabilities(space, size, seed=seed) for seed in (0, 1))
    inside = np.random.default_rng(2).random((2, 1, *size)) < 0.7
    tensors = [torch.from_numpy(each) for each in (here, there, inside.astype(float))]
    found = joint(space, *tensors, reach)
    expected = list(plain_joints(space, here, there, inside, reach))
    assert found.shape[3:] == (2 * reach + 1,) * len(size)
    np.testing.assert_allclose(found.flatten(3).movedim(-1, 0), np.stack(expected), rtol=1e-10)
    value = -mutual_information(found).mean().item()
    assert value == pytest.approx(plain_term(space, here, there, inside, reach), rel=1e-8)


def information_of(rows):
    return mutual_information(torch.tensor(rows, dtype=torch.float64)[None]).item()


def test_information_by_hand():
    assert information_of([[0.5, 0], [0, 0.5]]) == pytest.approx(math.log(2))  # one says all about the other
    assert information_of([[0, 0.5], [0.5, 0]]) == pytest.approx(math.log(2))  # also when it says the opposite
    assert information_of([[1 / 3, 0, 0], [0, 1 / 3, 0], [0, 0, 1 / 3]]) == pytest.approx(math.log(3))
    assert information_of([[0.25, 0.25], [0.25, 0.25]]) == pytest.approx(0, abs=1e-12)  # nothing
    assert information_of([[0.49, 0.21], [0.21, 0.09]]) == pytest.approx(0, abs=1e-12)  # independent, of 0.7 and 0.3
    assert information_of([[1, 0], [0, 0]]) == pytest.approx(0, abs=1e-9)  # one class alone
    entropy = -0.9 * math.log(0.9) - 0.1 * math.log(0.1)
    assert information_of([[0.9, 0], [0, 0.1]]) == pytest.approx(entropy)  # rare classes say less
    # (P + P^T) / 2 is [[0.5, 0.2], [0.2, 0.1]]
    expected = 0.5 * math.log(0.5 / 0.49) + 0.4 * math.log(0.2 / 0.21) + 0.1 * math.log(0.1 / 0.09)
    assert information_of([[0.5, 0.4], [0, 0.1]]) == pytest.approx(expected)


def test_displaced_by_hand():
    """Stripes of two classes: the same at 0, the opposite one pixel further across, ln 2 at every displacement."""
    space, stripes = SPACES["one of two"], torch.zeros(1, 2, 4, 6, dtype=torch.float64)
    stripes[:, 0, ::2] = stripes[:, 1, 1::2] = 1
    ones = torch.ones(1, 1, 4, 6, dtype=torch.float64)
    found = joint(space, stripes, stripes, ones, 1)
    assert found[0, :, :, 1, 1].tolist() == [[0.5, 0], [0, 0.5]]
    third, rest = pytest.approx(1 / 3), pytest.approx(2 / 3)  # three pairs of rows, from 0 to 1, 1 to 2 and 2 to 3
    assert [found[0, 0, 0, 2, 0].item(), found[0, 1, 1, 0, 2].item()] == [0, 0]
    assert [found[0, 0, 1, 2, 1].item(), found[0, 1, 0, 2, 1].item()] == [rest, third]
    assert [found[0, 0, 1, 0, 0].item(), found[0, 1, 0, 0, 0].item()] == [third, rest]
    torch.testing.assert_close(mutual_information(found), torch.full((1, 3, 3), math.log(2), dtype=torch.float64))


def test_it_lies_between_0_and_ln_k_and_ignores_names_and_order(space):
    here, there = (torch.from_numpy(random_probabilities(space, (8, 8), seed=seed)) for seed in (0, 1))
    ones = torch.ones(2, 1, 8, 8, dtype=torch.float64)
    found = mutual_information(joint(space, here, there, ones, 1))
    assert (found > 0).all() and (found < math.log(2 if space.multilabel else space.num_outputs)).all()
    names = list(range(space.num_outputs))[::-1]
    renamed = mutual_information(joint(space, here[:, names], there[:, names], ones, 1))
    torch.testing.assert_close(renamed.mean(0), found.mean(0))
    swapped = mutual_information(joint(space, there, here, ones, 1))  # then the displacement is the opposite one
    torch.testing.assert_close(swapped, found.flip(1, 2))


def test_gradients_go_through_both_views(space):
    here, there = (torch.from_numpy(random_probabilities(space, (4, 3), seed=seed)) for seed in (0, 1))
    inside = (torch.rand(2, 1, 4, 3, generator=torch.Generator().manual_seed(0)) < 0.7).double()

    def term(one, other):
        return mutual_information(joint(space, one, other, inside, 1)).mean()

    assert torch.autograd.gradcheck(term, [each.requires_grad_() for each in (here, there)])


def test_pixels_that_do_not_count_change_nothing(space):
    here, there = (torch.from_numpy(random_probabilities(space, (5, 6), seed=seed)) for seed in (0, 1))
    inside = torch.ones(2, 1, 5, 6, dtype=torch.float64)
    inside[:, :, 3:, 2:] = 0
    other = torch.where(inside > 0, there, 1 - there)
    one, two = (joint(space, here, each, inside, 1) for each in (there, other))
    assert torch.equal(one, two)
    assert (joint(space, here, there, 0 * inside, 1) == 0).all()


def test_a_volume_of_equal_planes_is_like_a_plane():
    one, other = (torch.rand(2, 3, 1, 5, 6, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    volumes = [plane[:, :, :, None].expand(-1, -1, -1, 4, -1, -1) for plane in (one, other)]
    found = correlated(*volumes, 1)
    pairs = torch.tensor([3.0, 4.0, 3.0]).view(3, 1, 1)  # of planes, for each displacement across
    torch.testing.assert_close(found, correlated(one, other, 1)[:, :, :, None] * pairs)


# ---- the term


class Linear(nn.Module):
    """Outputs a x + b of the image's channels, pixel by pixel."""

    def __init__(self, a=1.5, b=0.3) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(a)), nn.Parameter(torch.tensor(b))

    def forward(self, image):
        return self.a * image + self.b * torch.arange(image.shape[1]).view(-1, *[1] * (image.ndim - 2))


def batch_of(space, size=(8, 6)):
    rng = np.random.default_rng(5)
    image = torch.from_numpy(rng.normal(size=(2, space.num_outputs, *size))).float()
    return {"labeled": {"image": image[:1] + 1}, "unlabeled": {"image": image}}


def term_of(space, network, batch, iteration=1, **settings):
    return MutualInformation(**settings)(Step(space, network, batch, iteration))


def plain_outputs(space, image):
    logits = 1.5 * image.double().numpy() + 0.3 * np.arange(image.shape[1]).reshape(-1, *[1] * (image.ndim - 2))
    if space.multilabel:
        return 1 / (1 + np.exp(-logits))
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


@pytest.mark.parametrize("size", [(8, 6), (4, 6, 5)])
def test_the_other_view_is_moved_back(space, size):
    """Linear looks at each pixel alone, so that a flipped image's probabilities, flipped back, are the image's."""
    batch = batch_of(space, size)
    found = term_of(space, Linear(), batch, view=Flip([0], 1.0))
    p = plain_outputs(space, batch["unlabeled"]["image"])
    assert found.item() == pytest.approx(plain_term(space, p, p, np.ones((2, 1, *size)), 1), rel=1e-4)


class Upwards(nn.Module):
    """Outputs at a pixel are the image's values at the one after it along the first axis: not what a flip keeps."""

    def forward(self, image):
        return image.roll(-1, 2)


class Shift(Geometry):
    def motion(self, number, size, draw, device):
        return np.stack([create_translate(len(size), [2, *[0] * (len(size) - 1)])] * number), None


def test_pixels_from_outside_do_not_count(space):
    """The moved image is the rows from the third on; moved back, its first two rows are not known."""
    batch = batch_of(space)
    found = term_of(space, Upwards(), batch, view=Shift())
    image = batch["unlabeled"]["image"]
    probability = lambda logits: space.probabilities(logits.double()).numpy()  # noqa: E731
    moved = image[:, :, [2, 3, 4, 5, 6, 7, 7, 7]].roll(-1, 2)
    there = np.zeros(image.shape)
    there[:, :, 2:] = probability(moved)[:, :, :6]
    inside = np.zeros((2, 1, 8, 6))
    inside[:, :, 2:] = 1
    expected = plain_term(space, probability(image.roll(-1, 2)), there, inside, 1)
    assert found.item() == pytest.approx(expected, rel=1e-3)


def test_images_that_leave_altogether_have_no_information(space):
    view = Shift()
    view.motion = lambda number, size, draw, device: (np.stack([create_translate(2, [99, 0])] * number), None)
    assert term_of(space, Linear(), batch_of(space), view=view).item() == 0


def test_turned_views_tell_as_much_as_what_is_left_of_them(multiclass):
    """A smooth image, turned back and forth: nearly the information of the image with itself."""
    grid = torch.stack(torch.meshgrid(*[torch.linspace(-4, 4, 32)] * 2, indexing="ij"))
    image = torch.cat([grid, grid[:1] - grid[1:]])[None]
    batch = {"labeled": {"image": image}, "unlabeled": {"image": image}}
    whole = term_of(multiclass, Linear(2.0, 0.0), batch, view=Weak())
    turned = term_of(multiclass, Linear(2.0, 0.0), batch, view=Affine(rotate=20, translate=0.1))
    assert whole.item() < -0.5 and turned.item() == pytest.approx(whole.item(), rel=0.15)


def test_a_network_learns_to_tell_two_kinds_of_pixels_apart():
    """Dark and bright noise, half each: from hardly anything to nearly ln 2, without a label."""
    space, draw = SPACES["one of two"], torch.Generator().manual_seed(0)
    image = (torch.rand(2, 1, 16, 16, generator=draw) < 0.5).float() + 0.1 * torch.randn(2, 1, 16, 16, generator=draw)
    batch = {"labeled": {"image": image}, "unlabeled": {"image": image}}
    torch.manual_seed(0)
    network = nn.Conv2d(1, 2, 1)
    optimizer, found = torch.optim.Adam(network.parameters(), 0.2), []
    for iteration in range(40):
        loss = term_of(space, network, batch, iteration, displacement=0, view=Flip([0, 1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[0] > -0.1 and found[-1] == pytest.approx(-math.log(2), abs=0.1)


def test_the_gradient_is_that_of_both_passes():
    space, step = SPACES["multi-class"], 1e-2
    batch, network = batch_of(space), Linear()
    term_of(space, network, batch, view=Affine(rotate=20)).backward()
    values = [term_of(space, Linear(1.5 + sign * step), batch, view=Affine(rotate=20)).item() for sign in (1, -1)]
    assert network.a.grad.item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-2)


def test_mixed_precision():
    space = SPACES["multi-class"]
    batch = batch_of(space)
    expected = term_of(space, Linear(), batch)
    with torch.autocast("cpu", torch.bfloat16):
        found = term_of(space, Linear(), batch)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_sure_outputs_have_finite_gradients(space):
    network = Linear(1e4)
    value = term_of(space, network, batch_of(space), view=Flip([0], 1.0))
    value.backward()
    assert value.isfinite() and network.a.grad.isfinite() and network.b.grad.isfinite()


def test_labelled_images_are_not_looked_at(multiclass):
    batch, seen, network = batch_of(multiclass), [], Linear()
    network.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    term_of(multiclass, network, batch)
    assert len(seen) == 2 and seen[0] is batch["unlabeled"]["image"] and not torch.equal(*seen)


def test_what_it_needs_and_refuses(multiclass):
    term = MutualInformation()
    assert (term.needs.unlabeled, term.needs.weak_gradients, term.needs.features) == (1, True, False)
    assert term.displacement == 1 and [type(view) for view in term.view.views] == [Affine, IntensityJitter]
    with pytest.raises(ValueError, match="factor of a term must not be negative"):
        MutualInformation(-1)
    for displacement in (-1, 0.5):
        with pytest.raises(ValueError, match=f"whole number of pixels from 0 on, got {displacement}"):
            MutualInformation(displacement=displacement)
    batch = batch_of(multiclass)
    with pytest.raises(ValueError, match="must be below the images' sides of 8 x 6 pixels, got 6: lower it"):
        term_of(multiclass, Linear(), batch, displacement=6)
    for view in (Elastic(), CutOut(), Strong(), Chain([Flip([0]), CutOut()])):
        with pytest.raises(ValueError, match="cannot be undone: take a view that"):
            term_of(multiclass, Linear(), batch, view=view)
    assert term_of(multiclass, Linear(), batch, view=Strong(cutout=0)).isfinite()
