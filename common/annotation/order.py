"""The order in which unlabelled images are worth annotating, as a trained network has it."""

from __future__ import annotations

import inspect
import logging
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data.utils import dense_patch_slices
from torch import Tensor, nn
from tqdm import tqdm

from common.batches import Batches
from common.curriculum import grid_of, image_latents
from common.data.decoded import DecodedImages
from common.draws import generator
from common.methods import Method
from common.networks import unwrapped
from common.views import Strong

STRATEGIES = ("distance", "disagreement", "weight", "random")
CHANGES = ("brightness", "contrast", "gamma", "sharpness", "blur")
VIEWS = 4  # of each window, all with the same changes of the same strengths
WINDOWS = 8  # that are looked at together
NOTHING = 0.05  # a probability up to which a class is said not to be there
logger = logging.getLogger(__name__)


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
    ``distance``      what is farthest, as the proximity graph measures it (Kamraoui et al. 2021, eq. 6), from all
                      labelled images and from what comes before
    ``disagreement``  where the network says another thing once brightness, contrast, gamma, sharpness and blur are
                      changed: 1 - Dice of the probabilities over 0.05, mean over classes and 4 views, the same for all
    ``weight``        whose pseudo-label the method trusts least: 1 - its gate's score, or 1 - the mean weight of the
                      pixels that are not 0
    ``random``        any
    ================  ================================================================================================

    An image larger than a patch is looked at in windows that cover it. A patient's score is the mean over the images.
    Weights that are shares of a batch (``EntropyShare`` of U2PL) tell nothing of an image.

    Args:
        method: the method, which weighs.
        network: the trained network, on the batches' device.
        batches: labelled and unlabelled images.
        seed: seed of the changes and of the random order.
    """

    def __init__(self, method: Method, network: nn.Module, batches: Batches, seed: int = 0) -> None:
        self.method, self.network, self.batches, self.seed = method, network, batches, seed
        self.labeled, self.unlabeled = batches.stores["labeled"], batches.stores["unlabeled"]
        self.view = Strong(operations=2, geometry=False, cutout=0, names=CHANGES)

    def places(self, strategy: str = "distance", by: str = "image") -> list[Place]:
        """All unlabelled images, or patients, in their order.

        Args:
            strategy: see above.
            by: ``"image"`` or ``"patient"``.

        Raises:
            ValueError: for another strategy, a method without weights, a network without features where distances are
                asked for, or without an unlabelled image.
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
        network = unwrapped(self.network)
        if strategy == "distance" and "bottleneck_only" not in inspect.signature(network.forward).parameters:
            raise ValueError(
                f"distance needs a network that gives its features, as common.networks.BasicUNet, got a "
                f"{type(network).__name__}: take disagreement."
            )
        if strategy == "distance":
            order, scores = farthest_first(self.latents(self.labeled), self.latents(self.unlabeled), [*groups.values()])
        else:
            each = None if strategy == "random" else self.scores(strategy)
            drawn = generator(self.seed, 0, "annotation").random(len(groups))  # one number each, however many images
            scores = drawn if each is None else np.array([each[rows].mean() for rows in groups.values()])
            if len(scores) > 1 and np.ptp(scores) == 0:
                logger.warning(f"{strategy} is {scores[0]:.4g} of all, which are in a random order.")
            order = np.lexsort([drawn, -scores])
            scores = scores[order]
        names, rows = [*groups], [tuple(rows) for rows in groups.values()]
        return [Place(names[i], rows[i], float(score)) for i, score in zip(order, scores, strict=True)]

    @torch.no_grad()
    def scores(self, strategy: str) -> np.ndarray:
        """The score of each unlabelled image."""
        places = [(row, first) for row in range(len(self.unlabeled)) for first in self.firsts(row)]
        sums, found = self.distrust if strategy == "weight" else self.agreement, []
        for start in tqdm(range(0, len(places), WINDOWS), desc=strategy, unit="batch", leave=False, disable=None):
            self.network.eval()
            part = [(self.batches.unlabeled[row], first) for row, first in places[start : start + WINDOWS]]
            found.append(sums(self.batches.windows(part)).double().cpu())
        windows, rows = torch.cat(found), torch.tensor([row for row, _ in places])
        totals = torch.zeros(len(self.unlabeled), *windows.shape[1:], dtype=windows.dtype).index_add_(0, rows, windows)
        return 1 - (totals[:, 0] / totals[:, 1]).mean(1).numpy()

    def firsts(self, row: int) -> list[np.ndarray]:
        """First pixels of windows that cover an unlabelled image."""
        size = self.batches.patch_size
        windows = dense_patch_slices(self.unlabeled.shape(row), size, size)
        return [np.array([axis.start for axis in window]) for window in windows]

    @cached_property
    def pool(self) -> dict[str, Any]:
        """Labelled images that weights may compare with."""
        return self.batches.labeled_images(0)

    def distrust(self, image: Tensor) -> Tensor:
        """Of each window ``B C ...`` the sum of weights and the number of pixels, ``B 2 1``."""
        batch = {"labeled": self.pool, "unlabeled": {"image": image}, "values": self.batches.values}
        step = self.method.explained(self.network, batch)
        if step.noted is None:
            raise ValueError(
                f"the strategy weight needs a method that weighs pseudo-labels, got {type(self.method).__name__}: take "
                f"another strategy, or another method."
            )
        if step.judged is not None:
            score = step.judged.scores.float().mean(1)
            return torch.stack([score, torch.ones_like(score)], 1)[..., None]
        grid, weight = step.noted.pseudo.grid, step.noted.weight.float().mean(1)
        inside = (image if grid is None else grid.of(image)).ne(0).any(1).float()
        inside = torch.where(inside.flatten(1).any(1).view(-1, *[1] * (inside.ndim - 1)), inside, 1.0)
        return torch.stack([(weight * inside).flatten(1).sum(1), inside.flatten(1).sum(1)], 1)[..., None]

    def agreement(self, image: Tensor) -> Tensor:
        """Of each window numerator and denominator of the Dice with each view of each class, ``B 2 V*C``."""
        said, draw = self.probabilities(image), generator(self.seed, 0, "changes of annotation")
        alike = np.zeros(len(image), int)  # one group, whose changes are the same
        views = [self.view(image, draw, self.batches.values, alike).image for _ in range(VIEWS)]
        return torch.cat([dice_parts(said, self.probabilities(view)) for view in views], 2)

    def probabilities(self, image: Tensor) -> Tensor:
        """Of the classes, without a background."""
        labels = self.batches.labels
        return labels.probabilities(self.network(image).float())[:, -labels.num_classes :]

    @torch.no_grad()
    def latents(self, store: DecodedImages) -> Tensor:
        """A vector for each image, as of the proximity graph, in double precision."""
        shapes = [images.shape(row) for images in (self.labeled, self.unlabeled) for row in range(len(images))]
        size, device = self.batches.patch_size, self.batches.device
        images = [(store, row) for row in range(len(store))]
        return torch.stack(image_latents(self.network, images, size, grid_of(shapes, size), device)).double()


