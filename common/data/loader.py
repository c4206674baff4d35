"""Pairs a stream of labelled images with a stream of unlabelled ones, as a function of the iteration's number."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import torch
from monai.data import list_data_collate
from monai.data.utils import worker_init_fn
from torch.utils.data import DataLoader, Dataset

from common.data.reference_pool import ReferencePool, class_presence
from common.label_space import LabelSpace
from common.ranks import rank, world_size

logger = logging.getLogger(__name__)

# Streams of random numbers that must not be the same although they share seed and iteration.
LABELED, UNLABELED, ORDER = 0, 1, 2


class PairedBatches(Dataset):
    """The batch of iteration t, whatever came before it.

    Which images an iteration sees, and how each is augmented, is drawn from (seed, iteration, rank, place in the batch)
    alone. So a run that is resumed at iteration t sees what the uninterrupted run saw, with any number of workers, and
    the position in the data is one number.

    Labelled images are drawn anew for every iteration such that every class occurs among them
    (:class:`~common.data.reference_pool.ReferencePool`); unlabelled images come in a new order in every pass.

    Args:
        labeled: labelled images, as a MONAI ``Dataset`` (``CacheDataset``) whose items hold ``image`` and ``label``.
        unlabeled: unlabelled images; ``None`` or an empty data set for batches of labelled images alone.
        labels: the label space.
        labeled_batch: number p of labelled images in a batch; the reference pool of RPG.
        unlabeled_batch: number of unlabelled images in a batch.
        seed: seed of all draws.

    Raises:
        ValueError: when there are fewer labelled images than ``labeled_batch``, or no draw of that many holds all
            classes.
    """

    def __init__(
        self,
        labeled: Dataset,
        unlabeled: Dataset | None,
        labels: LabelSpace,
        labeled_batch: int = 3,
        unlabeled_batch: int = 2,
        seed: int = 0,
    ) -> None:
        for name, value in (("labeled_batch", labeled_batch), ("unlabeled_batch", unlabeled_batch)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if len(labeled) < labeled_batch:
            raise ValueError(
                f"labeled_batch (the reference pool's size p) must be at most the number of labelled images, got "
                f"{labeled_batch} with {len(labeled)} labelled images: lower it or label more images."
            )
        self.labeled, self.labels, self.seed = labeled, labels, seed
        self.unlabeled = unlabeled if unlabeled is not None and len(unlabeled) > 0 else None
        self.unlabeled_batch = unlabeled_batch
        self.pool = ReferencePool(class_presence(labeled, labels), labeled_batch, labels.classes)
        self.rank, self.world_size = rank(), world_size()

    def __getitem__(self, iteration: int) -> dict[str, dict[str, Any]]:
        draw = np.random.default_rng([self.seed, LABELED, iteration, self.rank])
        items = [self._augmented(self.labeled, index, draw) for index in self.pool.draw(draw)]
        batch = {"labeled": collate(items)}
        if self.unlabeled is not None:
            draw = np.random.default_rng([self.seed, UNLABELED, iteration, self.rank])
            items = [self._augmented(self.unlabeled, index, draw) for index in self._unlabeled_indices(iteration)]
            batch["unlabeled"] = collate(items)
        return batch

    def _unlabeled_indices(self, iteration: int) -> list[int]:
        """Indices of an iteration's unlabelled images: each image once in a pass, each pass in its own order."""
        first = (iteration * self.world_size + self.rank) * self.unlabeled_batch
        indices = []
        for place in range(first, first + self.unlabeled_batch):
            turn, offset = divmod(place, len(self.unlabeled))
            order = np.random.default_rng([self.seed, ORDER, turn]).permutation(len(self.unlabeled))
            indices.append(int(order[offset]))
        return indices

    @staticmethod
    def _augmented(dataset: Dataset, index: int, draw: np.random.Generator) -> dict[str, Any]:
        """Item ``index`` with its random transforms seeded by the next number of ``draw``."""
        seed = int(draw.integers(2**32 - 1))
        if hasattr(dataset.transform, "set_random_state"):
            dataset.transform.set_random_state(seed=seed)
        return dataset[index]


def collate(items: list[Any]) -> dict[str, Any]:
    """One batch of items. A key that some of them lack (``truth``, known for some images only) is left out."""
    items = [part for item in items for part in (item if isinstance(item, list) else [item])]
    shared = set.intersection(*[set(item) for item in items])
    return list_data_collate([{key: item[key] for key in items[0] if key in shared} for item in items])


class PairedLoader:
    """Endless loader of :class:`PairedBatches` for MONAI's trainers, which knows its position.

    Args:
        batches: the batches by iteration.
        iterations: number of iterations that count as an epoch; the loader's length.
        num_workers: number of worker processes that prepare batches ahead; 0 prepares them in the training process.
        growing: start the workers anew in each epoch, since ``batches`` may have changed between two.

    Raises:
        ValueError: when ``iterations`` is below 1.
    """

    def __init__(self, batches: Dataset, iterations: int = 50, num_workers: int = 0, growing: bool = False) -> None:
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {iterations}.")
        self.batches, self.iterations, self.num_workers, self.growing = batches, iterations, num_workers, growing
        self.position = 0

    def __len__(self) -> int:
        return self.iterations

    def __iter__(self) -> Iterator[dict[str, dict[str, Any]]]:
        loader = DataLoader(
            self.batches,
            batch_size=None,  # an item is a whole batch already
            sampler=range(self.position, self.position + self.iterations) if self.growing else count(self.position),
            num_workers=self.num_workers,
            worker_init_fn=worker_init_fn,
            # its own: the loader draws a number when it starts, and torch's generator must not notice a resumed run
            generator=torch.Generator().manual_seed(self.batches.seed),
            pin_memory=False,
        )
        for batch in loader:
            self.position += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = int(state["position"])
