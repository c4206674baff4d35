"""Pixels count as their strongest features are those of the class that they are taken for."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from common.label_space import LabelSpace
from common.networks import unwrapped
from common.parts import Needs
from common.pseudo_label import PseudoLabel
from common.ranks import gathered, is_first_rank
from common.weights.class_memory import ClassMemory, draw_pixels
from common.weights.similarity import similarities
from common.weights.weight import Weight

if TYPE_CHECKING:
    from common.step import Step

logger = logging.getLogger(__name__)

SIMILARITIES = ("rank", "cosine")
LOOK = 20  # steps after which a class without any feature is told of


class RankSimilarity(Weight):
    """The share of a pixel's k strongest features that are its class's strongest, too (Howlader et al. 2024, eq. 5, 6).

    .. math::
        W_i = \\frac{1}{k} \\left| \\mathrm{top}_k(z_i) \\cap \\mathrm{top}_k(\\bar z_c) \\right|

    with z_i the features of the penultimate layer, c the class of the pseudo-label, and z_c the class's prototype, the
    mean of a memory of its last features. Features are ranked by their values; of equal ones the first ranks first.
    They are those of the network whose pseudo-label it is, a teacher where it is one's. It multiplies the host's own
    weight: give it to any method as ``added_weight``.

    The memory gets, after each step, features of random pixels of each class: of labelled ones that the network takes
    for what they are, with a confidence above ``threshold``, and of unlabelled ones that are ``reliable``; of labelled
    ones alone where nobody says so, as in the paper's ablation. It is part of the checkpoint and the same in all
    processes. While a class has none, its pixels have the weight 1: they count as the host has it.

    The softmax's background is a class. In multi-label each class is a choice of two for itself, and being of it and
    not being of it have a prototype each: the weight is ``B C H W [D]``, else ``B 1 H W [D]``. In an evaluation,
    without a training, it is 1.

    Args:
        k: number of the strongest features that are compared; 5 in the paper.
        memory: number of features that are kept of each class; 256 in the paper.
        threshold: confidence above which labelled pixels are remembered; 0.95 in the paper.
        similarity: ``"rank"``, or ``"cosine"`` for max(cos(z_i, z_c), 0), which the paper compares with.
        released: 1 + W over its mean over the batch's pixels, as in the released code, instead of W. A class without a
            prototype has 1 in place of 1 + W.
        reliable: a weight that is above 0 where the pseudo-label is reliable: a detector's agreement, or
            :class:`~common.weights.Confidence`.
        enqueued: of how many pixels of each class, drawn at random in each process, a step remembers the features: so
            many labelled, and as many reliable unlabelled ones.

    Raises:
        ValueError: when a number is out of its range or the similarity is unknown; when k is larger than the number of
            features; for pseudo-labels of two networks.
    """

    needs = Needs(unlabeled=1, features=True)

    def __init__(
        self,
        k: int = 5,
        memory: int = 256,
        threshold: float = 0.95,
        similarity: str = "rank",
        released: bool = False,
        reliable: Weight | None = None,
        enqueued: int = 16,
    ) -> None:
        super().__init__()
        if k < 1 or enqueued < 1:
            raise ValueError(f"k and enqueued must be at least 1, got {k} and {enqueued}: the paper has k = 5.")
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold of the memory must be in [0, 1), got {threshold}: the paper has 0.95.")
        if reliable is not None and not isinstance(reliable, Weight):
            raise ValueError(
                f"reliable must be a weight, common.weights.Reliable say, or None, got {reliable!r}: for None write "
                f"'$None' on the command line, and null in a file."
            )
        if similarity not in SIMILARITIES:
            raise ValueError(f"similarity must be one of {SIMILARITIES}, got {similarity!r}.")
        self.k, self.threshold, self.similarity, self.released = k, threshold, similarity, released
        self.reliable, self.enqueued, self.memory = reliable, enqueued, ClassMemory(memory)
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))  # on the host
        self.waiting: list[tuple[Tensor, Tensor]] = []  # until the step of the optimizer
        self.remembered, self.whose = 0, None  # the last iteration; whose features the memory holds

    def prepare(self, network: nn.Module, labels: LabelSpace) -> None:
        head = unwrapped(network).final_conv.weight
        if self.similarity == "rank" and self.k > head.shape[1]:
            raise ValueError(
                f"k must be at most the number of features of the penultimate layer, got {self.k} of {head.shape[1]}: "
                f"lower k, or raise the last of network_def#features."
            )
        self.memory.prepare(len(names(labels)), head.shape[1], head.device)

    @torch.no_grad()
    def forward(self, step: Step, pseudo: PseudoLabel) -> Tensor:
        label = step.labels.hard(pseudo.label)
        if not len(self.memory.features):  # in an evaluation, without a training
            return torch.ones_like(label[:, :1], dtype=torch.float32)
        features = step.see(step.unlabeled["image"], network=pseudo.network).features
        if features is None:
            raise ValueError("RankSimilarity needs features, got whole images that are seen through windows.")
        features = features if pseudo.grid is None else pseudo.grid.of(features)
        classes = classes_of(step.labels, label)
        if step.iteration:  # else it is asked for an explanation, of which nothing is remembered
            self.remember(step, pseudo, features, classes)
        prototypes, there = self.memory.prototypes()
        similarity = similarities(features, prototypes, self.k if self.similarity == "rank" else None)
        similarity = 1 + similarity if self.released else similarity
        weight = torch.where(there, similarity, 1.0).movedim(-1, 1).gather(1, classes)
        return weight / weight.mean() if self.released else weight

    def remember(self, step: Step, pseudo: PseudoLabel, features: Tensor, classes: Tensor) -> None:
        """Draws what the memory gets of a step, once for all terms of it: of the first one's pseudo-label."""
        if self.whose not in (None, id(pseudo.network)):
            raise ValueError(
                "RankSimilarity must weigh the pseudo-labels of one network, whose features it remembers, got those of "
                "another one, too: give each term a RankSimilarity of its own."
            )
        if self.remembered == step.iteration:
            return
        self.remembered, self.whose = step.iteration, id(pseudo.network)
        labeled, draw = step.labeled, step.draw("RankSimilarity")
        seen = step.see(labeled["image"], network=pseudo.network)
        known = recognised(step.labels, seen.outputs, labeled["label"], labeled.get("weight"), self.threshold)
        settings = len(self.memory.features), self.enqueued, draw
        found = [draw_pixels(seen.features, known, *settings)]
        if self.reliable is not None:
            reliable = torch.where(self.reliable(step, pseudo) > 0, classes, -1)
            found.append(draw_pixels(features, reliable, *settings))
        self.waiting.append(tuple(torch.cat(parts, dim=1) for parts in zip(*found, strict=True)))

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """The memory gets what the step has found in all processes."""
        for waiting in self.waiting:
            for features, there in zip(*map(gathered, waiting), strict=True):
                self.memory.add(features, there)
        self.steps += bool(self.waiting)
        if self.waiting and self.steps == LOOK:
            self.tell(step.labels)
        self.waiting.clear()
        self.remembered = 0

    def tell(self, labels: LabelSpace) -> None:
        """Says which classes there are no features of."""
        there = self.memory.prototypes()[1].tolist()
        lacking = [name for name, known in zip(names(labels), there, strict=True) if not known]
        if lacking and is_first_rank():
            logger.warning(
                f"RankSimilarity has seen no feature of {', '.join(lacking)} in {LOOK} steps: such pixels count as the "
                f"method's own weight has it, until labelled ones are recognised with a confidence above "
                f"{self.threshold}."
            )


