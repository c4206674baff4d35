"""Deep supervision: coarse levels of the decoder say which classes occur in each of their cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.label_space import LabelSpace
from common.networks import pixelwise_head, unwrapped
from common.parts import Needs, Part
from common.terms.term import Term

if TYPE_CHECKING:
    from common.step import Step


class LevelHeads(Part):
    """A 1 x 1 convolution on each level of the decoder below full resolution, as many outputs as the network has.

    Terms that learn at the levels may share them. They are trained with the network, which does without them in
    inference.

    Args:
        seed: seed of their first weights.

    Raises:
        ValueError: when the network does not give the levels of its decoder.
    """

    needs = Needs(features=True, levels=True)

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        self.heads: nn.ModuleList | None = None

    def prepare(self, network: nn.Module, labels: LabelSpace) -> None:
        if self.heads is not None:
            return
        network, draw = unwrapped(network), torch.Generator().manual_seed(self.seed)
        widths, final = getattr(network, "level_widths", None), getattr(network, "final_conv", None)
        if not widths or final is None:
            raise ValueError(
                f"the network must give the levels of its decoder (level_widths) and have a final_conv, for heads on "
                f"the levels, got a {type(network).__name__}: use common.networks.BasicUNet."
            )
        heads = [pixelwise_head(final, width, labels.num_outputs, draw) for width in widths]
        self.heads = nn.ModuleList(heads)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Logits ``B K h w [d]`` of all levels, from their features ``B d h w [d]``."""
        return [head(level) for head, level in zip(self.heads, levels, strict=True)]


class DeepSupervision(Term):
    """Labelled images at all levels of the decoder, with masks of several classes (Reiss et al. 2021, MLDS).

    .. math::
        \\frac{1}{L} \\sum_l \\frac{1}{N_l K} \\sum_{i, k} w_{li} \\,
        \\mathrm{BCE} \\left( \\sigma(z_{lik}), \\max_{x \\in i} y_k(x) \\right)

    over the L levels below full resolution, the N_l cells of a level and the network's K outputs, the softmax's
    background among them: a cell is positive for each class that occurs among its pixels x. (Levels whose size does not
    divide the image's have the overlapping cells of torch's adaptive pooling.)

    The weight w of a cell is the least one of its pixels. So a cell does not count, for no class, where one of them
    comes from outside of the image and does not count: what it would show is not known, and a cell lacks a class only
    where all of its pixels do. Were such cells counted for the classes that their other pixels show, they would be
    positive or nothing, and teach that everything occurs at the border. The mean is over all cells, as in
    :class:`~common.losses.CrossEntropy`. Pixels whose label is below 0 do not count. Of a soft label, the target is the
    largest probability in the cell.

    Args:
        factor: how much the term counts.
        heads: the levels' heads, where terms share them.
        seed: seed of the first weights of heads that are its own.

    Raises:
        ValueError: when the network does not give the levels of its decoder.
    """

    def __init__(self, factor: float = 1.0, heads: LevelHeads | None = None, seed: int = 0) -> None:
        super().__init__(factor)
        self.heads = heads or LevelHeads(seed)

    def forward(self, step: Step) -> Tensor:
        labeled = step.labeled
        outputs = self.heads(step.see(labeled["image"]).levels)
        return level_loss(step.labels, outputs, labeled["label"], labeled.get("weight"))


class DeepMatch(DeepSupervision):
    """The same on unlabelled images, with the pseudo-labels of the last term before this one.

    The images are as that term has shown them, and label and weight are moved with them as there.

    Raises:
        ValueError: when no term before it has taught a pseudo-label, or not one of all pixels.
    """

    needs = Needs(unlabeled=1)

    def forward(self, step: Step) -> Tensor:
        if not step.notes:
            raise ValueError("DeepMatch must come after the term whose pseudo-labels it matches, got none before it.")
        noted, shown = next(reversed(step.notes.values())), step.shown
        pseudo, weight = noted.pseudo, noted.weight
        if pseudo.grid is not None:
            some = " x ".join(map(str, pseudo.grid.shape))
            raise ValueError(
                f"DeepMatch must have pseudo-labels of all pixels, got those of a grid of {some}: set query_size of "
                "the source to null, or take another source."
            )
        outputs = self.heads(step.see(shown.image, shown.perturb).levels)
        return level_loss(step.labels, outputs, *shown.change.of_label(pseudo.label, weight))


def level_loss(labels: LabelSpace, outputs: Sequence[Tensor], label: Tensor, weight: Tensor | None = None) -> Tensor:
    """The mean over levels of binary cross-entropy with a label that is max-pooled to each level's size.

    In 32-bit floats also under mixed precision.

    Args:
        labels: the label space.
        outputs: the levels' logits, ``B K h w [d]`` each.
        label: a label of the label space or a soft one, ``B C H W [D]``.
        weight: weight of each pixel, ``B 1 H W [D]``, or in multi-label of each class of a pixel.
    """
    with torch.no_grad():
        known = label >= 0
        masks = labels.one_hot(label.clamp(min=0))
        counts = known.float() if labels.multilabel else known.all(1, keepdim=True).float()
        counts = counts if weight is None else counts * weight.float()
    losses = []
    for each in outputs:
        size = each.shape[2:]
        target, least = max_pooled(masks, size), -max_pooled(-counts, size)
        losses.append(F.binary_cross_entropy_with_logits(each.float(), target, least))
    return torch.stack(losses).mean()


def max_pooled(maps: Tensor, size: Sequence[int]) -> Tensor:
    """The largest values of maps ``B C H W [D]`` in each cell of a coarser size, ``B C h w [d]``."""
    pool = F.adaptive_max_pool2d if maps.ndim == 4 else F.adaptive_max_pool3d
    return pool(maps, tuple(size))
