"""IIC: what the network says of an image tells what it says of another view of it."""

from __future__ import annotations

from typing import Any

from common.label_space import LabelSpace
from common.methods.base import Method
from common.terms import MutualInformation
from common.views import View


class IIC(Method):
    """Invariant information clustering beside the supervised loss (after Ji et al. 2019, section 3.3).

    L = Ls - lambda(t) I, with I the mutual information of the network's classes in two views of unlabelled images, at
    pixels up to some displacement from each other (:class:`~common.terms.MutualInformation`).

    A comparator of Reiss et al. 2021 and of Seibold et al. 2022 (RPG, table 5). The paper clusters without any label,
    with outputs for clusters and others beside them. Ours are that I is of the segmentation's own outputs, the sum with
    Ls, the factor, the view, and that I is the mean over classes where these may overlap.

    Args:
        labels: the label space.
        information_weight: the factor lambda.
        displacement: largest displacement along each axis, in pixels.
        view: the other view; moved a little and of another exposure where not given.
        options: see :class:`~common.methods.Method`.

    Raises:
        ValueError: when a number is out of its range; when the view cannot be undone.
    """

    def __init__(
        self,
        labels: LabelSpace,
        information_weight: float = 1.0,
        displacement: int = 1,
        view: View | None = None,
        **options: Any,
    ) -> None:
        terms = {"information": MutualInformation(information_weight, displacement, view)}
        super().__init__(labels, terms, **options)
