"""Pseudo-labels from the nearest labelled pixels in feature space."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from common.label_space import LabelSpace
from common.parts import Needs, Part
from common.pseudo_label import Grid, PseudoLabel
from common.sources.nearest import labels_by_class, reference_labels
from common.sources.teacher import Teacher

if TYPE_CHECKING:
    from common.step import Step

logger = logging.getLogger(__name__)

LABELS = ("nearest", "votes")


class References(Part):
    """The label of each unlabelled pixel is that of its nearest labelled one (Seibold et al. 2022, eq. 1-5).

    The batch's labelled images are the pool. Its features and labels are sub-sampled to ``reference_size`` along each
    axis, the unlabelled features to ``query_size``; every query takes the label of its nearest reference (eq. 3, 4).
    Known about it: ``distances`` to the classes among the k nearest (eq. 5), of which
    :class:`~common.weights.ClassEntropy` makes RPG's weight, and ``predicted``, the network's own outputs at the
    queries, which may say another class.

    Labels are of the queries' own pixels, and losses are taken there. Bringing them to the image's size instead would
    move them: by half a cell where sub-sampling takes a cell's corner, and still by half a pixel where it takes the
    centre, since a cell of an even number of pixels has none in its middle. The network follows such a shift step by
    step: measured on phantoms, it took the mean IoU from 0.75 to 0.43 within 600 iterations.

    Args:
        neighbors: number k of nearest references that the class distances are taken from; a float in (0, 1] is a share
            of the pool. The paper's 7000 of 3 x 64 x 64 is a share of 0.57.
        reference_size: size s of the pool's feature maps along each axis, 64 in the paper. A volume has as many pixels
            as an image: s^(2/3) along each axis, 16 for 64.
        query_size: the same for the unlabelled images; ``None`` for their full resolution.
        background: make background (no class at all) a class of its own in multi-label tasks. With the literal formula
            (``False``) a background pixel has the distance 1 to all classes, hence the weight 0, and is never learnt.
        moving_grid: draw anew in each iteration which pixel of a cell is asked, instead of the one in the middle.
        per_class: ``neighbors`` are of each class's own references, a share of them or so many, and the distance to a
            class is the mean distance to these (:func:`~common.sources.nearest.labels_by_class`). Among the k nearest
            of all, there is another class as soon as k exceeds the number of a class's references: ``ClassEntropy``
            then says how many these are.
        label: ``"nearest"``, or with ``per_class`` ``"votes"`` for the class, of overlapping ones the combination,
            whose own nearest references are nearest in the mean: each votes for it by its similarity.
        teacher: decay of an exponential average of the network's weights, or a :class:`~common.sources.Teacher` that
            other terms may share: features, of queries and references, and ``predicted`` are then this network's, in
            evaluation. ``None`` for those of the network itself.

    Raises:
        ValueError: when a setting is out of range.
    """

    needs, knows = Needs(unlabeled=1, class_cover=True, features=True), ("distances", "predicted")

    def __init__(
        self,
        neighbors: int | float = 7000,
        reference_size: int = 64,
        query_size: int | None = 64,
        background: bool = True,
        moving_grid: bool = False,
        per_class: bool = False,
        label: str = "nearest",
        teacher: float | Teacher | None = None,
    ) -> None:
        super().__init__()
        for name, size in (("reference_size", reference_size), ("query_size", query_size)):
            if size is not None and size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}.")
        if neighbors <= 0 or (isinstance(neighbors, float) and neighbors > 1):
            raise ValueError(f"neighbors must be a positive number or a share in (0, 1], got {neighbors}.")
        if label not in LABELS:
            raise ValueError(f"label must be one of {LABELS}, got {label!r}.")
        if label == "votes" and not per_class:
            raise ValueError(
                "label 'votes' needs per_class, got none: among the nearest of all, a class's distance is that of a "
                "single reference, and the smallest one is the nearest's. Set per_class to true."
            )
        self.neighbors, self.background, self.moving_grid = neighbors, background, moving_grid
        self.reference_size, self.query_size, self.per_class = reference_size, query_size, per_class
        self.label, self.warned = label, False
        self.teacher = teacher if teacher is None or isinstance(teacher, Teacher) else Teacher(teacher)

    def check(self, labels: LabelSpace) -> None:
        if labels.num_outputs + (labels.multilabel and self.background) < 2:
            raise ValueError(
                "the references must be of two or more classes, got one: leave background a class of its own."
            )

    @torch.no_grad()
    def forward(self, step: Step) -> PseudoLabel:
        labeled, unlabeled = step.labeled, step.unlabeled
        size = tuple(unlabeled["image"].shape[2:])
        phases = step.draw("query grid").random(len(size)).tolist() if self.moving_grid else None
        grid = Grid.of_cells(size, cells(self.query_size, len(size)), phases)
        network = None if self.teacher is None else self.teacher.network  # None, too, without a training
        seen = step.see(unlabeled["image"], network=network)
        queries, predicted = (each if grid is None else grid.of(each) for each in (seen.features, seen.outputs))
        pool = Grid.of_cells(tuple(labeled["image"].shape[2:]), cells(self.reference_size, len(size)))
        references, label = step.see(labeled["image"], network=network).features, labeled["label"]
        if pool is not None:
            references, label = pool.of(references), pool.of(label)
        label = as_rows(step.labels.hard(label.float()))
        self.warn(len(label))
        search = partial(labels_by_class, votes=self.label == "votes") if self.per_class else reference_labels
        found = search(
            as_rows(queries),
            as_rows(references),
            label if step.labels.multilabel else label.squeeze(1).long(),
            self.neighbors,
            num_classes=step.labels.num_outputs,
            background=self.background,
            check=False,  # what is not finite ends the training by its loss, with the names of the images
        )
        shape = (len(queries), *queries.shape[2:])
        nearest = found.labels.float() if step.labels.multilabel else found.labels.float().unsqueeze(1)
        known = {"distances": maps(found.distances, shape), "predicted": predicted.detach().float()}
        return PseudoLabel(maps(nearest, shape), grid, known, network)

    def warn(self, references: int) -> None:
        """Says once when all references are among the k nearest."""
        if isinstance(self.neighbors, int) and self.neighbors >= references > 1 and not self.warned:
            what, share = "every class is among the nearest", "0.57 for the paper's"
            if self.per_class:
                what, share = "the distance to a class is the mean over all of its references", "0.1"
            logger.warning(
                f"neighbors = {self.neighbors} are all {references} references of this pool, so that {what} and "
                f"weights say little: give a share, such as {share}."
            )
            self.warned = True


def cells(size: int | None, dimensions: int) -> int | None:
    """Cells along an axis, such that there are size x size of them, roughly, in any number of dimensions."""
    return None if size is None else max(1, round(size ** (2 / dimensions)))


def as_rows(maps: Tensor) -> Tensor:
    """Maps ``B C H W [D]`` as a list of pixels, ``B*H*W[*D] C``."""
    return maps.movedim(1, -1).flatten(0, -2)


def maps(rows: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The reverse of :func:`as_rows`: rows ``B*H*W[*D] C`` as ``B C H W [D]`` with ``shape`` (B, H, W, [D])."""
    return rows.reshape(*shape, -1).movedim(-1, 1)
