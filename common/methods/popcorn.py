"""POPCORN: progressive pseudo-labels, and similar bottlenecks where labels are similar (Kamraoui et al. 2021)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from common.label_space import LabelSpace
from common.losses import dice_loss
from common.methods.base import Method

SELECTIONS = ("proximity", "random", "none")


class Popcorn(Method):
    """Dice loss on the two patches of a pair, and a bottleneck consistency (Kamraoui et al. 2021, section 2).

    .. math::
        L = L_{seg}(F(X_i), y_i) + L_{seg}(F(X_j), y_j) + \\alpha \\, Distance(h_i, h_j) \\, Similarity(y_i, y_j)

    (eq. 5), where the patches are two augmentations of one, or of two images at the same place (eq. 2 to 4: see
    :func:`bottleneck_distance` and :func:`label_similarity`). Patches come from
    :class:`~common.data.patches.PairedPatches`: the labelled images at first, and image after image the pseudo-labelled
    ones, as :class:`~common.handlers.Curriculum` selects them. With what is here, all rows of the paper's table 1 are
    settings of this class:

    ================================  ==============================================
    row of table 1                    setting
    ================================  ==============================================
    our method                        the defaults
    with half selection steps         ``share=0.5``
    without CR                        ``consistency_weight=0``
    without proximity graph           ``selection="random"``
    baseline with CR                  ``selection="none"``
    baseline                          ``selection="none", consistency_weight=0``
    ================================  ==============================================

    Args:
        labels: the label space.
        consistency_weight: the factor alpha of the consistency; 0.2 in section 3.3.
        selection: which images join next: ``"proximity"`` (eq. 6 and 7), ``"random"``, or ``"none"`` for training on
            the labelled images alone.
        step_size: number K of images that join in a step; 200 in the paper, of 2901.
        step_epochs: number N of epochs between two steps.
        neighbors: number p of training images whose distances are summed up (eq. 7).
        share: share of the unlabelled images that join.
        squared: take the square of the norms in the distance (eq. 4 can be read either way).

    Raises:
        ValueError: when a number is out of its range or the selection is unknown.
    """

    unlabeled_batch = 0  # patches of unlabelled images that the loss terms ask for
    one_step = False  # whether all images join at once

    def __init__(
        self,
        labels: LabelSpace,
        consistency_weight: float = 0.2,
        selection: str = "proximity",
        step_size: int = 200,
        step_epochs: int = 2,
        neighbors: int = 5,
        share: float = 1.0,
        squared: bool = True,
    ) -> None:
        super().__init__(labels)
        if selection not in SELECTIONS:
            raise ValueError(f"selection must be one of {SELECTIONS}, got {selection!r}.")
        if consistency_weight < 0:
            raise ValueError(f"consistency_weight must not be negative, got {consistency_weight}.")
        for name, value in (("step_size", step_size), ("step_epochs", step_epochs), ("neighbors", neighbors)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {share}.")
        self.consistency_weight, self.squared = consistency_weight, squared
        self.selection, self.step_size, self.step_epochs = selection, step_size, step_epochs
        self.neighbors, self.share = neighbors, share

    def terms(self, network: nn.Module, batch: dict[str, dict[str, Any]], iteration: int) -> tuple[dict, dict]:
        patches = batch["labeled"]
        pairs = len(patches["image"]) // 2  # the first halves of all pairs, then the second ones
        bottleneck, outputs = network(patches["image"], return_bottleneck=True)
        terms = {"dice": self.pair_loss(outputs, patches)}
        if self.consistency_weight > 0:
            distance = bottleneck_distance(bottleneck[:pairs], bottleneck[pairs:], self.squared)
            masks = self.labels.masks(patches["label"])
            similarity = label_similarity(masks[:pairs], masks[pairs:])
            terms["consistency"] = self.consistency_weight * (distance * similarity).mean()
        return terms, {}

    def pair_loss(self, outputs: Tensor, patches: dict[str, Any]) -> Tensor:
        """The Dice losses of all pairs' first patches and of their second ones, added up (eq. 1 and 5)."""
        pairs, weight = len(outputs) // 2, patches.get("weight")
        halves = (slice(None, pairs), slice(pairs, None))
        return sum(
            dice_loss(self.labels, outputs[half], patches["label"][half], None if weight is None else weight[half])
            for half in halves
        )

    def steps(self, images: int) -> list[int]:
        """How many of so many unlabelled images join in each step."""
        if self.selection == "none":
            return []
        joining = math.ceil(self.share * images)
        size = joining if self.one_step else self.step_size
        return [min(size, joining - first) for first in range(0, joining, size)] if joining else []

    @torch.no_grad()
    def label_image(self, network: nn.Module, image: Tensor, inferer: Any) -> tuple[Tensor, Tensor | None]:
        """The pseudo-label of a whole image when it joins, and a weight for each voxel or None for 1.

        Args:
            network: the network as it is now.
            image: ``1 C H W [D]``.
            inferer: MONAI's inferer, over sliding windows.
        """
        network.eval()
        return self.labels.predict(inferer(image, network)), None


def bottleneck_distance(one: Tensor, other: Tensor, squared: bool = True) -> Tensor:
    """Distance of the bottlenecks of pairs of patches, for each pair (eq. 4).

    .. math::
        Distance(h_i, h_j) = \\frac{2 \\, ||h_i - h_j||^2}{||h_i||^2 + ||h_j||^2}

    In print the squares can be taken for indices of the norm; ``squared=False`` leaves them out. Either form ignores
    the scale of the features.

    Args:
        one, other: ``B d H W [D]``.

    Returns:
        ``B``, between 0 and 4.
    """
    one, other = one.flatten(1).float(), other.flatten(1).float()
    power = 2 if squared else 1
    # the square root has no gradient at 0, where two patches are the same
    norms = [(value.square().sum(1) + 1e-12) ** (power / 2) for value in (one - other, one, other)]
    return 2 * norms[0] / (norms[1] + norms[2])


def label_similarity(one: Tensor, other: Tensor) -> Tensor:
    """exp(-mse) of pairs of label masks ``B C H W [D]``, for each pair (eq. 3): 1 where they are the same."""
    return torch.exp(-(one.float() - other.float()).square().flatten(1).mean(1))