def names(labels: LabelSpace) -> list[str]:
    """What prototypes are of, in their order; in multi-label first of not being of each class."""
    if labels.multilabel:
        return [*(f"'not {name}'" for name in labels.classes), *labels.classes]
    return ["background", *labels.classes]


def classes_of(labels: LabelSpace, label: Tensor) -> Tensor:
    """Which prototype each pixel of a hard label is compared with, ``B 1 H W [D]``, in multi-label ``B C H W [D]``."""
    label = label.long()
    if not labels.multilabel:
        return label
    number = label.shape[1]
    return number * label + torch.arange(number, device=label.device).view(-1, *[1] * (label.ndim - 2))


def recognised(labels: LabelSpace, outputs: Tensor, label: Tensor, weight: Tensor | None, threshold: float) -> Tensor:
    """:func:`classes_of` a label where the outputs say the same with confidence and a pixel counts, else -1."""
    outputs = outputs.detach().float()
    sure, said = labels.confidence(labels.probabilities(outputs)), labels.predict(outputs)
    right = (said == labels.hard(label)) & (sure > threshold)
    if labels.multilabel:
        right &= label >= 0  # below, a hard label would be 0; in multi-class nothing equals it
    if weight is not None:  # 0 from outside of the image
        right = right & (weight > 0)
    return torch.where(right, classes_of(labels, said), -1)
