"""The same segmentation of an image and of its elastically deformed self (Bortsova et al. 2019)."""

from __future__ import annotations

from typing import Any

from common.label_space import LabelSpace
from common.losses import Dice, Loss
from common.methods.base import Method
from common.terms import Equivariance
from common.views import View


class TransformationConsistency(Method):
    """L = L_seg + lambda(t) L_eq: Dice, and outputs that follow the image's deformation (after Bortsova et al. 2019).

    A comparator of Kamraoui et al. 2021 (section 3.2, table 2); L_eq is :class:`~common.terms.Equivariance`, on
    labelled and unlabelled images alike.

    This is made from the description in Kamraoui et al., who say that a consistency loss beside the primary one makes
    the predictions of an image under transformations consistent. Ours are the squared error over the voxels from
    inside, the deformation's size and shape, the gradients through both outputs, the factor and its rise.

    Args:
        labels: the label space.
        consistency_weight: the factor lambda.
        view: the deformation; an elastic one where not given.
        ramp_up: number of iterations over which the factor rises; 0 for none.
        loss: L_seg; Dice where not given.
        options: see :class:`~common.methods.Method`.
    """

    def __init__(
        self,
        labels: LabelSpace,
        consistency_weight: float = 1.0,
        view: View | None = None,
        ramp_up: int = 1000,
        loss: Loss | None = None,
        **options: Any,
    ) -> None:
        terms = {"consistency": Equivariance(consistency_weight, view)}
        super().__init__(labels, terms, loss=loss or Dice(), ramp_up=ramp_up, **options)
