"""Methods that learn from the network's own confident predictions: Pseudo-Label and FixMatch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.label_space import LabelSpace
from common.methods.confident_prediction import ConfidentPrediction
from common.methods.semi_supervised import Seen, SemiSupervised
from common.transforms.strong import StrongView


class PseudoLabel(SemiSupervised):
    """The network learns its own confident predictions (Lee et al. 2013; as compared in Seibold et al. 2022, table 1).

    One term of cross-entropy on the labelled images, one on the unlabelled ones against what the network predicts of
    the same weakly augmented image, where it is confident (eq. 9, 10).

    Args:
        labels: the label space.
        threshold: tau, 0.8 and 0.95 in the paper's tables.
        unsupervised_weight, ramp_up: see :class:`~common.methods.semi_supervised.SemiSupervised`.
    """

    def __init__(
        self, labels: LabelSpace, threshold: float = 0.95, unsupervised_weight: float = 1.0, ramp_up: int = 0
    ) -> None:
        super().__init__(labels, unsupervised_weight, ramp_up)
        self.source = ConfidentPrediction(labels, threshold)

    def unlabeled_terms(self, network: nn.Module, seen: Seen, iteration: int) -> tuple[dict, dict]:
        pseudo_label, weight = self.source(seen.outputs)
        loss = self.loss(network, seen, pseudo_label, weight, iteration)
        return {"unsupervised": loss}, {"pseudo_label": pseudo_label, "weight": weight.mean(dim=1, keepdim=True)}

    def loss(self, network: nn.Module, seen: Seen, pseudo_label: Tensor, weight: Tensor, iteration: int) -> Tensor:
        return self.labels.cross_entropy(seen.outputs, pseudo_label, weight)

    @torch.no_grad()
    def pseudo_label(self, network: nn.Module, labeled: dict, unlabeled: dict) -> tuple[Tensor, Tensor]:
        pseudo_label, weight = self.source(network(unlabeled["image"]))
        return pseudo_label, weight.mean(dim=1, keepdim=True)


class FixMatch(PseudoLabel):
    """The prediction on a weak view is learnt on a strong one (Sohn et al. 2020; Seibold et al. 2022, eq. 9, 10).

    :class:`PseudoLabel` whose unlabelled term looks at a strongly augmented view, with the pseudo-label changed as the
    image was. The pass over the weak view keeps no gradients.

    Args:
        labels: the label space.
        threshold: tau, 0.8 and 0.95 in the paper's tables.
        view: the strong view; the paper's RandAugment and CutOut where not given.
        unsupervised_weight, ramp_up: see :class:`~common.methods.semi_supervised.SemiSupervised`.
    """

    learns_from_weak_view = False

    def __init__(
        self,
        labels: LabelSpace,
        threshold: float = 0.8,
        view: StrongView | None = None,
        unsupervised_weight: float = 1.0,
        ramp_up: int = 0,
    ) -> None:
        super().__init__(labels, threshold, unsupervised_weight, ramp_up)
        self.view = StrongView() if view is None else view

    def loss(self, network: nn.Module, seen: Seen, pseudo_label: Tensor, weight: Tensor, iteration: int) -> Tensor:
        return consistency(self.labels, network, self.view, seen.image, pseudo_label, weight, iteration)


def consistency(
    labels: LabelSpace,
    network: nn.Module,
    view: StrongView,
    image: Tensor,
    pseudo_label: Tensor,
    weight: Tensor,
    iteration: int,
) -> Tensor:
    """Cross-entropy of the network on a strong view of the image, against the pseudo-label seen the same way."""
    strong, change = view(image, iteration)
    return labels.cross_entropy(network(strong), *change.of_label(pseudo_label, weight))
