"""A network of slices looks at volumes of other sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.transforms import Resize

from common.inferers import ResizedSlices

SIZE = (32, 48)


def volumes(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def network(tiny_network):
    torch.manual_seed(0)
    return tiny_network(3).eval()


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def plain(inputs, network):
    """One slice after the other, each resized, seen and resized back."""
    resize, found = Resize(SIZE, mode="bilinear", anti_aliasing=True), []
    for volume in inputs:
        slices = []
        for index in range(volume.shape[-1]):
            output = network(resize(volume[..., index])[None].as_subclass(torch.Tensor))
            slices.append(F.interpolate(output, volume.shape[1:3], mode="bilinear")[0])
        found.append(torch.stack(slices, -1))
    return torch.stack(found)


@pytest.mark.parametrize("size", [(50, 70), (20, 100), (24, 30)])  # larger, smaller, and one of each
@pytest.mark.parametrize("depth", [1, 5])
def test_equals_one_slice_after_the_other(network, size, depth):
    inputs = volumes(2, 1, *size, depth)
    outputs = ResizedSlices(SIZE)(inputs, network)
    assert outputs.shape == (2, 3, *size, depth)
    torch.testing.assert_close(outputs, plain(inputs, network), rtol=1e-4, atol=1e-5)


def test_a_volume_of_the_network_s_size_is_seen_as_it_is(network):
    inputs = volumes(2, 1, *SIZE, 4)
    assert torch.equal(ResizedSlices(SIZE)(inputs, lambda slices: slices), inputs)
    expected = torch.stack([network(inputs[..., index]) for index in range(4)], -1)
    torch.testing.assert_close(ResizedSlices(SIZE)(inputs, network), expected)


def test_the_network_sees_slices_of_its_size(network):
    seen = []

    def watched(slices):
        seen.append(tuple(slices.shape))
        return network(slices)

    ResizedSlices(SIZE, batch=2)(volumes(1, 1, 50, 70, 5), watched)
    assert seen == [(2, 1, *SIZE), (2, 1, *SIZE), (1, 1, *SIZE)]


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_any_number_of_slices_in_one_pass_gives_the_same(network, batch):
    inputs = volumes(2, 1, 50, 40, 5)
    outputs = ResizedSlices(SIZE, batch=batch)(inputs, network)
    torch.testing.assert_close(outputs, ResizedSlices(SIZE)(inputs, network))


def test_one_inferer_takes_volumes_of_several_sizes(network):
    inferer = ResizedSlices(SIZE)
    for index, shape in enumerate([(50, 70, 5), (*SIZE, 2), (24, 30, 3), (50, 70, 5)]):
        inputs = volumes(1, 1, *shape, seed=index)
        torch.testing.assert_close(inferer(inputs, network), plain(inputs, network), rtol=1e-4, atol=1e-5)


def test_half_precision_and_meta_data_make_no_difference(network):
    inputs = volumes(1, 1, 50, 70, 3).half().float()
    expected = ResizedSlices(SIZE)(inputs, network)
    halves = ResizedSlices(SIZE)(inputs.half(), network)
    assert halves.dtype == torch.float32
    torch.testing.assert_close(halves, expected)
    of_file = ResizedSlices(SIZE)(MetaTensor(inputs, meta={"filename_or_obj": "a.nii.gz"}), network)
    assert type(of_file) is torch.Tensor
    torch.testing.assert_close(of_file, expected)


def test_outputs_are_resized_in_32_bits_where_the_network_gives_16():
    network = torch.nn.Conv2d(1, 3, 3, padding=1)
    volume = torch.rand(1, 1, 40, 52, 2)
    half = ResizedSlices((32, 32))(volume, lambda image: network(image).bfloat16())
    assert half.dtype == torch.float32
    expected = ResizedSlices((32, 32))(volume, lambda image: network(image).bfloat16().float())
    torch.testing.assert_close(half, expected)
