"""The strong view whose magnitudes are learnt on labelled images: CTAugment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.networks.utils import eval_mode
from torch import Tensor

from common.draws import on_device
from common.label_space import LabelSpace
from common.networks import unwrapped
from common.ranks import total
from common.step import Step
from common.views.change import BACKGROUND
from common.views.strong import ONE_SIDED, WITHOUT_STRENGTH, Strong, views_of
from common.views.view import Chain


class CTAugment(Strong):
    """Strongly augmented images, as strongly as the network still segments labelled ones.

    CTAugment (Berthelot et al. 2020, ReMixMatch, section 3.2), with the operations of :class:`Strong`. The range of
    each operation's strength, from -``magnitude`` to ``magnitude``, or from 0 on where the sign does not matter
    (sharpness, blur, noise), is divided into ``bins`` of weight m, 1 at first. An unlabelled image gets operations at
    random, and of each a bin with the probability

    .. math::
        \\hat m_i / \\sum_j \\hat m_j, \\quad \\hat m_i = m_i \\text{ where } m_i > \\theta, \\text{ else } 0

    and a strength drawn evenly from the bin; then the box of CutOut. After each step the batch's labelled images get
    operations with bins drawn evenly, and no box, and the network segments them in evaluation, without gradients. The
    bins that were drawn learn from how well it does:

    .. math::
        m_i \\leftarrow \\rho m_i + (1 - \\rho) \\omega, \\quad
        \\omega = 1 - \\frac{1}{2 |V|} \\sum_{x \\in V} \\sum_c |p_c(x) - y_c(x)|

    with p the probabilities, y the moved label of 0 and 1, c the network's outputs, and V the image's pixels that have
    a label and come from inside the image: the mean over pixels of what the paper has for an image. In multi-class it
    is the mean probability of the true class; in multi-label each class is a choice of two, and the mean is over
    classes as well. Where labelled images have weights of pixels, it is the weighted mean. The paper divides the sum
    over c by the number of classes, too, by which of ten classes no weight falls below 0.9; the released code does not.

    Where no bin of an operation is above the threshold, those count as above it that are so relative to the best one,
    with which the released code always compares. A bin that is drawn k times in a step moves as if each time had the
    mean omega.

    The weights are the same in all processes, which learn from the labelled images of all, and are part of the
    checkpoint. They are read on the host, which waits for the device. The pass over the labelled images takes time.

    Args:
        operations, magnitude, geometry, cutout, cutout_label, names: as of :class:`Strong`; the magnitude is the end of
            the range that is divided.
        bins: number of bins of each operation; 17 in the paper for most.
        threshold: theta; 0.8 in the paper.
        decay: rho; 0.99 in the paper. A bin that always has the same omega has lost half of its distance to it when it
            was drawn 69 times; a short training needs less.
        balanced: the mean over pixels is over those of each class first, the background among them, and then over the
            classes that an image shows. Otherwise a small structure hardly counts: a network that overlooks a lesion
            of 1 % of the image has an omega of 0.99.

    Raises:
        ValueError: when a setting is out of range, or no operation has a strength to learn.
    """

    def __init__(
        self,
        operations: int | Sequence[int] = 2,
        magnitude: float = 1.0,
        geometry: bool = True,
        cutout: float = 0.5,
        cutout_label: str = BACKGROUND,
        names: Sequence[str] | None = None,
        bins: int = 17,
        threshold: float = 0.8,
        decay: float = 0.99,
        balanced: bool = False,
    ) -> None:
        super().__init__(operations, magnitude, geometry, cutout, cutout_label, names)
        if bins < 2:
            raise ValueError(f"bins must be at least 2, got {bins}: 17 is the paper's.")
        for name, value, usual in (("threshold", threshold, 0.8), ("decay", decay, 0.99)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} of CTAugment must be in [0, 1), got {value}: {usual} is the paper's.")
        self.learnt = [name for name in dict.fromkeys(self.drawn_from) if name not in WITHOUT_STRENGTH]
        if not self.learnt or not self.numbers[1] or not magnitude:
            raise ValueError(
                f"CTAugment must have operations whose strength it can learn, got {operations} of "
                f"{', '.join(self.drawn_from)} with the magnitude {magnitude}: take Strong."
            )
        self.bins, self.threshold, self.decay, self.balanced = bins, threshold, decay, balanced
        self.register_buffer("weights", torch.ones(len(self.learnt), bins))

    def prepare(self, network: torch.nn.Module, labels: LabelSpace) -> None:
        self.weights = self.weights.to(next(network.parameters()).device)

    # ---- unlabelled images

    def strengths(self, names: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """Strengths from the bins with which the network copes."""
        limits = np.concatenate([self.probabilities(), np.full((1, self.bins), 1 / self.bins)]).cumsum(1)
        limits /= limits[:, -1:]  # the last one is 1, so that a number below it falls into a bin that has a chance
        bins = (draw.random(names.shape)[..., None] >= limits[self.rows(names)]).sum(-1)
        return self.strengths_in(names, bins, draw)

    def probabilities(self) -> np.ndarray:
        """Probability of each bin of the operations :attr:`learnt`, ``operations bins``, float64 on the host."""
        weights = self.weights.double().cpu().numpy().clip(min=1e-12)
        best = weights.max(1, keepdims=True)
        limit = np.where(best > self.threshold, self.threshold, self.threshold * best)
        kept = np.where(weights > limit, weights, 0)
        return kept / kept.sum(1, keepdims=True)

    def rows(self, names: np.ndarray) -> np.ndarray:
        """Which of the operations :attr:`learnt` each name is, -1 for one without a strength."""
        rows = np.full(names.shape, -1)
        for row, name in enumerate(self.learnt):
            rows[names == name] = row
        return rows

    def strengths_in(self, names: np.ndarray, bins: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """Strengths drawn evenly from bins of operations, in their shape."""
        share = (bins + draw.random(bins.shape)) / self.bins
        return self.magnitude * np.where(np.isin(names, ONE_SIDED), share, 2 * share - 1)

    # ---- labelled images

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        image, label, weight = (step.labeled.get(key) for key in ("image", "label", "weight"))
        draw = step.draw("bins of CTAugment")
        names = self.chosen(len(image), draw)
        bins = draw.integers(self.bins, size=names.shape)
        views = views_of(names, self.strengths_in(names, bins, draw), np.arange(len(image)))
        viewed = Chain(views)(image, draw, step.values, step=step)
        weight = torch.ones_like(label[:, :1], dtype=torch.float32) if weight is None else weight
        network = unwrapped(step.network)  # wrappers would exchange buffers, or compile it once more
        with eval_mode(network):
            outputs = network(viewed.image)
        label, weight = viewed.change.of_label(label, weight)
        self.learn(names, bins, *agreement(step.labels, outputs, label, weight, self.balanced))

    def learn(self, names: np.ndarray, bins: np.ndarray, omega: Tensor, there: Tensor) -> None:
        """Moves the weights of bins that images were shown with.

        Args:
            names, bins: of each image's operations, ``operations B``.
            omega: agreement of each image, ``B``.
            there: whether the image has any, ``B`` of 0 and 1.
        """
        rows = self.rows(names)
        cells = np.where(rows < 0, -1, rows * self.bins + bins)
        times = (cells[..., None] == np.arange(self.weights.numel())).sum(0)  # of each image and bin
        times = on_device(times, omega) * there[:, None]
        sums, counts = total(torch.stack([(times * omega[:, None]).sum(0), times.sum(0)])).view(2, *self.weights.shape)
        self.weights.copy_(torch.lerp(sums / counts.clamp(min=1), self.weights, self.decay**counts))


def agreement(
    labels: LabelSpace, outputs: Tensor, label: Tensor, weight: Tensor, balanced: bool = False
) -> tuple[Tensor, Tensor]:
    """How well outputs agree with a label: omega of :class:`CTAugment`.

    Args:
        labels: the label space.
        outputs: of the network, ``B K H W [D]``.
        label: hard or soft; pixels below 0 do not count.
        weight: how much pixels count, ``B 1 H W [D]``, or of each class in multi-label.
        balanced: all classes that an image shows count alike, however large they are.

    Returns:
        Omega of each image, ``B`` in [0, 1], and whether any of its pixels counts, ``B`` of 0 and 1.
    """
    truth, valid = labels.one_hot(label.clamp(min=0)), label >= 0
    difference = (labels.probabilities(outputs.float()) - truth).abs()
    if not labels.multilabel:  # of a choice of two, half of the sum is the difference of one
        difference, valid = difference.sum(1, keepdim=True) / 2, valid.all(1, keepdim=True)
    weight = (weight * valid).expand_as(difference)
    weight = (evened(labels, truth, weight) if balanced else weight).flatten(1)
    whole = weight.sum(1)
    there = (whole > 0).to(whole.dtype)
    return 1 - (difference.flatten(1) * weight).sum(1) / torch.where(whole > 0, whole, 1), there


def evened(labels: LabelSpace, truth: Tensor, weight: Tensor) -> Tensor:
    """Weights of pixels that add up to 1 over each class that an image shows.

    In multi-label a class and its absence are two.

    Args:
        labels: the label space.
        truth: one channel for each of the network's outputs, ``B K H W [D]``.
        weight: ``B 1 H W [D]``, in multi-label ``B K H W [D]``.
    """
    shares = torch.stack([truth, 1 - truth] if labels.multilabel else [truth]) * weight
    sums = shares.flatten(3).sum(3).view(*shares.shape[:3], *[1] * (truth.ndim - 2))
    found = (shares / torch.where(sums > 0, sums, 1)).sum(0)
    return found if labels.multilabel else found.sum(1, keepdim=True)
