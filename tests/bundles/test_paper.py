"""The papers' own protocols: what paper.json says reaches what is built, and it trains."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from pydoc import locate
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from bundle_runs import FEATURES, ROOT, configs, options, run_here
from monai.bundle import ConfigParser
from torch.optim.lr_scheduler import LRScheduler

from common.batches import Batches
from common.grid.settings import configuration, own_method
from common.losses import CrossEntropy, Dice
from common.settings import keywords
from common.weights import Discriminator

BUNDLES = sorted(path.parents[1].name for path in ROOT.glob("bundles/*/configs/paper.json"))
TINY = {"network_def#features": FEATURES, "epochs": 2, "iterations": 1, "val_interval": 2}
VOLUMES = {"spacing": [2.0, 2.0, 2.0], "patch_size": [32, 32, 32], "labeled_batch": 2, "supervised_epochs": 1}
SIZES = {"ms_popcorn": VOLUMES}


def overlay(bundle: str) -> dict[str, Any]:
    return json.loads((ROOT / configs("paper", bundle=bundle)[0]).read_text())


def unknown(given: dict[str, Any], known: dict[str, Any]) -> Iterator[str]:
    """Ids that name no value of a configuration, and no keyword of a class in it: MONAI passes over such."""
    for key in given:
        *parents, last = key.split("#")
        inside = known
        for name in parents:
            inside = inside.get(name, {}) if isinstance(inside, dict) else {}
        target = locate(inside["_target_"]) if "_target_" in inside else None
        if last not in inside and (target is None or last not in keywords(target)):
            yield key


@pytest.mark.parametrize("bundle", BUNDLES)
def test_no_key_is_passed_over(bundle):
    train = json.loads((ROOT / configs("train", bundle=bundle)[0]).read_text())
    assert list(unknown(overlay(bundle), train)) == []
    wrong = {"learnin_rate": 1, "network_def#featurs": [], "lr_scheduler#powers": 0, "train#weak#view": []}
    assert list(unknown(wrong, train)) == list(wrong)


@pytest.mark.parametrize("bundle", BUNDLES)
def test_it_trains(bundle, data_of, tmp_path):
    size = SIZES.get(bundle, {"image_size": [32, 32]})
    settings = options(tmp_path, data_of(bundle), bundle, TINY, **size)
    run_here("training", configs("train", "paper", bundle=bundle), settings)
    assert np.isfinite(pd.read_csv(tmp_path / "train.csv")["loss"]).all()
    assert (tmp_path / "models" / "model.pt").is_file()


def test_the_baseline_of_the_protocol_trains(phantom, tmp_path):
    """A method that lacks keywords of the paper's is given as a whole, as pages say and grids do."""
    own = own_method("Supervised", configuration(ROOT / "bundles" / "jsrt_rpg", "train.json,paper.json"))
    assert own["method"].keys() == {"_target_", "labels", "seed", "joint"}
    run_here("training", configs("train", "paper"), options(tmp_path, phantom, tiny=TINY, image_size=[32, 32], **own))
    assert json.loads((tmp_path / "run.json").read_text())["method"] == "Supervised"


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


def test_rpg_on_radiographs(phantom, tmp_path):
    batches = check_rpg("jsrt_rpg", phantom, tmp_path, epochs=100, batch=(3, 2), side=448)
    # the whole first half, the labelled ones among them, without those for validation
    assert (len(batches.labeled), len(batches.unlabeled)) == (3, 12 - 5)


def test_rpg_on_oct(retouch_data, tmp_path):
    check_rpg("retouch_rpg", retouch_data, tmp_path, epochs=50, batch=(3, 5), side=224)


@pytest.mark.parametrize("size", [4, 5])
def test_a_pool_of_more_images_than_are_labelled_repeats_them(phantom, tmp_path, size):
    """Rows p = 4 and 5 of table 2 with 3 labelled images."""
    (batches,) = built("jsrt_rpg", phantom, tmp_path, "train#batches", labeled_batch=size, image_size=[64, 64])
    for iteration in range(5):
        drawn = Counter(batches[iteration]["labeled"]["name"])
        assert len(drawn) == 3 and sum(drawn.values()) == size
        assert max(drawn.values()) - min(drawn.values()) <= 1


def test_popcorn_on_brains(ms_data, tmp_path):
    """Kamraoui et al. 2021, section 3.3, with its 2901 unlabelled images."""
    ids = ("method", "optimizer", "lr_scheduler", "train#batches", "train#curriculum", "epochs", "keep_last")
    method, optimizer, scheduler, batches, curriculum, epochs, last = built("ms_popcorn", ms_data, tmp_path, *ids)
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


def test_segmatch_on_gliomas(lgg_data, tmp_path):
    """Cross-entropy on labels and on pseudo-labels (section 3.1, algorithm 1), a discriminator, a wide U-Net."""
    ids = ("method", "network_def", "optimizer", "lr_scheduler", "train#batches")
    method, network, optimizer, scheduler, batches = built("lgg_segmatch", lgg_data, tmp_path, *ids)
    term = method.terms["unsupervised"]
    assert isinstance(method.loss, CrossEntropy) and isinstance(term.loss, CrossEntropy)
    assert isinstance(term.weight, Discriminator)
    assert widths(network) == [64, 128, 256, 512, 1024, 64]
    assert isinstance(optimizer, torch.optim.Adam) and set(rates(scheduler, 100)) == {0.0001}
    assert [type(view).__name__ for view in batches.weak.views] == ["Flip", "Affine"]
    assert (batches.labeled_batch, batches.unlabeled_batch) == (16, 16)
