"""The order in which unlabelled images are worth annotating, as a trained network has it."""

from __future__ import annotations

from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from common.batches import Batches
from common.curriculum import grid_of, image_latent
from common.draws import generator
from common.methods import Method, Step
from common.views import Strong

STRATEGIES = ("disagreement", "weight", "distance", "random")
VIEWS = 2  # of each window, whose disagreement with it is averaged
WINDOWS = 8  # that are looked at together


class Place(NamedTuple):
    """An image or a patient in the order: its rows among the unlabelled images, and how much it is worth."""

    name: str
    rows: tuple[int, ...]
    score: float


class AnnotationOrder:
    """Orders unlabelled images, or patients, by what an annotation of them promises.

    ================  ================================================================================================
    strategy          first comes
    ================  ================================================================================================
    ``disagreement``  where the network says another thing once brightness, contrast, sharpness and noise are changed:
                      1 - Dice of the probabilities on the image and on its strong view, mean over classes and 2 views
    ``weight``        whose pseudo-label counts least: 1 - the mean weight that the method gives its pixels
    ``distance``      what is farthest, as the proximity graph measures it (Kamraoui et al. 2021, eq. 6), from all
                      labelled images and from what comes before
    ``random``        any
    ================  ================================================================================================

    An image larger than a patch is looked at in windows that cover it. A patient's score is the mean over the images.

    Args:
        method: the method, which weighs.
        network: the trained network, on the batches' device.
        batches: labelled and unlabelled images.
        seed: seed of views and of the random order.
    """

    def __init__(self, method: Method, network: nn.Module, batches: Batches, seed: int = 0) -> None:
        self.method, self.network, self.batches, self.seed = method, network, batches, seed
        self.labeled, self.unlabeled = batches.stores["labeled"], batches.stores["unlabeled"]
        self.view = Strong(geometry=False, cutout=0)

    def places(self, strategy: str = "disagreement", by: str = "image") -> list[Place]:
        """All unlabelled images, or patients, in their order.

        Args:
            strategy: see above.
            by: ``"image"`` or ``"patient"``.

        Raises:
            ValueError: for another strategy, a method without weights, or without an unlabelled image.
        """
        if strategy not in STRATEGIES or by not in ("image", "patient"):
            raise ValueError(
                f"strategy must be one of {', '.join(STRATEGIES)} and by image or patient, got {strategy!r} and {by!r}."
            )
        if not self.unlabeled:
            raise ValueError("there must be unlabelled images to choose from, got a datalist without any.")
        groups: dict[str, list[int]] = {}
        for row, item in enumerate(self.unlabeled.data):
            name = self.unlabeled.name(row) if by == "image" else str(item.get("patient", self.unlabeled.name(row)))
            groups.setdefault(name, []).append(row)
        names, rows = list(groups), [tuple(group) for group in groups.values()]
        if strategy == "distance":
            latents = self.latents(self.unlabeled)
            means = torch.stack([latents[list(group)].mean(0) for group in rows])
            order, scores = farthest_first(self.latents(self.labeled), means)
        else:
            each = self.random() if strategy == "random" else self.scores(strategy)
            means = np.array([each[list(group)].mean() for group in rows])
            order = np.argsort(-means, kind="stable")
            scores = means[order]
        return [Place(names[i], rows[i], float(score)) for i, score in zip(order, scores, strict=True)]

    def random(self) -> np.ndarray:
        return generator(self.seed, 0, "annotation").random(len(self.unlabeled))

    @torch.no_grad()
    def scores(self, strategy: str) -> np.ndarray:
        """The score of each unlabelled image, the mean over its windows."""
        places = [(row, first) for row in range(len(self.unlabeled)) for first in self.firsts(row)]
        score = self.uncounted if strategy == "weight" else self.doubt
        found: list[float] = []
        for start in tqdm(range(0, len(places), WINDOWS), desc=strategy, unit="batch", leave=False, disable=None):
            windows = [(self.batches.unlabeled[row], first) for row, first in places[start : start + WINDOWS]]
            image = self.batches.windows(windows)
            self.network.eval()
            batch = {"labeled": self.pool, "unlabeled": {"image": image}, "values": self.batches.values}
            found += score(batch, start).tolist()
        rows = [row for row, _ in places]
        return np.bincount(rows, found) / np.bincount(rows)

    @cached_property
    def pool(self) -> dict[str, Any]:
        """Labelled images that weights may compare with."""
        return self.batches[0]["labeled"]

    def firsts(self, row: int) -> list[np.ndarray]:
        """First pixels of windows that cover an unlabelled image."""
        along = [
            np.rint(np.linspace(0, max(whole - side, 0), -(-whole // side))).astype(int)
            for whole, side in zip(self.unlabeled.shape(row), self.batches.patch_size, strict=True)
        ]
        return [np.array(corner) for corner in product(*along)]

    def uncounted(self, batch: dict[str, Any], number: int) -> Tensor:
        """1 - the mean weight of each image's pseudo-label."""
        noted = self.method.explain(self.network, batch)
        if noted is None:
            raise ValueError(
                f"the strategy weight needs a method that weighs pseudo-labels, got {type(self.method).__name__}: take "
                f"another strategy, or another method."
            )
        return 1 - noted.weight.float().flatten(1).mean(1)

    def doubt(self, batch: dict[str, Any], number: int) -> Tensor:
        """How little each image's prediction agrees with those on its views."""
        image, draw = batch["unlabeled"]["image"], generator(self.seed, number, "annotation")
        step = Step(self.batches.labels, self.network, batch, seed=self.seed)
        views = [self.view(image, draw, self.batches.values, step=step).image for _ in range(VIEWS)]
        said = self.probabilities(image)
        return torch.stack([disagreement(said, self.probabilities(view)) for view in views]).mean(0)

    def probabilities(self, image: Tensor) -> Tensor:
        """Of the classes, without a background."""
        labels = self.batches.labels
        return labels.probabilities(self.network(image).float())[:, -labels.num_classes :]

    @torch.no_grad()
    def latents(self, store) -> Tensor:
        """A vector for each image, as of the proximity graph."""
        shapes = [images.shape(row) for images in (self.labeled, self.unlabeled) for row in range(len(images))]
        size = self.batches.patch_size
        rows = tqdm(range(len(store)), desc="latents", unit="image", leave=False, disable=None)
        images = (torch.from_numpy(np.array(store.arrays(row)["image"])).float() for row in rows)
        device = self.batches.device
        return torch.stack(
            [image_latent(self.network, image.to(device), size, grid_of(shapes, size)).cpu() for image in images]
        )


def disagreement(one: Tensor, other: Tensor) -> Tensor:
    """1 - Dice of probabilities ``B C H W [D]``, mean over classes, ``B``; next to 0 where a class is in neither."""
    one, other = one.flatten(2), other.flatten(2)
    dice = (2 * (one * other).sum(2) + 1) / (one.square().sum(2) + other.square().sum(2) + 1)
    return 1 - dice.mean(1)


def farthest_first(labeled: Tensor, unlabeled: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Indices such that each one's distance to the labelled ones and to those before is the largest; and that distance.

    Args:
        labeled: latents ``(n, d)``.
        unlabeled: latents ``(m, d)``.
    """
    distance = torch.cdist(unlabeled.double(), labeled.double()).amin(1)
    order, scores = [], []
    for _ in range(len(unlabeled)):
        index = int(distance.argmax())
        order.append(index)
        scores.append(float(distance[index]))
        nearer = torch.linalg.vector_norm((unlabeled - unlabeled[index]).double(), dim=1)
        distance = distance.minimum(nearer)
        distance[order] = -1
    return np.array(order), np.array(scores)
