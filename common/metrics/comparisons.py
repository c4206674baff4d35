"""What the terms of a loss asked of the network: from which pixels gradients came, and what was left to be learnt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from common.label_space import LabelSpace

if TYPE_CHECKING:
    from common.step import Compared, Noted


@torch.no_grad()
def comparison_statistics(labels: LabelSpace, compared: Mapping[str, Sequence[Compared]]) -> dict[str, float]:
    """Numbers of a step's terms that compare the network's outputs with a label.

    Args:
        labels: the label space.
        compared: what each term compared, with gradients, see :class:`~common.step.Compared`.

    Returns:
        ``gradient_<term>``, the term's share of the sum over these terms and all pixels of |dL/d outputs|, where there
        are several; ``gradient_<term>_<class>``, of the term's own sum the share of pixels whose label is of the class
        (where classes do not overlap, the rest is background's); and ``agreement_<term>``, the share of pixels, or of
        classes of pixels where weights are of these, each counting as its weight says, in which the outputs say the
        label already. Terms that compare nothing with a label (an equivariance, say) are not among them. What is
        undefined, or not finite, has no value.
    """
    numbers: dict[str, Tensor] = {}
    sums = {name: sum(_gradients(labels, each) for each in of) for name, of in compared.items()}
    whole = sum(each[0] for each in sums.values())
    if sums:  # of half precision one may be infinite, beside which the shares of others would be 0
        sums = {name: torch.where(whole.isfinite(), each, torch.nan) for name, each in sums.items()}
    for name, (total, *classes) in sums.items():
        if len(sums) > 1:
            numbers[f"gradient_{name}"] = total / whole
        numbers |= {f"gradient_{name}_{of}": part / total for of, part in zip(labels.classes, classes, strict=True)}
        agreed = sum(_agreed(labels, each) for each in compared[name])
        numbers[f"agreement_{name}"] = agreed[0] / agreed[1]
    return defined(numbers)


@torch.no_grad()
def view_statistics(labels: LabelSpace, notes: Mapping[str, Noted], truth: Tensor) -> dict[str, float]:
    """How well the network does on the views that pseudo-labels are to be matched on.

    Args:
        labels: the label space.
        notes: what each term taught, with the view and the network's outputs for it, see :class:`~common.step.Noted`.
        truth: the hidden truth of the unlabelled images, before any view.

    Returns:
        ``view_accuracy_<term>``, the share of the view's pixels in which every class is right, and
        ``view_iou_<term>``, the mean over those classes that occur. Truth moves with the view; what it leaves without
        one is left out. A truth in other classes than the label's has no value.
    """
    channels = labels.num_outputs if labels.multilabel else 1
    numbers: dict[str, Tensor] = {}
    for name, noted in notes.items():
        if noted.viewed is None or noted.outputs is None or truth.shape[1] != channels:
            continue
        moved, there = noted.viewed.change.of_label(truth.float(), torch.ones_like(truth[:, :1], dtype=torch.float32))
        there = there[:, :1] > 0.5
        masks, true = (labels.masks(label) > 0.5 for label in (labels.predict(noted.outputs), moved))
        numbers[f"view_accuracy_{name}"] = ((masks == true).all(1, keepdim=True) & there).sum() / there.sum()
        over = [0, *range(2, masks.ndim)]
        ious = (masks & true & there).sum(over) / ((masks | true) & there).sum(over)
        numbers[f"view_iou_{name}"] = ious.nanmean()
    return defined(numbers)


def _gradients(labels: LabelSpace, compared: Compared) -> Tensor:
    """Sums of |dL/d outputs| over all pixels, and over those of each class."""
    if not compared.gradients:
        return torch.zeros(1 + labels.num_classes, device=compared.outputs.device)
    size = compared.gradients[-1].abs().sum(1, keepdim=True, dtype=torch.float32)
    masks = labels.masks(labels.hard(compared.label)) > 0.5
    return torch.cat([size.sum()[None], (size * masks).sum([0, *range(2, masks.ndim)])])


def _agreed(labels: LabelSpace, compared: Compared) -> Tensor:
    """Sums of the weights of pixels, or their classes, whose outputs say the label, and of all that have a label."""
    label, weight = compared.label, torch.ones_like(compared.label[:, :1]).float()
    said, asked = labels.predict(compared.outputs), labels.hard(label)
    if compared.weight is not None:
        weight = compared.weight.float()
    if labels.multilabel and weight.shape[1] == label.shape[1] > 1:  # each class counts for itself
        agreed, known = said == asked, label >= 0
    else:
        agreed = (labels.masks(said) == labels.masks(asked)).all(1, keepdim=True)
        known, weight = (label >= 0).all(1, keepdim=True), weight.mean(1, keepdim=True)
    return torch.stack([(weight * agreed * known).sum(), (weight * known).sum()])


def defined(numbers: Mapping[str, Tensor]) -> dict[str, float]:
    """The numbers as Python's; those that are not a number are left out."""
    if not numbers:
        return {}
    values = torch.stack([value.double() for value in numbers.values()]).tolist()  # the device is waited for once
    return {name: value for name, value in zip(numbers, values, strict=True) if value == value}
