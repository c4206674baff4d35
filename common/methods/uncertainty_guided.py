"""Pseudo-labels of a teacher that says how sure it is of each voxel (Sedai et al. 2019)."""

from __future__ import annotations

from typing import Any

from common.curriculum import Joining
from common.label_space import LabelSpace
from common.losses import Dice, Loss
from common.methods.base import Method
from common.sources import MonteCarloDropout
from common.weights import Uncertainty


class UncertaintyGuided(Method):
    """Soft pseudo-labels for all unlabelled images at once, weighted by their uncertainty (after Sedai et al. 2019).

    A comparator of Kamraoui et al. 2021 (section 3.2, table 2). The teacher, trained on the labelled images alone,
    looks at each unlabelled image T times with its dropout on. The student learns the mean of the probabilities, and
    the less of a voxel the more they differ: see :class:`~common.sources.MonteCarloDropout` and
    :class:`~common.weights.Uncertainty`.

    This is made from the description in Kamraoui et al., who say that soft pseudo-labels and uncertainty maps come of a
    teacher for all images at once and that the uncertainty weights the student's loss. Ours are the standard deviation
    as the uncertainty, the exponential and its factor, the number of passes, the Dice loss instead of another, and that
    the student goes on from the teacher's weights, where it could start anew: teacher and student are the
    one network before and after the curriculum's only step.

    Args:
        labels: the label space.
        passes: number T of passes with dropout on.
        falloff: how fast a voxel's weight falls with its uncertainty; 0 for equal weights.
        share: share of the unlabelled images that join.
        loss: the loss; Dice where not given.
        options: see :class:`~common.methods.Method`.
    """

    def __init__(
        self,
        labels: LabelSpace,
        passes: int = 10,
        falloff: float = 5.0,
        share: float = 1.0,
        loss: Loss | None = None,
        **options: Any,
    ) -> None:
        source, weight = MonteCarloDropout(passes, options.get("seed", 0)), Uncertainty(falloff)
        joining = Joining("random", step_size=None, share=share, source=source, weight=weight)
        super().__init__(labels, {}, joining, loss or Dice(), **options)
