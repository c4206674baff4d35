"""Reference-guided pseudo-labels: nearest-neighbour assignment, and RPG."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from common.label_space import LabelSpace
from common.methods.base import Method
from common.methods.reference_source import ReferenceSource


class NearestNeighbor(Method):
    """Each unlabelled pixel learns the label of its nearest labelled pixel in feature space (Seibold et al. 2022).

    The labelled images of the batch are the reference pool: one term of cross-entropy on them, one on the unlabelled
    images against the pseudo-label (eq. 4), with the same weight for every pixel.

    Labelled and unlabelled images go through the network one after the other. In one common pass they would share the
    batch norm's statistics, which on radiographs of two sources costs more than the method gains. A batch without
    unlabelled images has the first term alone.

    Args:
        labels: the label space.
        unsupervised_weight: factor of the unlabelled term, 1 in the paper (eq. 8).
        ramp_up: number of iterations over which that factor rises from 0 along exp(-5 (1 - t)^2); the paper has none.
        neighbors, reference_size, query_size, background: see
            :class:`~common.methods.reference_source.ReferenceSource`.
    """

    weighted = False

    def __init__(
        self,
        labels: LabelSpace,
        unsupervised_weight: float = 1.0,
        ramp_up: int = 0,
        neighbors: int | float = 7000,
        reference_size: int = 64,
        query_size: int | None = 64,
        background: bool = True,
    ) -> None:
        super().__init__(labels)
        if unsupervised_weight < 0 or ramp_up < 0:
            raise ValueError(
                f"unsupervised_weight and ramp_up must not be negative, got {unsupervised_weight} and {ramp_up}."
            )
        self.unsupervised_weight, self.ramp_up = unsupervised_weight, ramp_up
        self.source = ReferenceSource(labels, neighbors, reference_size, query_size, background)

    def terms(self, network: nn.Module, batch: dict[str, dict[str, Any]], iteration: int) -> tuple[dict, dict]:
        labeled = batch["labeled"]
        references, outputs = network(labeled["image"], return_features=True)
        supervised = self.labels.cross_entropy(outputs, labeled["label"])
        if "unlabeled" not in batch:
            return {"supervised": supervised}, {}
        queries, unlabeled_outputs = network(batch["unlabeled"]["image"], return_features=True)
        if not all(features.float().square().sum().isfinite() for features in (references, queries)):
            # no pseudo-label comes of these; as a loss they end the training with a message that names the batch
            return {"supervised": supervised, "unsupervised": unlabeled_outputs.sum() * torch.inf}, {}
        pseudo_label, weight = self.source(references, labeled["label"], queries)
        if not self.weighted:
            weight = torch.ones_like(weight)
        factor = self.unsupervised_weight * rise(iteration, self.ramp_up)
        terms = {
            "supervised": supervised,
            "unsupervised": factor
            * self.labels.cross_entropy(self.source.at_queries(unlabeled_outputs), pseudo_label, weight),
        }
        return terms, {"pseudo_label": pseudo_label, "weight": weight}

    @torch.no_grad()
    def pseudo_label(self, network: nn.Module, labeled: dict, unlabeled: dict) -> tuple[Tensor, Tensor]:
        references, _ = network(labeled["image"], return_features=True)
        queries, _ = network(unlabeled["image"], return_features=True)
        pseudo_label, weight = self.source(references, labeled["label"], queries, upsample=True)
        return pseudo_label, weight if self.weighted else torch.ones_like(weight)


class RPG(NearestNeighbor):
    """Reference-guided pseudo-labels weighted by the density-based class entropy (Seibold et al. 2022, eq. 1-8).

    :class:`NearestNeighbor` in which each unlabelled pixel counts by W (eq. 7): 1 where the references around it in
    feature space are of one class, 0 where all classes are equally near.

    Args: as for :class:`NearestNeighbor`.
    """

    weighted = True


def rise(iteration: int, length: int) -> float:
    """The ramp-up exp(-5 (1 - t)^2) with t = iteration / length, 1 from ``length`` on (Laine and Aila 2017)."""
    if length == 0 or iteration >= length:
        return 1.0
    return math.exp(-5.0 * (1.0 - iteration / length) ** 2)
