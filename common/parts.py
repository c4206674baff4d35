"""What methods are made of: parts that may have parameters, an optimizer, work after the step, and state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from common.label_space import LabelSpace
    from common.step import Step


@dataclass(frozen=True)
class Needs:
    """What a part asks of the data and of the network; a method needs what all its parts need.

    Attributes:
        unlabeled: fewest unlabelled images of a batch; 0 for a part that does without them.
        pairs: labelled images come in pairs from the same place, the first halves of all pairs first (POPCORN).
        class_cover: every class occurs among a batch's labelled images (RPG).
        features: the network gives the features of its penultimate layer and its bottleneck.
        levels: it gives those of its decoder's levels, too.
        boxes: unlabelled images come with the boxes of a detector (:class:`~common.detection.DetectorStage`).
        weak_gradients: the weak view of the unlabelled images is learnt from, so that its pass keeps gradients.
        value_range: lowest and highest value that images may have; None for any.
    """

    unlabeled: int = 0
    pairs: bool = False
    class_cover: bool = False
    features: bool = False
    levels: bool = False
    boxes: bool = False
    weak_gradients: bool = False
    value_range: tuple[float, float] | None = None

    def __or__(self, other: Needs) -> Needs:
        if self.value_range and other.value_range and self.value_range != other.value_range:
            raise ValueError(f"parts must agree on value_range, got {self.value_range} and {other.value_range}.")
        either = {name: mine or getattr(other, name) for name, mine in vars(self).items()}
        return Needs(**{**either, "unlabeled": max(self.unlabeled, other.unlabeled)})


class Part(nn.Module):
    """A source, weight, view or term. Its parameters join the main optimizer, its buffers the checkpoint.

    Anything that keeps state between iterations keeps it in parameters and buffers (a teacher's weights, a queue), and
    moves on in :meth:`after_step`. What is trained by an optimizer of its own is an :class:`OwnOptimizer`.
    """

    needs = Needs()
    knows: tuple[str, ...] | None = None  # of a source: what weights may ask about its labels; None for not said

    def check(self, labels: LabelSpace) -> None:
        """Refuses a label space that the part cannot work with, when a method is put together.

        Raises:
            ValueError: saying what was found and what is expected.
        """

    def prepare(self, network: nn.Module, labels: LabelSpace) -> None:
        """Makes what depends on the network (a teacher, a head), before the optimizer is made."""

    def start(self, network: nn.Module) -> None:
        """Called before the first step of a training, once weights that were given or resumed have been loaded."""

    def after_step(self, step: Step) -> None:
        """Called after each step of the optimizer, without gradients and with what the step has seen."""


def check_source(part: Part, source: Part) -> None:
    """Refuses a source that does not know what a weight or a view, or one within it, asks.

    Raises:
        ValueError: naming both.
    """
    for inner in part.modules():
        asks, knows = getattr(inner, "asks", None), getattr(source, "knows", None)
        if asks is not None and knows is not None and not {asks, *getattr(inner, "accepts", ())} & set(knows):
            raise ValueError(
                f"{type(inner).__name__} asks for the {asks} behind a pseudo-label, got {type(source).__name__}, which "
                f"knows {', '.join(knows) or 'nothing'}: take another source, or something else in its place."
            )


class OwnOptimizer(Part):
    """A part with an optimizer of its own (a discriminator), whose state is part of the checkpoint.

    Its parameters are left out of the main optimizer. It steps in :meth:`after_step`, under ``torch.enable_grad()``;
    where several processes train, after :func:`~common.ranks.share_gradients`.
    """

    optimizer: torch.optim.Optimizer | None = None

    def get_extra_state(self) -> dict[str, Any]:
        return {} if self.optimizer is None else self.optimizer.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        if self.optimizer is not None:
            self.optimizer.load_state_dict(state)
