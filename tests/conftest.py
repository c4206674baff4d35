"""Small data sets, networks and trainers that several tests share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import MeanDice, MeanIoUHandler, from_engine
from monai.transforms import Compose, Lambdad, RandFlipd, RandGaussianNoised
from torch import Tensor, nn

from common.data import PairedBatches, PairedLoader
from common.label_space import LabelSpace
from common.transforms import ToMasksd

torch.set_num_threads(1)


class TinyNetwork(nn.Module):
    """Two convolutions with batch norm and dropout, split into features and head as ``common.networks.BasicUNet``."""

    def __init__(self, outputs: int, channels: int = 4, dropout: float = 0.2) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.LeakyReLU(0.1), nn.Dropout(dropout)
        )
        self.head = nn.Conv2d(channels, outputs, 1)

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        features = self.body(x)
        return (features, self.head(features)) if return_features else self.head(features)


def named(values: np.ndarray, name: str) -> MetaTensor:
    return MetaTensor(torch.from_numpy(values.astype(np.float32)), meta={"filename_or_obj": name})


def random_items(labels: LabelSpace, number: int, kind: str, size: int, label_key: str) -> list[dict]:
    """Random images with file names, whose labels hold every class."""
    rng = np.random.default_rng([number, size])
    items = []
    for index in range(number):
        name = f"{kind}{index}.png"
        label = rng.integers(0, 2, (labels.num_classes, size, size))
        if not labels.multilabel:
            label = rng.integers(0, labels.num_classes + 1, (1, size, size))
        items.append({"image": named(rng.normal(size=(1, size, size)), name), label_key: named(label, name)})
    return items


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
def make_dataset() -> Callable[..., Dataset]:
    """``make_dataset(labels, number, kind, size, label_key)``: random images, augmented by flips and noise."""

    def make(
        labels: LabelSpace, number: int = 4, kind: str = "labeled", size: int = 8, label_key: str = "label"
    ) -> Dataset:
        keys = ["image", label_key]
        transform = Compose(
            [
                Lambdad(keys, lambda x: x.clone(), allow_missing_keys=True),
                RandFlipd(keys, prob=0.5, spatial_axis=0, allow_missing_keys=True),
                RandGaussianNoised("image", prob=1.0, std=0.1),
            ]
        )
        return Dataset(random_items(labels, number, kind, size, label_key), transform)

    return make


@pytest.fixture
def make_trainer(make_dataset, tiny_network) -> Callable[..., SupervisedTrainer]:
    """``make_trainer(method, handlers, epochs, iterations, **options)``: MONAI's trainer of a tiny network.

    ``handlers`` is a function of the network, the optimizer, the scheduler and the loader, in this order.
    """

    def make(
        method, handlers=lambda *_: [], epochs: int = 2, iterations: int = 3, seed: int = 0, **options
    ) -> SupervisedTrainer:
        torch.manual_seed(seed)
        labels = method.labels
        batches = PairedBatches(
            make_dataset(labels), make_dataset(labels, 5, "unlabeled", label_key="truth"), labels, 2, 2
        )
        loader = PairedLoader(batches, iterations)
        network = tiny_network(labels.num_outputs)
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=epochs,
            train_data_loader=loader,
            network=network,
            optimizer=optimizer,
            loss_function=labels.cross_entropy,
            iteration_update=method,
            train_handlers=handlers(network, optimizer, scheduler, loader),
            decollate=False,
            **options,
        )
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: scheduler.step())
        return trainer

    return make


@pytest.fixture
def make_evaluator(make_dataset) -> Callable[..., SupervisedEvaluator]:
    """``make_evaluator(network, labels, handlers, number)``: MONAI's evaluator with the scores of the bundles."""

    def make(
        network: nn.Module, labels: LabelSpace, handlers: list | None = None, number: int = 3
    ) -> SupervisedEvaluator:
        pair = from_engine(["pred", "label"])
        return SupervisedEvaluator(
            device=torch.device("cpu"),
            val_data_loader=DataLoader(Dataset(make_dataset(labels, number, "case").data), batch_size=2),
            network=network,
            postprocessing=ToMasksd(labels),
            key_val_metric={"val_mean_iou": MeanIoUHandler(output_transform=pair)},
            additional_metrics={"val_mean_dice": MeanDice(output_transform=pair)},
            val_handlers=handlers,
        )

    return make
