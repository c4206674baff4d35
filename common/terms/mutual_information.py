"""What the network says of a pixel tells what it says of the same place in another view of the image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from common.label_space import LabelSpace
from common.parts import Needs
from common.precision import without_autocast
from common.terms.term import Term
from common.views import Affine, Chain, IntensityJitter, View

if TYPE_CHECKING:
    from common.step import Step

LEAST = 1e-12  # of what a logarithm is taken
WHOLE = 1 - 1e-3  # how much of a pixel's interpolation must come from inside


class MutualInformation(Term):
    """Minus the mutual information of the classes in two views of an image (Ji et al. 2019, IIC, section 3.3, eq. 5).

    .. math::
        P_t = \\frac{1}{N_t} \\sum_{x, u} p(x)_u \\, p'(x)_{u+t}^T, \\quad
        I(P) = \\sum_{c, c'} P_{cc'} \\ln \\frac{P_{cc'}}{P_c P_{c'}}, \\quad
        -\\frac{1}{|T|} \\sum_{t \\in T} I \\left( \\tfrac{1}{2} (P_t + P_t^T) \\right)

    with p(x) the class probabilities of the weakly augmented image, p'(x) those of its other view moved back to the
    image's place, u a pixel, and T all displacements of at most some pixels along each axis. It is at most ln K for K
    outputs, where every pixel is surely of one class, all are equally frequent, and both views say the same. So it
    rewards classes of equal frequency, too. Of classes that may overlap, each is a variable of two values, and the mean
    over the classes is taken.

    N_t counts the pairs of pixels in the image whose second one comes from inside of the view; others do not count.
    Gradients go through both views. P is of the unlabelled images of a step (of one process), in float32 also under
    mixed precision. Nothing is kept for each displacement but P: all are one convolution of one view with the other, or
    in volumes one for each displacement along the first axis.

    Args:
        factor: how much the term counts.
        displacement: largest displacement along each axis, in pixels; 0 for none.
        view: the other view, which must only move images and change their intensities, so that it can be undone; moved
            a little and of another exposure where not given.

    Raises:
        ValueError: when the displacement is negative or not below the images' sides; when the view cannot be undone.
    """

    needs = Needs(unlabeled=1, weak_gradients=True)

    def __init__(self, factor: float = 1.0, displacement: int = 1, view: View | None = None) -> None:
        super().__init__(factor)
        if displacement < 0 or displacement != int(displacement):
            raise ValueError(f"displacement must be a whole number of pixels from 0 on, got {displacement}.")
        self.displacement = int(displacement)
        self.view = view or Chain([Affine(rotate=10, scale=0.15, translate=0.0625), IntensityJitter()])

    def forward(self, step: Step) -> Tensor:
        image = step.unlabeled["image"]
        if min(image.shape[2:]) <= self.displacement:
            raise ValueError(
                f"displacement must be below the images' sides of {' x '.join(map(str, image.shape[2:]))} pixels, got "
                f"{self.displacement}: lower it."
            )
        viewed = step.view(self.view, image)
        here = step.labels.probabilities(step.see(image).outputs.float())
        there = step.labels.probabilities(step.see(viewed.image, viewed.perturb).outputs.float())
        there, ones = viewed.change.undo(there), torch.ones_like(there[:, :1])
        inside = (viewed.change.undo(ones) > WHOLE).float()
        with without_autocast(image.device):
            return -mutual_information(joint(step.labels, here, there, inside, self.displacement)).mean()


def joint(labels: LabelSpace, here: Tensor, there: Tensor, inside: Tensor, reach: int) -> Tensor:
    """The joint distribution of each variable's values in two views, for each displacement.

    Args:
        labels: the label space.
        here, there: probabilities ``B K H W [D]``.
        inside: which pixels of the second view count, ``B 1 H W [D]``.
        reach: the largest displacement along each axis.

    Returns:
        ``V k k' (2 reach + 1)^n``, with the displacements along each axis in ascending order: one variable of all K
        values, or in multi-label one of two for each class. All is 0 where no pair of pixels counts.
    """
    pairs = correlated(variables(labels, here), variables(labels, there) * inside.transpose(0, 1), reach)
    ones = torch.ones_like(inside)[None].transpose(1, 2)
    return pairs / correlated(ones, inside[None].transpose(1, 2), reach).clamp(min=1)


def variables(labels: LabelSpace, probabilities: Tensor) -> Tensor:
    """Probabilities ``B K H W [D]`` of each variable's values, ``V k B H W [D]``."""
    classes = probabilities.transpose(0, 1)
    return torch.stack([1 - classes, classes], 1) if labels.multilabel else classes[None]


def correlated(one: Tensor, other: Tensor, reach: int) -> Tensor:
    """sum over images and pixels u of one_i(u) other_j(u + t), for all displacements t up to a reach along each axis.

    Args:
        one, other: ``V k B H W [D]``.
        reach: the largest displacement.

    Returns:
        ``V k k' (2 reach + 1)^n``.
    """
    if one.ndim == 5:
        return correlated_in_planes(one, other, reach)
    side, found = one.shape[3], []
    for t in range(-reach, reach + 1):
        first, second = (maps.narrow(3, max(0, start), side - abs(t)) for maps, start in ((one, -t), (other, t)))
        found.append(correlated_in_planes(first.flatten(2, 3), second.flatten(2, 3), reach))
    return torch.stack(found, 3)


def correlated_in_planes(one: Tensor, other: Tensor, reach: int) -> Tensor:
    """:func:`correlated` of planes: the second are the images of a convolution, whose kernels are the first."""
    number, size = one.shape[:2]
    images = other.transpose(0, 1).flatten(1, 2)  # each value is an image, whose channels are the variables' images
    found = F.conv2d(images, one.flatten(0, 1), padding=reach, groups=number)
    return found.unflatten(1, (number, size)).permute(1, 2, 0, 3, 4)


def mutual_information(joint: Tensor) -> Tensor:
    """I of the symmetrised joint distributions ``V k k' ...``, in nats, ``V ...``."""
    joint = (joint + joint.transpose(1, 2)) / 2
    alone = joint.sum(2, keepdim=True).clamp(min=LEAST).log()
    return (joint * (joint.clamp(min=LEAST).log() - alone - alone.transpose(1, 2))).sum((1, 2))
