"""What each paper states of its protocol, in what paper.json makes at full size."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundle_runs import ROOT, configs, options
from monai.bundle import ConfigParser
from torch.optim.lr_scheduler import LRScheduler

from common.batches import Batches
from common.losses import CrossEntropy, Dice
from common.methods import Method
from common.weights import Discriminator


def built(bundle: str, data: Path, folder: Path, *ids: str, **changes: Any) -> list[Any]:
    """What the configuration with the paper's protocol makes at full size, by id."""
    parser = ConfigParser()
    parser.read_config(configs("train", "paper", bundle=bundle))
    parser.update(options(folder, data, bundle, {}, **changes))
    return [parser.get_parsed_content(name) for name in ids]


def rates(scheduler: LRScheduler, epochs: int) -> list[float]:
    """The learning rate in each epoch."""
    found = []
    for _ in range(epochs):
        found += scheduler.get_last_lr()
        scheduler.optimizer.step()
        scheduler.step()
    return found


def widths(network: torch.nn.Module) -> list[int]:
    """Channels of the encoder's levels from fine to coarse, and of the penultimate layer."""
    names = ("conv_0", "down_1.convs", "down_2.convs", "down_3.convs", "down_4.convs", "upcat_1.convs")
    return [network.get_submodule(f"{name}.conv_1.conv").out_channels for name in names]


def check_rpg(bundle: str, data: Path, folder: Path, epochs: int, batch: tuple[int, int], side: int) -> Batches:
    """Seibold et al. 2022, implementation details."""
    ids = ("method", "network_def", "optimizer", "lr_scheduler", "train#batches", "epochs", "val_interval")
    method, network, optimizer, scheduler, batches, *numbers = built(bundle, data, folder, *ids)
    source = method.terms["unsupervised"].source
    assert method.joint and (source.neighbors, source.reference_size, source.query_size) == (7000, 64, None)
    assert widths(network) == [64, 128, 256, 512, 1024, 64]
    assert isinstance(optimizer, torch.optim.Adam) and optimizer.defaults["weight_decay"] == 0.0005
    assert numbers == [epochs, 10] and set(rates(scheduler, epochs)) == {0.0005}
    assert (batches.labeled_batch, batches.unlabeled_batch) == batch
    images = [batches[0][part]["image"] for part in ("labeled", "unlabeled")]
    assert [tuple(image.shape) for image in images] == [(number, 1, side, side) for number in batch]
    assert [type(view).__name__ for view in batches.weak.views] == ["Flip", "Affine", "IntensityJitter"]
    assert source.background == (bundle != "jsrt_rpg")  # on OCT it is a class of the softmax anyway
    return batches


def rpg_on_radiographs(data: Path, folder: Path) -> None:
    batches = check_rpg("jsrt_rpg", data, folder, epochs=100, batch=(3, 2), side=448)
    # the whole first half, the labelled ones among them, without those for validation
    assert (len(batches.labeled), len(batches.unlabeled)) == (3, 12 - 5)


def rpg_on_oct(data: Path, folder: Path) -> None:
    check_rpg("retouch_rpg", data, folder, epochs=50, batch=(3, 5), side=224)


def popcorn_on_brains(data: Path, folder: Path) -> None:
    """Kamraoui et al. 2021, section 3.3, with its 2901 unlabelled images."""
    ids = ("method", "optimizer", "lr_scheduler", "train#batches", "train#curriculum", "epochs", "keep_last")
    method, optimizer, scheduler, batches, curriculum, epochs, last = built("ms_popcorn", data, folder, *ids)
    joining = method.joining
    assert (joining.step_size, joining.step_epochs, joining.neighbors, joining.share) == (200, 2, 5, 1)
    assert curriculum.start + len(joining.plan(2901)) * joining.step_epochs == epochs == 130
    assert isinstance(method.loss, Dice) and method.loss.per_image
    assert method.terms["consistency"].factor == 0.2
    assert isinstance(optimizer, torch.optim.Adam) and optimizer.defaults["betas"][0] == 0.9
    assert set(rates(scheduler, epochs)) == {0.0001}
    assert (batches.patch_size, batches.foreground, batches.labeled_share) == ((64, 64, 64), 0, None)
    assert [type(view).__name__ for view in batches.weak.views] == ["ImageQuality"]
    assert last


def segmatch_on_gliomas(data: Path, folder: Path) -> None:
    """Cross-entropy on labels and on pseudo-labels (section 3.1, algorithm 1), a discriminator, a wide U-Net."""
    ids = ("method", "network_def", "optimizer", "lr_scheduler", "train#batches")
    method, network, optimizer, scheduler, batches = built("lgg_segmatch", data, folder, *ids)
    term = method.terms["unsupervised"]
    assert isinstance(method.loss, CrossEntropy) and isinstance(term.loss, CrossEntropy)
    assert isinstance(term.weight, Discriminator)
    assert widths(network) == [64, 128, 256, 512, 1024, 64]
    assert isinstance(optimizer, torch.optim.Adam) and set(rates(scheduler, 100)) == {0.0001}
    assert [type(view).__name__ for view in batches.weak.views] == ["Flip", "Affine"]
    assert (batches.labeled_batch, batches.unlabeled_batch) == (16, 16)


