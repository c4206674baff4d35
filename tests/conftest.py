"""Small data sets, networks and trainers that several tests share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, MetaTensor
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import MeanDice, MeanIoUHandler, from_engine
from torch import Tensor, nn

from common.batches import Batches, Loader
from common.data import DecodedImages
from common.label_space import LabelSpace
from common.networks import Seen
from common.transforms import ToMasksd
from common.views import Chain, Flip, IntensityJitter

torch.set_num_threads(1)


class TinyNetwork(nn.Module):
    """Two convolutions with batch norm and dropout, split into features and head as ``common.networks.BasicUNet``.

    What it gives as the levels of its decoder are its features, pooled.
    """

    def __init__(self, outputs: int, channels: int = 4, dropout: float = 0.2, dimensions: int = 2) -> None:
        super().__init__()
        convolution, norm = (nn.Conv2d, nn.BatchNorm2d) if dimensions == 2 else (nn.Conv3d, nn.BatchNorm3d)
        self.body = nn.Sequential(
            convolution(1, channels, 3, padding=1), norm(channels), nn.LeakyReLU(0.1), nn.Dropout(dropout)
        )
        self.final_conv = convolution(channels, outputs, 1)
        self.level_widths = (channels, channels)
        self.pool = nn.functional.avg_pool2d if dimensions == 2 else nn.functional.avg_pool3d

    def forward_features(self, x: Tensor) -> Tensor:
        return self.body(x)

    def forward(
        self, x: Tensor, seen: bool = False, perturb=None, bottleneck_only: bool = False, levels: bool = False
    ) -> Tensor | Seen:
        features = self.forward_features(x)
        if bottleneck_only:
            return features
        if perturb is not None:
            (features,) = perturb((features,))
        outputs = self.final_conv(features)
        coarse = tuple(self.pool(features, size) for size in (4, 2)) if levels else None
        return Seen(outputs, features, features, coarse) if seen else outputs


def named(values: np.ndarray, name: str) -> MetaTensor:
    return MetaTensor(torch.from_numpy(values.astype(np.float32)), meta={"filename_or_obj": name})


class Arrays:
    """A transform that gives the arrays of a name, as if it had read them from a file."""

    def __init__(self, arrays: dict[str, dict[str, np.ndarray]]) -> None:
        self.arrays = arrays

    def __call__(self, item: dict) -> dict:
        return {key: named(array, item["image"]) for key, array in self.arrays[item["image"]].items()}


def store_of(arrays: dict[str, dict[str, np.ndarray]], **options) -> DecodedImages:
    """Decoded images of arrays ``C H W [D]`` by name and key."""
    items = [{"image": name, **{key: name for key in content if key != "image"}} for name, content in arrays.items()]
    return DecodedImages(items, Arrays(arrays), progress=False, **options)


@pytest.fixture
def multilabel() -> LabelSpace:
    return LabelSpace(["lung", "heart"], "multilabel")


@pytest.fixture
def multiclass() -> LabelSpace:
    return LabelSpace(["lung", "heart"], "multiclass")


@pytest.fixture(params=["multilabel", "multiclass"])
def labels(request) -> LabelSpace:
    """Both kinds of label space, one after the other."""
    return LabelSpace(["lung", "heart"], request.param)


@pytest.fixture
def tiny_network() -> Callable[..., TinyNetwork]:
    return TinyNetwork


@pytest.fixture
def store() -> Callable[..., DecodedImages]:
    """``store({name: {key: array}})``: decoded images of arrays."""
    return store_of


@pytest.fixture
def make_store() -> Callable[..., DecodedImages]:
    """``make_store(labels, number, kind, size, label_key)``: random images in [0, 1] whose labels hold every class."""

    def make(
        labels: LabelSpace, number: int = 4, kind: str = "labeled", size: tuple = (16, 16), label_key: str = "label"
    ) -> DecodedImages:
        rng = np.random.default_rng([number, len(kind), *size])
        arrays = {}
        for index in range(number):
            label = rng.integers(0, 2, (labels.num_classes, *size))
            if not labels.multilabel:
                label = rng.integers(0, labels.num_classes + 1, (1, *size))
            arrays[f"{kind}{index}.png"] = {"image": rng.random((1, *size)), label_key: label}
        return store_of(arrays)

    return make


@pytest.fixture
def make_batches(make_store) -> Callable[..., Batches]:
    """``make_batches(method, size, **options)``: batches of random images, flipped, with noise."""

    def make(method, size: tuple = (16, 16), **options) -> Batches:
        weak = Chain([Flip([0]), IntensityJitter(prob=1.0)])
        labeled = make_store(method.labels, size=size)
        unlabeled = make_store(method.labels, 5, "unlabeled", size, "truth")
        settings = {"labeled_batch": 2, "unlabeled_batch": 2, "weak": weak, **options}
        return Batches(labeled, unlabeled, method.labels, method, **settings)

    return make


@pytest.fixture
def make_trainer(make_batches, tiny_network) -> Callable[..., SupervisedTrainer]:
    """``make_trainer(method, handlers, epochs, iterations, **options)``: MONAI's trainer of a tiny network.

    ``handlers`` is a function of the network, the optimizer, the scheduler and the loader, in this order.
    """

    def make(
        method,
        handlers=lambda *_: [],
        epochs: int = 2,
        iterations: int = 3,
        seed: int = 0,
        batches: Batches | None = None,
        **options,
    ) -> SupervisedTrainer:
        torch.manual_seed(seed)
        batches = batches or make_batches(method)
        loader = Loader(batches, iterations)
        network = tiny_network(method.labels.num_outputs, dimensions=len(batches.patch_size))
        optimizer = torch.optim.Adam(method.prepare(network), lr=0.01)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=epochs,
            train_data_loader=loader,
            network=network,
            optimizer=optimizer,
            loss_function=method.loss,
            iteration_update=method,
            train_handlers=handlers(network, optimizer, scheduler, loader),
            decollate=False,
            **options,
        )
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: scheduler.step())
        return trainer

    return make


@pytest.fixture
def make_evaluator(make_store) -> Callable[..., SupervisedEvaluator]:
    """``make_evaluator(network, labels, handlers, number)``: MONAI's evaluator with the scores of the bundles."""

    def make(
        network: nn.Module, labels: LabelSpace, handlers: list | None = None, number: int = 3
    ) -> SupervisedEvaluator:
        pair = from_engine(["pred", "label"])
        return SupervisedEvaluator(
            device=torch.device("cpu"),
            val_data_loader=DataLoader(make_store(labels, number, "case"), batch_size=2),
            network=network,
            postprocessing=ToMasksd(labels),
            key_val_metric={"val_mean_iou": MeanIoUHandler(output_transform=pair)},
            additional_metrics={"val_mean_dice": MeanDice(output_transform=pair)},
            val_handlers=handlers,
        )

    return make
