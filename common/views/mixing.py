"""Views that mix images with labelled ones, or where a class needs it: AugSeg's and AEL's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from common.draws import on_device
from common.parts import Needs
from common.views.boxes import beta_parameters, boxes
from common.views.change import Changes, Mixed, Pasted
from common.views.geometry import probability
from common.views.view import View, Viewed

if TYPE_CHECKING:
    from common.class_confidence import ClassConfidence
    from common.label_space import LabelSpace


class LabeledCutMix(View):
    """Fills a box of an image from a labelled one, the rather the less confident its pseudo-label is (Zhao et al. 2023,
    AugSeg, section 3.3).

    An image whose pseudo-label has the confidence a (:func:`mean_confidence`) gets one with the probability 1 - a. The
    box's share of the image is 1 - lambda, with lambda from a beta distribution; it has the image's aspect and lies
    within it. Its pixels have the labelled image's label, and count fully.

    Args:
        beta: parameters of the distribution; (8, 2) in the released code, for a fifth of the image on average.
    """

    asks = "outputs"

    def __init__(self, beta: Sequence[float] = (8.0, 2.0)) -> None:
        super().__init__()
        self.beta = beta_parameters(beta)

    @torch.no_grad()
    def forward(self, image, draw, values=None, groups=None, step=None) -> Viewed:
        number, labeled = len(image), step.labeled
        shares = (1 - draw.beta(*self.beta, (number, 1))) ** (1 / (image.ndim - 2)) * np.ones(image.ndim - 2)
        partner, chance = draw.integers(len(labeled["image"]), size=number), draw.random(number)
        confidence = mean_confidence(step.labels, step.noted.pseudo.known["outputs"])
        unsure = on_device(chance, confidence) > confidence  # compared on the device, which nobody waits for
        change = Pasted(
            boxes(shares, image.shape[2:], draw),
            labeled["image"],
            labeled["label"],
            partner,
            step.labels,
            weight=labeled.get("weight"),
            happens=unsure,
        )
        return Viewed(change.of_image(image), change)


def mean_confidence(labels: LabelSpace, outputs: Tensor) -> Tensor:
    """Confidence of each image's pseudo-label, ``B`` in [0, 1] (AugSeg, eq. 4).

    The mean over the pixels of (1 - H / ln C) max p, with H the entropy of the C outputs' probabilities; in multi-label
    each class is a choice of two, and the mean is over classes as well.
    """
    probabilities = labels.probabilities(outputs.float())
    if labels.multilabel:
        probabilities = torch.stack([probabilities, 1 - probabilities], dim=1)
    entropy = torch.special.entr(probabilities).sum(1) / np.log(probabilities.shape[1])
    return ((1 - entropy) * probabilities.amax(1)).flatten(1).mean(1).clamp(0, 1)


class ClassCutMix(View):
    """Fills a box of each image from one that shows a class that is learnt badly (Hu et al. 2021, AEL, section 3.3).

    For each image a class is drawn with the probability softmax(1 - confidence) of the bank, and another image of the
    batch that shows it by its pseudo-label; the box holds all of the class there, and as much around it as makes it
    ``area`` of the image at a random aspect. Where no other image shows the class, the box is anywhere. The images'
    places are looked up on the host, which waits for the device.

    Args:
        bank: how well each class is learnt.
        area: share of the image that the box has, if the class is not larger.
        prob: probability that an image gets a box.

    Raises:
        ValueError: for a batch of one image, which has no partner.
    """

    needs = Needs(unlabeled=2)

    def __init__(self, bank: ClassConfidence, area: float = 0.5, prob: float = 1.0) -> None:
        super().__init__()
        if not 0 < area <= 1:
            raise ValueError(f"area must be a share of the image in (0, 1], got {area}.")
        self.bank, self.area, self.prob = bank, area, probability(prob)

    @torch.no_grad()
    def forward(self, image, draw, values=None, groups=None, step=None) -> Viewed:
        number = len(image)
        if number < 2:
            raise ValueError(
                "ClassCutMix must have two or more unlabelled images in a batch, got one, which has no partner: raise "
                "unlabeled_batch."
            )
        if step.noted.pseudo.grid is not None:
            raise ValueError(
                "ClassCutMix must know the pseudo-label of every pixel, got that of a grid of pixels: set query_size "
                "to null, or take another view."
            )
        masks, need = step.labels.masks(step.noted.pseudo.label).cpu().numpy() > 0.5, self.bank.need()
        shown = masks.reshape(*masks.shape[:2], -1).any(-1)
        partner, found = np.zeros(number, int), np.zeros((number, image.ndim - 2, 2), int)
        for index in range(number):
            label = int(draw.choice(masks.shape[1], p=need))
            others = [other for other in range(number) if other != index]
            holders = [other for other in others if shown[other, label]]
            partner[index] = draw.choice(holders or others)
            shares = random_shares(self.area, image.ndim - 2, draw)
            if draw.random() >= self.prob:
                continue
            if holders:
                found[index] = box_around(masks[partner[index], label], shares, draw)
            else:
                found[index] = boxes(shares[None], image.shape[2:], draw)[0]
        change = Mixed(found, partner)
        return Viewed(change.of_image(image), change)


def random_shares(area: float, n: int, draw: np.random.Generator) -> np.ndarray:
    """Sides of a box as shares of the image's, ``n``, whose product is ``area``; none is longer than the image."""
    parts = draw.dirichlet(np.ones(n))  # of the logarithm of the area
    return area**parts


def box_around(mask: np.ndarray, shares: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """A box ``n 2`` with sides of at least these shares that holds a mask ``H W [D]``, at a random place."""
    box = []
    for axis, size in enumerate(mask.shape):
        line = np.flatnonzero(mask.any(tuple(other for other in range(mask.ndim) if other != axis)))
        first, last = int(line[0]), int(line[-1]) + 1
        side = max(last - first, round(shares[axis] * size))
        start = draw.integers(max(0, last - side), min(first, size - side) + 1)
        box.append((start, start + side))
    return np.array(box)


class ClassCopyPaste(View):
    """Pastes all pixels of badly learnt classes from one labelled image onto another (AEL, section 3.3).

    For each image ``classes`` of the foreground classes are drawn, with the probability softmax(1 - confidence) of the
    bank, and another image of the batch, whose pixels of these classes it gets. It changes the labelled images, before
    the supervised loss; a single one stays as it is.

    Args:
        bank: how well each class is learnt.
        classes: number of draws; 3 for Cityscapes and 1 for Pascal in the released configurations.
        prob: probability that an image gets any.
    """

    def __init__(self, bank: ClassConfidence, classes: int = 1, prob: float = 0.5) -> None:
        super().__init__()
        if classes < 1:
            raise ValueError(f"classes must be at least 1, got {classes}.")
        self.bank, self.classes, self.prob = bank, classes, probability(prob)

    @torch.no_grad()
    def forward(self, image, draw, values=None, groups=None, step=None) -> Viewed:
        number, label = len(image), step.labeled["label"]
        if number < 2:
            return Viewed(image, Changes())
        masks = step.labels.masks(label)
        need, chosen = self.bank.need(), np.zeros((number, masks.shape[1]), bool)
        for row in chosen:
            row[draw.choice(len(need), self.classes, p=need)] = draw.random() < self.prob
        partner = (np.arange(number) + draw.integers(1, number)) % number
        chosen = on_device(chosen, masks).view(*chosen.shape, *[1] * (masks.ndim - 2))
        there = masks[on_device(partner, masks)] > 0.5
        change = Mixed(None, partner, inside=(there & chosen).any(1, keepdim=True))
        return Viewed(change.of_image(image), change)