def check_strong(method: Method) -> None:
    """UniMatch's colour jitter, blur and CutMix; a Gaussian of up to 2 pixels in half of the images of 256 pixels."""
    strong = method.terms["strong"].view.views[0]
    jitter, blur, mix = strong.views
    assert (jitter.gamma, jitter.contrast, jitter.noise, jitter.prob) == ((1, 1), 0.5, 0, 0.8)
    assert (blur.drawn_from, blur.numbers, blur.magnitude * 256 / 48, blur.box) == (["blur"], (0, 1), 2, [])
    assert (mix.prob, mix.area, method.terms["strong"].weight) == (0.5, (0.02, 0.4), method.terms["features"].weight)
    seen = strong(torch.rand(2, 1, 32, 32), np.random.default_rng(0)).image
    assert torch.isfinite(seen).all()


def unimatch_on_hearts(data: Path, folder: Path) -> None:
    """The released script for medical images: its loss is half of ours, which half the rate and twice the decay are."""
    ids = ("method", "optimizer", "lr_scheduler", "train#batches", "epochs", "iterations")
    method, optimizer, scheduler, batches, epochs, iterations = built("acdc_unimatch", data, folder, *ids)
    losses = [*method.loss.losses, method.terms["strong"].loss, method.terms["features"].loss]
    assert [type(loss) for loss in losses] == [CrossEntropy, Dice, Dice, Dice]
    assert all(loss.squared and loss.absent and loss.background and not loss.per_image for loss in losses[1:])
    assert method.joint
    check_strong(method)
    assert [optimizer.defaults[name] for name in ("lr", "momentum", "weight_decay")] == [0.005, 0.9, 0.0002]
    assert rates(scheduler, epochs)[75] == pytest.approx(0.005 * 0.5**0.9)
    assert (epochs * iterations, batches.labeled_batch, batches.unlabeled_batch) == (30000, 12, 12)


def rank_weighting_on_hearts(data: Path, folder: Path) -> None:
    """Howlader et al. 2024, eq. 1 and 5 to 7, sections 4.1, 4 and 5 of the supplement."""
    method, detector = built("acdc_rank_weighting", data, folder, "method", "train#detector")
    losses = [method.loss, *(term.loss for term in method.terms.values())]
    assert [(type(loss), loss.normalized) for loss in losses] == [(CrossEntropy, False)] * 3
    assert (method.unsupervised_weight, method.joint) == (0.4, True)
    check_strong(method)
    rank = method.given["added_weight"]
    assert (rank.k, rank.memory.size, rank.released, rank.reliable.threshold) == (5, 256, False, 0.95)
    assert detector.score == 0.85


STATED = {
    "jsrt_rpg": rpg_on_radiographs,
    "retouch_rpg": rpg_on_oct,
    "ms_popcorn": popcorn_on_brains,
    "lgg_segmatch": segmatch_on_gliomas,
    "acdc_unimatch": unimatch_on_hearts,
    "acdc_rank_weighting": rank_weighting_on_hearts,
}


@pytest.mark.parametrize("bundle", sorted(path.parents[1].name for path in ROOT.glob("bundles/*/configs/paper.json")))
def test_what_is_built_is_what_the_paper_states(bundle, data_of, tmp_path):
    STATED[bundle](data_of(bundle), tmp_path)


def test_half_the_rate_and_twice_the_decay_are_half_the_loss():
    ends = []
    for factor in (1, 2):
        weight = torch.ones(3, requires_grad=True, dtype=torch.float64)
        optimizer = torch.optim.SGD([weight], lr=0.01 / factor, momentum=0.9, weight_decay=0.0001 * factor)
        for _ in range(20):
            optimizer.zero_grad()
            (factor * ((weight - torch.arange(3)) ** 4).sum() / 2).backward()
            optimizer.step()
        ends.append(weight.detach())
    torch.testing.assert_close(*ends)


@pytest.mark.parametrize("size", [4, 5])
def test_a_pool_of_more_images_than_are_labelled_repeats_them(phantom, tmp_path, size):
    """Rows p = 4 and 5 of table 2 with 3 labelled images."""
    (batches,) = built("jsrt_rpg", phantom, tmp_path, "train#batches", labeled_batch=size, image_size=[64, 64])
    for iteration in range(5):
        drawn = Counter(batches[iteration]["labeled"]["name"])
        assert len(drawn) == 3 and sum(drawn.values()) == size
        assert max(drawn.values()) - min(drawn.values()) <= 1