def dice_parts(one: Tensor, other: Tensor) -> Tensor:
    """Twice the intersection and the sum of the squares of probabilities ``B C H W [D]``, ``B 2 C``; one pixel more of
    both, so that a class that is in neither agrees."""
    one, other = (torch.where(part > NOTHING, part, 0.0).flatten(2) for part in (one, other))
    return torch.stack([2 * (one * other).sum(2), one.square().sum(2) + other.square().sum(2)], 1) + 1


def farthest_first(labeled: Tensor, unlabeled: Tensor, groups: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Groups such that each one's images are farthest, in the mean, from those that are labelled or come before.

    Args:
        labeled: latents ``(n, d)``.
        unlabeled: latents ``(m, d)``.
        groups: rows of the unlabelled ones that are taken together, each in one of them.

    Returns:
        The groups' order, and each one's mean distance to its images' nearest.
    """
    distance = torch.cdist(unlabeled, labeled).amin(1).numpy()
    place = np.empty(len(unlabeled), int)
    for number, rows in enumerate(groups):
        place[rows] = number
    order, scores, left = [], [], np.ones(len(groups), bool)
    for _ in groups:
        means = np.where(left, np.bincount(place, distance) / np.bincount(place), -1)
        chosen = int(means.argmax())
        order.append(chosen)
        scores.append(means[chosen])
        left[chosen] = False
        distance = np.minimum(distance, torch.cdist(unlabeled, unlabeled[groups[chosen]]).amin(1).numpy())
    return np.array(order), np.array(scores)
