"""Reconstruction of what a segmentation tells apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from common.label_space import LabelSpace
from common.networks import pixelwise_head, unwrapped
from common.parts import Needs
from common.terms.term import Term

if TYPE_CHECKING:
    from common.step import Step


class Reconstruction(Term):
    """Two images made of the penultimate features: the classes' region, and the background's (after Chen et al. 2019).

    A head of one 1 x 1 convolution makes r1 and r0. They shall be the image x where the network's own segmentation p
    sees a class, and where it sees none:

    .. math::
        \\frac{1}{N} \\sum_x \\left[ (r_1 - p \\, x)^2 + (r_0 - (1 - p) \\, x)^2 \\right]

    with the mean over the N pixels of labelled and unlabelled images alike; p is the probability of any class (for
    several labels that may overlap, 1 - prod(1 - p_c)). It counts as a given number, without gradient: else the easiest
    way to a small error is one region that is empty, and unlabelled images would be rewarded for a segmentation without
    any class. So the term changes the features, which have to hold what tells the regions apart.

    Args:
        factor: how much the term counts.
        seed: seed of the head's first weights.

    Raises:
        ValueError: when the network has no ``final_conv``.
    """

    needs = Needs(unlabeled=1, features=True, weak_gradients=True)

    def __init__(self, factor: float = 1.0, seed: int = 0) -> None:
        super().__init__(factor)
        self.seed = seed
        self.head: nn.Module | None = None

    def prepare(self, network: nn.Module, labels: LabelSpace) -> None:
        if self.head is None:
            self.head = reconstruction_head(unwrapped(network), self.seed)

    def forward(self, step: Step) -> Tensor:
        error = pixels = 0.0
        for part in (step.labeled, step.unlabeled):
            image, seen = part["image"], step.see(part["image"])
            attention = foreground(step.labels, seen.outputs)
            error = error + squared_error(self.head(seen.features), image, attention)
            pixels += image.numel()
        return error / pixels


def reconstruction_head(network: nn.Module, seed: int = 0) -> nn.Module:
    """A 1 x 1 convolution from the penultimate features to two images of the network's input channels.

    See :func:`~common.networks.pixelwise_head`.

    Raises:
        ValueError: when the network has no ``final_conv``.
    """
    final = getattr(network, "final_conv", None)
    if final is None:
        raise ValueError(
            f"the network must have a final_conv, from whose input images are reconstructed, got a "
            f"{type(network).__name__}: use common.networks.BasicUNet."
        )
    convolution = type(final)
    channels = next(module.in_channels for module in network.modules() if isinstance(module, convolution))
    return pixelwise_head(final, final.in_channels, 2 * channels, torch.Generator().manual_seed(seed))


def foreground(labels: LabelSpace, outputs: Tensor) -> Tensor:
    """Probability that a pixel is of any class, ``B 1 H W [D]``, without gradient."""
    probabilities = labels.probabilities(outputs.detach().float())
    return 1 - (1 - probabilities).prod(1, keepdim=True) if labels.multilabel else 1 - probabilities[:, :1]


def squared_error(reconstruction: Tensor, image: Tensor, attention: Tensor) -> Tensor:
    """Sum of the squared errors of the two regions' reconstructions.

    Args:
        reconstruction: ``B 2c H W [D]``, the classes' region first.
        image: ``B c H W [D]``.
        attention: p, ``B 1 H W [D]``.
    """
    regions = torch.cat([attention * image, (1 - attention) * image], 1).float()
    return (reconstruction.float() - regions).square().sum()
