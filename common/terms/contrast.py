"""U2PL's contrast: pixels resemble their class's mean, and not what surely is of another class."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.draws import on_device
from common.label_space import LabelSpace
from common.networks import unwrapped
from common.parts import Needs
from common.ranks import gathered
from common.sources import Teacher
from common.sources.references import as_rows
from common.terms.term import Term
from common.weights.entropy import EntropyShare, entropy

if TYPE_CHECKING:
    from common.step import Step


CHUNK = 2**16  # pixels whose representations are made at a time


class Pixels(NamedTuple):
    """What the teacher says of all pixels of a step, labelled images first.

    Attributes:
        anchors: pixels that are of a class and may be taught, booleans ``N K``.
        negatives: pixels that surely are not of a class, though it is not clear of which they are, ``N K``.
        features: the teacher's features ``N d``.
    """

    anchors: Tensor
    negatives: Tensor
    features: Tensor


class Contrast(Term):
    """Pixel-wise contrast that learns from unreliable pixels, too (Wang et al. 2022, U2PL, eq. 4 to 13).

    .. math::
        -\\frac{1}{C M} \\sum_{c} \\sum_{i=1}^{M} \\log
        \\frac{e^{\\langle z_{ci}, z_c^+ \\rangle / \\tau}}
        {e^{\\langle z_{ci}, z_c^+ \\rangle / \\tau} + \\sum_{j=1}^{N} e^{\\langle z_{ci}, z_{cij}^- \\rangle / \\tau}}

    with z two layers on top of a pixel's features and <,> the cosine. Of class c are

    - anchors: pixels whose label or reliable pseudo-label is c, where the teacher has p_c > delta_p;
    - the positive: the mean of the teacher's representations of all of them;
    - negatives: labelled pixels of other classes, among whose r_l most probable classes is c; unreliable unlabelled
      ones, whose rank of c is from r_l on and below r_h. They wait in a queue for each class, from which all draw.

    The softmax's background is a class. In multi-label each class is a choice of two for itself: a pixel is negative
    where its label lacks the class that the teacher sees, or where the teacher is unsure and rather does not see it.
    The images are the labelled ones and those that the last term before this one has shown, with the pseudo-label moved
    as it was there. Queues are part of the checkpoint and the same in all processes. A class whose queue is empty, or
    that has no anchor, adds 0.

    Args:
        teacher: who says what pixels are, as for the pseudo-labels.
        reliable: which pseudo-labels are reliable.
        factor: lambda_c; 0.1 in the paper, 1 in the released code.
        dimensions: of a representation; 256 in the paper, on 256 features.
        anchors: M, for each class; 256 in the released code.
        negatives: N, for each anchor; 50.
        temperature: tau; 0.5.
        threshold: delta_p; 0.3.
        low_rank: r_l; 3 in the paper, of 19 and 21 classes. At most the number of classes less 1, and 1 in multi-label.
        high_rank: r_h; 20.
        queue: length of each class's queue; 30,000 in the paper.
        enqueued: of how many of a step's negatives, drawn at random, each class's queue gets the representation; all of
            them in the paper.

    Raises:
        ValueError: when a number is out of its range.
    """

    needs = Needs(unlabeled=1, features=True)

    def __init__(
        self,
        teacher: Teacher,
        reliable: EntropyShare,
        factor: float = 0.1,
        dimensions: int = 64,
        anchors: int = 256,
        negatives: int = 50,
        temperature: float = 0.5,
        threshold: float = 0.3,
        low_rank: int = 3,
        high_rank: int = 20,
        queue: int = 30000,
        enqueued: int = 512,
    ) -> None:
        super().__init__(factor)
        whole = {"dimensions": dimensions, "anchors": anchors, "negatives": negatives, "low_rank": low_rank}
        for name, value in {**whole, "queue": queue, "enqueued": enqueued}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if temperature <= 0 or not 0 <= threshold < 1 or high_rank <= low_rank:
            raise ValueError(
                f"temperature must be above 0, threshold in [0, 1) and high_rank above low_rank, got {temperature}, "
                f"{threshold}, {high_rank} and {low_rank}."
            )
        self.teacher, self.reliable = teacher, reliable
        self.dimensions, self.anchors, self.negatives = dimensions, anchors, negatives
        self.temperature, self.threshold = temperature, threshold
        self.low_rank, self.high_rank, self.queue, self.enqueued = low_rank, high_rank, queue, min(enqueued, queue)
        self.head: nn.Module | None = None
        self.teacher_head: nn.Module | None = None
        self.waiting: list[tuple[Tensor, Tensor]] = []  # until the step of the optimizer

    def prepare(self, network: nn.Module, labels: LabelSpace) -> None:
        weight = unwrapped(network).final_conv.weight
        width, device, number = weight.shape[1], weight.device, labels.num_outputs
        layers = (nn.Linear(width, self.dimensions), nn.ReLU(), nn.Linear(self.dimensions, self.dimensions))
        self.head = nn.Sequential(*layers).to(device)
        self.teacher_head = copy.deepcopy(self.head).requires_grad_(False)
        self.register_buffer("queues", torch.zeros(number, self.queue, self.dimensions, device=device))
        self.register_buffer("filled", torch.zeros(number, dtype=torch.long, device=device))

    def forward(self, step: Step) -> Tensor:
        if not step.notes:
            raise ValueError("Contrast must come after the term whose pseudo-labels it asks for, got none before it.")
        image, shown = step.labeled["image"], step.shown
        pixels = self.pixels(step)
        features = [step.see(image).features, step.see(shown.image, shown.perturb).features]
        features, draw = torch.cat([as_rows(each) for each in features]), step.draw("Contrast")
        self.waiting.append(self.new_negatives(pixels, draw))
        loss = features.new_zeros((), dtype=torch.float32)
        for label in range(len(self.queues)):
            candidates = pixels.anchors[:, label].nonzero()[:, 0]
            held = min(int(self.filled[label]), self.queue)
            if not len(candidates) or not held:
                continue
            positive = self.center(pixels.features, candidates)
            anchors = self.head(features[candidates[drawn(len(candidates), self.anchors, draw, candidates)]].float())
            places = drawn(held, self.anchors * self.negatives, draw, candidates)
            others = self.queues[label, places].view(self.anchors, self.negatives, -1)
            likeness = [F.cosine_similarity(anchors, positive[None])[:, None]]
            likeness = torch.cat([*likeness, F.cosine_similarity(anchors[:, None], others, 2)], dim=1)
            first = torch.zeros(self.anchors, dtype=torch.long, device=likeness.device)
            loss = loss + F.cross_entropy(likeness / self.temperature, first)
        # a step without any still has a gradient, of 0, for every process of a distributed run
        return loss / len(self.queues) + 0 * sum(parameter.sum() for parameter in self.head.parameters())

    @torch.no_grad()
    def center(self, features: Tensor, rows: Tensor) -> Tensor:
        """The mean of the teacher's representations of some pixels, in parts: they may be all of a batch."""
        parts = rows.split(CHUNK)
        return sum(self.teacher_head(features[part].float()).sum(0) for part in parts) / len(rows)

    @torch.no_grad()
    def pixels(self, step: Step) -> Pixels:
        """What each pixel may be taken for."""
        labels, shown, pseudo = step.labels, step.shown, next(reversed(step.notes.values())).pseudo
        seen = [self.teacher.see(step, image) for image in (step.labeled["image"], shown.image)]
        truth = labels.one_hot(step.labeled["label"]) > 0.5
        ones = torch.ones_like(pseudo.label[:, :1], dtype=torch.float32)
        moved, inside = shown.change.of_label(pseudo.label, ones)
        found, inside = labels.one_hot(moved) > 0.5, inside > 0
        probabilities = [labels.probabilities(each.outputs.float()) for each in seen]
        entropies = entropy(labels, seen[1].outputs)
        sure = entropies <= self.reliable.bound(step, entropies)
        low = 1 if labels.multilabel else min(self.low_rank, labels.num_outputs - 1)
        rank = [rank_of(labels, each) for each in probabilities]
        anchors = [truth & (probabilities[0] > self.threshold)]
        anchors.append(found & sure & inside & (probabilities[1] > self.threshold))
        negatives = [~truth & (rank[0] < low), ~sure & inside & (rank[1] >= low) & (rank[1] < self.high_rank)]
        rows = [torch.cat([as_rows(each) for each in pair]) for pair in (anchors, negatives)]
        return Pixels(*rows, torch.cat([as_rows(each.features) for each in seen]))

    @torch.no_grad()
    def new_negatives(self, pixels: Pixels, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Representations of some of the step's negatives of each class, ``K n d``, and which of the rows there are."""
        keys = self.queues.new_zeros(len(self.queues), self.enqueued, self.dimensions)
        there = torch.zeros(keys.shape[:2], dtype=torch.bool, device=keys.device)
        for label in range(len(keys)):
            candidates = pixels.negatives[:, label].nonzero()[:, 0]
            number = min(self.enqueued, len(candidates))
            if number:
                order = on_device(draw.choice(len(candidates), number, replace=False), candidates)
                keys[label, :number] = self.teacher_head(pixels.features[candidates[order]].float())
                there[label, :number] = True
        return keys, there

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """The queues get what the step has found, the oldest go; the teacher's head follows."""
        pair = (list(self.teacher_head.parameters()), list(self.head.parameters()))
        torch._foreach_lerp_(*pair, 1 - self.teacher.rate)
        for waiting in self.waiting:
            for keys, there in zip(*map(gathered, waiting), strict=True):
                for label in range(len(keys)):
                    new = keys[label, there[label]]
                    places = (self.filled[label] + torch.arange(len(new), device=new.device)) % self.queue
                    self.queues[label, places] = new
                    self.filled[label] += len(new)
        self.waiting.clear()


def rank_of(labels: LabelSpace, probabilities: Tensor) -> Tensor:
    """How many outputs are more probable than each, ``B K H W [D]``; multi-label 0 where it is seen, else 1."""
    if labels.multilabel:
        return (probabilities <= 0.5).long()
    return probabilities.argsort(1, descending=True).argsort(1)


def drawn(number: int, times: int, draw: np.random.Generator, like: Tensor) -> Tensor:
    """Indices below a number, drawn with repetition."""
    return on_device(draw.integers(number, size=times), like)
