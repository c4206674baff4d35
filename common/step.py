"""One step of training, as methods and their parts see it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from common.draws import generator
from common.label_space import LabelSpace
from common.networks import Seen, unwrapped
from common.pseudo_label import PseudoLabel
from common.values import Values

# What becomes of the features of the encoder's levels before the decoder gets them.
Perturb = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]


class Noted(NamedTuple):
    """What a term taught: a pseudo-label, and the weight of its pixels ``B 1 h w [d]`` or ``B C h w [d]``.

    Attributes:
        factors: of a product of weights those that were multiplied, by their classes' names.
        viewed: the view that was to match it.
        outputs: what the network made of that view, without gradients.
    """

    pseudo: PseudoLabel
    weight: Tensor
    factors: dict[str, Tensor] | None = None
    viewed: Viewed | None = None
    outputs: Tensor | None = None


class Compared(NamedTuple):
    """A label that outputs were compared with, and the loss's gradient that came back to the outputs.

    Attributes:
        outputs: ``B C H W [D]``, without gradients.
        label, weight: what the loss got, in its forms.
        gradients: of the whole loss through this comparison alone, as the outputs; empty before the backward pass, or
            where none comes back.
    """

    outputs: Tensor
    label: Tensor
    weight: Tensor | None
    gradients: list[Tensor]


class Judged(NamedTuple):
    """What a gate says of the unlabelled images: ``B 1`` or, of each of their classes, ``B C``.

    Attributes:
        scores: the higher, the better it finds the pseudo-label, in [0, 1].
        accepted: 1 where it counts and 0 where it does not; between them the share of pixels that count.
    """

    scores: Tensor
    accepted: Tensor


class Viewed(NamedTuple):
    """A batch of images as a view shows them.

    Attributes:
        image: ``B C H W [D]``.
        change: how it came about, for the labels; a :class:`~common.views.Change`.
        perturb: what becomes of the features of the network's encoder while it looks at them, or None.
    """

    image: Tensor
    change: Any
    perturb: Perturb | None = None


class Step:
    """The batch, the network, and what the network has seen of the batch so far.

    Args:
        labels: the label space.
        network: the network that is trained.
        batch: ``labeled`` with ``image`` and ``label`` (and ``weight``, ``pairs``), ``unlabeled`` with ``image``, and
            ``values``, what the images' values mean.
        iteration: number of the iteration, from 1.
        progress: share of the training's iterations that lie behind, in [0, 1].
        seed: seed of all draws.
        joint: labelled and unlabelled images share a pass, and with it batch norm's statistics.
        weak_gradients: the pass over the unlabelled images, weakly augmented, keeps gradients.
        inferer: looks at whole images with the network, over sliding windows; then there are outputs alone.
        levels: what the network has seen holds its decoder's levels, too.
    """

    def __init__(
        self,
        labels: LabelSpace,
        network: nn.Module,
        batch: dict[str, dict[str, Any]],
        iteration: int = 0,
        seed: int = 0,
        joint: bool = False,
        weak_gradients: bool = True,
        inferer: Callable | None = None,
        progress: float = 0.0,
        levels: bool = False,
    ) -> None:
        self.labels, self.network, self.iteration, self.seed = labels, network, iteration, seed
        self.progress = progress
        self.labeled, self.unlabeled = batch.get("labeled"), batch.get("unlabeled")
        self.joint = joint and self.labeled is not None and self.unlabeled is not None
        self.values = batch.get("values", Values())
        self.weak_gradients, self.inferer, self.levels = weak_gradients, inferer, levels
        self.notes: dict[str, Noted] = {}
        self.noted: Noted | None = None
        self.judged: Judged | None = None
        self.term = "supervised"  # the name of the term that is at work
        self.compared: dict[str, list[Compared]] = {}  # by term
        self.factors: dict[int, dict[str, Tensor]] = {}  # of each product of weights, by its id
        self.numbers: dict[str, Tensor] = {}  # scalars that parts want in the log, by column
        self.taught: dict[tuple[int, int], Any] = {}  # by source and weight, which terms may share
        self.shown: Viewed | None = None  # the view of the last term that had one
        self._seen: dict[int, tuple[Tensor, Seen]] = {}  # with the image, so that its id is nobody else's
        self._seen_by: dict[tuple[int, int], tuple[Tensor, Seen]] = {}  # by other networks
        self._drawn: Counter[str] = Counter()
        self._gradients = torch.is_grad_enabled()

    def see(self, image: Tensor, perturb: Perturb | None = None, network: nn.Module | None = None) -> Seen:
        """What the network makes of a batch of images; of the same images it is not asked twice.

        Args:
            image: ``B C H W [D]``.
            perturb: see :class:`Viewed`; such a pass is made each time.
            network: another network, a teacher, which looks as in evaluation and without gradients.
        """
        if network is not None:
            key = id(network), id(image)
            if key not in self._seen_by:
                self._seen_by[key] = image, seen_in_evaluation(network, image)
            return self._seen_by[key][1]
        if perturb is not None:
            return self._pass(image, self._gradients, perturb)
        if id(image) not in self._seen:
            self._look(image)
        return self._seen[id(image)][1]

    def _look(self, image: Tensor) -> None:
        images = [part["image"] for part in (self.labeled, self.unlabeled) if part is not None]
        if self.joint and any(image is part for part in images):
            whole = self._pass(torch.cat(images), self._gradients)
            sizes = [len(part) for part in images]
            self._seen |= {id(part): (part, seen) for part, seen in zip(images, whole.split(sizes), strict=True)}
            return
        weak = self.unlabeled is not None and image is self.unlabeled["image"]
        self._seen[id(image)] = image, self._pass(image, self._gradients and (self.weak_gradients or not weak))

    def _pass(self, image: Tensor, gradients: bool, perturb: Perturb | None = None) -> Seen:
        with torch.set_grad_enabled(gradients):
            if self.inferer is not None or not gives_features(self.network):
                if perturb is not None:
                    raise ValueError(
                        f"a view that changes features needs a network that gives them, over whole images, got a "
                        f"{type(unwrapped(self.network)).__name__}: use common.networks.BasicUNet."
                    )
                return Seen(self.outputs_of(image))
            levels = {"levels": True} if self.levels else {}  # not every network has them
            return self.network(image, seen=True, perturb=perturb, **levels)

    def outputs_of(self, image: Tensor) -> Tensor:
        """The network's outputs in a pass of its own, each time it is called."""
        return self.network(image) if self.inferer is None else self.inferer(image, self.network)

    def draw(self, part: str) -> np.random.Generator:
        """Random numbers of a part of this step; the same part gets others when it asks again."""
        self._drawn[part] += 1
        return generator(self.seed, self.iteration, f"{part} {self._drawn[part]}")

    def view(self, view: nn.Module, image: Tensor) -> Viewed:
        """Images as a view shows them."""
        return view(image, self.draw(type(view).__name__), self.values, step=self)

    def note(self, pseudo: PseudoLabel, weight: Tensor, factors: dict[str, Tensor] | None = None) -> None:
        """Remembers what a term taught, for the log and for pictures."""
        self.noted = Noted(pseudo, weight.detach(), factors)

    def show(self, viewed: Viewed, outputs: Tensor) -> None:
        """Remembers the view that is to match what was noted, and what the network made of it."""
        self.shown, self.noted = viewed, self.noted._replace(viewed=viewed, outputs=outputs.detach())

    def compare(
        self, loss: Callable[..., Tensor], outputs: Tensor, label: Tensor, weight: Tensor | None, term: str = ""
    ) -> Tensor:
        """A loss of outputs and a label; remembered for the log, by the name of a term or of the one at work."""
        compared = Compared(outputs.detach(), label, weight, [])
        if outputs.requires_grad:
            outputs = outputs.view_as(outputs)  # others may compare the same outputs, with gradients of their own
            outputs.register_hook(lambda gradient: compared.gradients.append(gradient.detach()))
        self.compared.setdefault(term or self.term, []).append(compared)
        return loss(self.labels, outputs, label, weight)

    def judge(self, scores: Tensor, accepted: Tensor) -> None:
        """Remembers what a gate said, for the log; of several gates, the first."""
        if self.judged is None:
            self.judged = Judged(scores, accepted)


@torch.no_grad()
def seen_in_evaluation(network: nn.Module, image: Tensor) -> Seen:
    """What a network makes of images ``B C H W [D]`` in evaluation, with features where it gives any."""
    network.eval()
    return network(image, seen=True) if gives_features(network) else Seen(network(image))


def gives_features(network: nn.Module) -> bool:
    """Whether the network is one of ours, which gives features beside its outputs."""
    return hasattr(unwrapped(network), "forward_features")
