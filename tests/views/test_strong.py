"""Strong views: what is drawn, what stays as it was, and that labels follow the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.transforms import strong
from common.transforms.strong import StrongView

SHAPES = [(2, 1, 32, 24), (2, 1, 20, 16, 12)]


def images(shape, seed=0):
    """Smooth images in [0, 1]."""
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    pool = {4: torch.nn.functional.avg_pool2d, 5: torch.nn.functional.avg_pool3d}[len(shape)]
    return pool(noise, 5, stride=1, padding=2, count_include_pad=False)


@pytest.mark.parametrize("shape", SHAPES)
def test_same_seed_and_iteration_give_the_same_view(shape):
    image = images(shape)
    first, change = StrongView(seed=3)(image, 7)
    again, same = StrongView(seed=3)(image, 7)
    assert torch.equal(first, again) and torch.equal(change.matrix, same.matrix) and torch.equal(change.box, same.box)
    assert not torch.equal(first, StrongView(seed=3)(image, 8)[0])
    assert not torch.equal(first, StrongView(seed=4)(image, 7)[0])
    assert type(first) is torch.Tensor and first.shape == image.shape and first.dtype == image.dtype


@pytest.mark.parametrize("shape", SHAPES)
def test_views_stay_in_range_and_finite(shape):
    image = images(shape)
    for iteration in range(40):
        view, _ = StrongView(operations=3)(image, iteration)
        assert view.min() >= 0 and view.max() <= 1 and view.isfinite().all()


@pytest.mark.parametrize("shape", SHAPES)
def test_labels_follow_the_image(shape):
    """With geometry alone, an image made of its label's values stays in step with the changed label."""
    label = (images(shape) > 0.5).float()
    view = StrongView(operations=2)
    view.names = list(strong.GEOMETRY)
    agreements = []
    for iteration in range(20):
        image, change = view(label, iteration)
        changed, weight = change.of_label(label, torch.ones_like(label))
        assert set(changed.unique().tolist()) <= {0.0, 1.0}
        counts = (weight > 0) & ~change.cut(shape[2:])
        agreements.append(((image > 0.5) == (changed > 0.5))[counts].float().mean().item())
        assert (image[change.cut(shape[2:]).expand_as(image)] == strong.GREY).all()
    assert min(agreements) > 0.9 and np.mean(agreements) > 0.95


@pytest.mark.parametrize("shape", SHAPES)
def test_without_geometry_labels_stay_where_they_are(shape):
    label = (images(shape) > 0.5).float()
    for iteration in range(10):
        _, change = StrongView(geometry=False, cutout=0, operations=4)(images(shape), iteration)
        changed, weight = change.of_label(label, torch.ones_like(label))
        assert torch.equal(changed, label) and weight.min() == 1


def test_magnitude_and_cutout_of_zero_change_nothing_but_the_range():
    image = images(SHAPES[0])
    view = StrongView(operations=5, magnitude=0, cutout=0)
    view.names = [name for name in view.names if name not in ("autocontrast", "sharpness")]  # these have no strength 0
    found, _ = view(image, 1)
    torch.testing.assert_close(found, image, atol=2e-4, rtol=0)


def test_boxes_are_as_large_as_said():
    sides = []
    for iteration in range(200):
        _, change = StrongView(cutout=0.5)(images(SHAPES[0]), iteration)
        assert (change.box[..., 0] >= 0).all()
        assert (change.box[..., 1] <= torch.tensor(SHAPES[0][2:])).all()
        sides.append((change.box[..., 1] - change.box[..., 0]).float() / torch.tensor(SHAPES[0][2:]))
    sides = torch.cat(sides)
    assert sides.max() <= 0.5 + 0.5 / 24 and sides.max() > 0.45
    assert sides.mean() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("name", strong.INTENSITY)
def test_every_operation_does_what_its_name_says(name):
    image = images((1, 1, 64, 64))
    view = StrongView(operations=1, cutout=0)
    view.names = [name]
    found = [view(image, iteration)[0] for iteration in range(10)]
    changes = [(other - image).abs().mean().item() for other in found]
    if name == "identity":
        assert max(changes) < 1e-4
    else:
        assert max(changes) > 0.005
    if name == "blur":
        steps = [other.diff(dim=-1).abs().mean() for other in (image, *found)]
        assert min(steps[1:]) < 0.8 * steps[0]
    if name == "autocontrast":
        assert found[0].min() < 1e-4 and found[0].max() > 1 - 1e-4


@pytest.mark.parametrize(
    "option", [{"operations": -1}, {"magnitude": 1.5}, {"cutout": -0.1}, {"cutout_label": "nothing"}]
)
def test_settings_out_of_range_are_refused(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        StrongView(**option)


@pytest.mark.parametrize("name", [*strong.INTENSITY, *strong.GEOMETRY])
def test_views_are_the_same_in_mixed_precision(name):
    image = images((2, 1, 64, 64))
    view = StrongView()
    view.names = [name]
    expected, _ = view(image, 1)
    with torch.autocast("cpu", torch.bfloat16):
        found, change = view(image, 1)
        change.of_label(image, image)
    assert torch.equal(found, expected)
