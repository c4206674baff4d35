"""What the methods with pseudo-labels share: one pass over each kind of image, and terms added up."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from common.label_space import LabelSpace
from common.methods.base import Method


class Seen(NamedTuple):
    """What the network made of a batch: features ``B d H W [D]`` and outputs ``B C H W [D]``.

    ``references`` and ``reference_label`` are those of the labelled images, ``image``, ``features`` and ``outputs``
    those of the weakly augmented unlabelled ones.
    """

    references: Tensor
    reference_label: Tensor
    image: Tensor
    features: Tensor
    outputs: Tensor


class SemiSupervised(Method):
    """Cross-entropy on the labelled images, and what a subclass asks of the unlabelled ones.

    A subclass takes a pseudo-label from a source, lets each pixel count by a weight, and asks a view of the image to
    match it: :meth:`unlabeled_terms`.

    Labelled and unlabelled images go through the network one after the other. In one common pass they would share the
    batch norm's statistics, which on radiographs of two sources costs more than any method gains. A batch without
    unlabelled images has the supervised term alone.

    Args:
        labels: the label space.
        unsupervised_weight: factor of all terms of the unlabelled images; the papers have 1.
        ramp_up: number of iterations over which that factor rises from 0 along exp(-5 (1 - t)^2); 0 for none.

    Raises:
        ValueError: when one of the two is negative.
    """

    learns_from_weak_view = True  # without it, the pass over the weakly augmented images keeps no gradients

    def __init__(self, labels: LabelSpace, unsupervised_weight: float = 1.0, ramp_up: int = 0) -> None:
        super().__init__(labels)
        if unsupervised_weight < 0 or ramp_up < 0:
            raise ValueError(
                f"unsupervised_weight and ramp_up must not be negative, got {unsupervised_weight} and {ramp_up}."
            )
        self.unsupervised_weight, self.ramp_up = unsupervised_weight, ramp_up

    def terms(self, network: nn.Module, batch: dict[str, dict[str, Any]], iteration: int) -> tuple[dict, dict]:
        labeled = batch["labeled"]
        references, outputs = network(labeled["image"], return_features=True)
        terms = {"supervised": self.labels.cross_entropy(outputs, labeled["label"])}
        if "unlabeled" not in batch:
            return terms, {}
        image = batch["unlabeled"]["image"]
        with nullcontext() if self.learns_from_weak_view else torch.no_grad():
            features, unlabeled_outputs = network(image, return_features=True)
        if not all(values.float().square().sum().isfinite() for values in (references, features)):
            # no pseudo-label comes of these; as a loss they end the training with a message that names the batch
            return terms | {"unsupervised": torch.full_like(terms["supervised"], torch.inf)}, {}
        seen = Seen(references, labeled["label"], image, features, unlabeled_outputs)
        unlabeled, output = self.unlabeled_terms(network, seen, iteration)
        factor = self.unsupervised_weight * rise(iteration, self.ramp_up)
        return terms | {name: factor * term for name, term in unlabeled.items()}, output

    def unlabeled_terms(self, network: nn.Module, seen: Seen, iteration: int) -> tuple[dict, dict]:
        """Loss terms of the unlabelled images by name, and ``pseudo_label`` and ``weight`` for the step's output.

        Args:
            network: for passes over further views.
            seen: what the network made of the batch.
            iteration: number of this iteration, from 1.
        """
        raise NotImplementedError


def rise(iteration: int, length: int) -> float:
    """The ramp-up exp(-5 (1 - t)^2) with t = iteration / length, 1 from ``length`` on (Laine and Aila 2017)."""
    if length == 0 or iteration >= length:
        return 1.0
    return math.exp(-5.0 * (1.0 - iteration / length) ** 2)
