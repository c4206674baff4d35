"""The network is MONAI's, and gives its features."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.networks.nets import BasicUNet as StockBasicUNet
from torch import nn
from torch._dynamo.utils import counters
from torch.nn.parallel import DistributedDataParallel

from common.networks import BasicUNet, unwrapped
from common.views import FeatureDropout

FEATURES = (4, 4, 6, 8, 8, 5)


def pair(spatial_dims=2, out_channels=3, **options):
    torch.manual_seed(0)
    ours = BasicUNet(spatial_dims, 1, out_channels, FEATURES, **options)
    stock = StockBasicUNet(
        spatial_dims,
        1,
        out_channels,
        FEATURES,
        norm=options.get("norm", "batch"),
        upsample=options.get("upsample", "nontrainable"),
    )
    return ours, stock


def image(spatial_dims=2, side=32):
    return torch.randn(2, 1, *[side] * spatial_dims)


@pytest.mark.parametrize("options", [{}, {"norm": "instance", "upsample": "deconv"}], ids=["defaults", "others"])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_parameters_are_those_of_the_stock_class(spatial_dims, options):
    ours, stock = pair(spatial_dims, **options)
    mine, theirs = ours.state_dict(), stock.state_dict()
    assert list(mine) == list(theirs)
    assert all(mine[name].shape == theirs[name].shape for name in mine)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("direction", ["from stock", "to stock"])
def test_outputs_are_equal_after_loading(spatial_dims, direction):
    ours, stock = pair(spatial_dims)
    source, target = (stock, ours) if direction == "from stock" else (ours, stock)
    x = image(spatial_dims, 32 if spatial_dims == 2 else 16)
    with torch.no_grad():
        source.train()(x)  # moves the batch norm's statistics, which must come along
        target.load_state_dict(source.state_dict())
        for network in (ours, stock):
            network.eval()
        torch.testing.assert_close(ours(x), stock(x), rtol=0, atol=0)
        for network in (ours, stock):
            network.train()
        torch.testing.assert_close(ours(x), stock(x), rtol=0, atol=0)


@pytest.mark.parametrize("side", [32, 35], ids=["multiple of 16", "odd"])
def test_features_and_head_make_up_the_network(side):
    network, _ = pair()
    network.eval()
    x = image(side=side)
    with torch.no_grad():
        features = network.forward_features(x)
        assert features.shape == (2, FEATURES[-1], side, side)
        outputs = network.forward_head(features)
        assert outputs.shape == (2, 3, side, side)
        torch.testing.assert_close(outputs, network(x), rtol=0, atol=0)
        seen = network(x, seen=True)
        torch.testing.assert_close(seen.features, features, rtol=0, atol=0)
        torch.testing.assert_close(seen.outputs, outputs, rtol=0, atol=0)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_bottleneck_is_that_of_the_deepest_level(spatial_dims):
    network, _ = pair(spatial_dims)
    network.eval()
    x = image(spatial_dims)
    with torch.no_grad():
        levels = network.forward_encoder(x)
        sides = [level.shape[-1] for level in levels]
        assert sides == [32, 16, 8, 4, 2] and [level.shape[1] for level in levels] == [4, 4, 6, 8, 8]
        assert torch.equal(network(x, seen=True).bottleneck, levels[-1])
        assert torch.equal(network(x, bottleneck_only=True), levels[-1])
        assert torch.equal(network.forward_decoder(levels), network.forward_features(x))


def test_without_the_decoder_nothing_of_it_is_computed():
    network, _ = pair()
    network.upcat_4.register_forward_hook(lambda *_: pytest.fail("the decoder was asked"))
    network(image(), bottleneck_only=True)


def test_perturbed_features_are_what_the_decoder_gets():
    network, _ = pair()
    network.eval()
    x, asked = image(), []

    def perturb(levels):
        asked.append(levels)
        return tuple(0.5 * level for level in levels)

    with torch.no_grad():
        seen, plain = network(x, seen=True, perturb=perturb), network(x, seen=True)
        assert len(asked) == 1 and len(asked[0]) == 5
        halves = tuple(0.5 * level for level in network.forward_encoder(x))
        expected = network.forward_decoder(halves)
        assert torch.equal(seen.features, expected)
        assert torch.equal(seen.outputs, network.forward_head(expected))
        assert torch.equal(seen.bottleneck, halves[-1])
        assert (seen.outputs - plain.outputs).abs().max() > 1e-3
        assert torch.equal(network(x, perturb=perturb), seen.outputs)


def test_the_network_inside_wrappers():
    network, _ = pair()
    assert unwrapped(network) is network
    assert unwrapped(torch.compile(network, backend="eager")) is network


def test_the_head_looks_at_each_pixel_alone():
    network, _ = pair()
    features = torch.randn(1, FEATURES[-1], 6, 7)
    order = torch.randperm(42)
    mixed = features.flatten(2)[..., order].reshape(features.shape)
    outputs = network.forward_head(features).flatten(2)[..., order]
    torch.testing.assert_close(network.forward_head(mixed).flatten(2), outputs)


def test_defaults_of_the_paper():
    network = BasicUNet()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 18
    assert not any(isinstance(module, nn.ConvTranspose2d) for module in network.modules())
    assert any(getattr(module, "mode", None) in ("bilinear", "linear") for module in network.modules())


def test_xavier_bounds_every_convolution():
    torch.manual_seed(0)
    network = BasicUNet(features=FEATURES)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            area = math.prod(module.kernel_size)
            bound = math.sqrt(6 / (area * (module.in_channels + module.out_channels)))
            assert module.weight.abs().max() <= bound
            assert module.bias.abs().max() == 0
    weight = network.down_4.convs.conv_1.conv.weight  # enough numbers to see the uniform rule's spread
    bound = math.sqrt(6 / (9 * (8 + 8)))
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_wrappers_in_any_order_are_taken_off():
    network = nn.Linear(1, 1)

    def distributed(module):
        wrapper = object.__new__(DistributedDataParallel)  # a real one needs a group of processes
        nn.Module.__init__(wrapper)
        wrapper.module = module
        return wrapper

    compiled = torch.compile
    assert unwrapped(network) is network
    for wrapped in (
        distributed(network),
        compiled(network),
        compiled(distributed(network)),
        distributed(compiled(network)),
    ):
        assert unwrapped(wrapped) is network


@pytest.mark.parametrize("size", [(32, 48), (32, 16, 48)])
def test_even_sides_are_not_padded(monkeypatch, size):
    network, x = BasicUNet(len(size), 1, 2, FEATURES), torch.rand(1, 1, *size)
    expected = StockBasicUNet.forward(network.eval(), x)
    monkeypatch.setattr(nn.functional, "pad", None)
    assert torch.equal(network(x), expected)


@pytest.mark.parametrize("size", [(40, 50), (17, 33)])
def test_odd_sides_are_padded_as_in_monai(size):
    network, x = BasicUNet(2, 1, 2, FEATURES).eval(), torch.rand(1, 1, *size)
    assert torch.equal(network(x), StockBasicUNet.forward(network, x))


@pytest.mark.parametrize("size", [(32, 48), (32, 16, 48), (35, 37)])
def test_levels_are_the_decoder_s_from_coarse_to_fine_without_the_last(size):
    network = BasicUNet(len(size), 1, 2, FEATURES).eval()
    x, given = torch.rand(1, 1, *size), []
    for upcat in (network.upcat_4, network.upcat_3, network.upcat_2):
        upcat.convs.register_forward_hook(lambda module, inputs, output: given.append(output))
    with torch.no_grad():
        seen, plain = network(x, seen=True, levels=True), network(x, seen=True)
    assert len(seen.levels) == 3 and plain.levels is None
    assert all(torch.equal(level, expected) for level, expected in zip(seen.levels, given, strict=False))
    sides = [[side // 2**power for side in size] for power in (3, 2, 1)]
    assert [list(level.shape[2:]) for level in seen.levels] == sides
    assert tuple(level.shape[1] for level in seen.levels) == network.level_widths == (8, 6, 4)
    for mine, theirs in zip(seen[:3], plain[:3], strict=True):
        assert torch.equal(mine, theirs)


def test_levels_are_those_of_perturbed_features():
    network, x = BasicUNet(2, 1, 2, FEATURES).eval(), image()
    with torch.no_grad():
        halved = network(x, seen=True, levels=True, perturb=lambda levels: tuple(0.5 * level for level in levels))
        plain = network(x, seen=True, levels=True)
    assert all(not torch.equal(one, other) for one, other in zip(halved.levels, plain.levels, strict=True))


def test_a_compiled_network_is_three_graphs_whatever_the_perturbation_draws():
    network = BasicUNet(2, 1, 3, FEATURES).eval()
    torch.compiler.reset()
    counters.clear()
    compiled, x = torch.compile(network, backend="eager", dynamic=False), torch.rand(2, 1, 16, 16)

    def perturb(seed):
        return FeatureDropout()(x, np.random.default_rng(seed)).perturb

    for seed in range(3):
        torch.testing.assert_close(compiled(x, perturb=perturb(seed)), network(x, perturb=perturb(seed)))
        assert torch.equal(compiled(x), network(x))
    assert counters["stats"]["unique_graphs"] == 3  # the whole, the encoder and the decoder
