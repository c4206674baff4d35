"""Reference-guided pseudo-labels: nearest-neighbour assignment, RPG, and RPG+."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.label_space import LabelSpace
from common.methods.confident_prediction import ConfidentPrediction
from common.methods.reference_source import ReferenceSource
from common.methods.self_training import consistency
from common.methods.semi_supervised import Seen, SemiSupervised
from common.transforms.strong import StrongView


class NearestNeighbor(SemiSupervised):
    """Each unlabelled pixel learns the label of its nearest labelled pixel in feature space (Seibold et al. 2022).

    The labelled images of the batch are the reference pool: one term of cross-entropy on them, one on the unlabelled
    images against the pseudo-label (eq. 4), with the same weight for every pixel.

    Args:
        labels: the label space.
        neighbors, reference_size, query_size, background: see
            :class:`~common.methods.reference_source.ReferenceSource`.
        unsupervised_weight, ramp_up: see :class:`~common.methods.semi_supervised.SemiSupervised`.
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
        super().__init__(labels, unsupervised_weight, ramp_up)
        self.source = ReferenceSource(labels, neighbors, reference_size, query_size, background)

    def unlabeled_terms(self, network: nn.Module, seen: Seen, iteration: int) -> tuple[dict, dict]:
        pseudo_label, weight = self.source(seen.references, seen.reference_label, seen.features)
        if not self.weighted:
            weight = torch.ones_like(weight)
        loss = self.labels.cross_entropy(self.source.at_queries(seen.outputs), pseudo_label, weight)
        return {"unsupervised": loss}, {"pseudo_label": pseudo_label, "weight": weight}

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


class RPGPlus(RPG):
    """RPG with consistency between a weak and a strong view (Seibold et al. 2022, eq. 9-11).

    L_RPG+ = L_RPG + CE(f(a_s(x)), a_s(l'(x))): :class:`RPG`'s two terms, and FixMatch's. The network's own confident
    prediction l' on the weakly augmented image is what it shall predict on the strongly augmented one.

    Args:
        labels: the label space.
        threshold: tau of eq. 9 and 10, 0.8 or 0.95 in the paper's tables.
        view: the strong view a_s; the paper's RandAugment and CutOut where not given.
        consistency_weight: factor of the third term, 1 in the paper.
        options: as for :class:`RPG`.
    """

    def __init__(
        self,
        labels: LabelSpace,
        threshold: float = 0.8,
        view: StrongView | None = None,
        consistency_weight: float = 1.0,
        unsupervised_weight: float = 1.0,
        ramp_up: int = 0,
        neighbors: int | float = 7000,
        reference_size: int = 64,
        query_size: int | None = 64,
        background: bool = True,
    ) -> None:
        super().__init__(labels, unsupervised_weight, ramp_up, neighbors, reference_size, query_size, background)
        if consistency_weight < 0:
            raise ValueError(f"consistency_weight must not be negative, got {consistency_weight}.")
        self.consistency_weight = consistency_weight
        self.confident = ConfidentPrediction(labels, threshold)
        self.view = StrongView() if view is None else view

    def unlabeled_terms(self, network: nn.Module, seen: Seen, iteration: int) -> tuple[dict, dict]:
        terms, output = super().unlabeled_terms(network, seen, iteration)
        pseudo_label, weight = self.confident(seen.outputs)
        loss = consistency(self.labels, network, self.view, seen.image, pseudo_label, weight, iteration)
        return terms | {"consistency": self.consistency_weight * loss}, output
