"""Mean Teacher: the network agrees with the average of its own weights, whose view of the image is another one."""

from __future__ import annotations

from typing import Any

from common.label_space import LabelSpace
from common.losses import Loss, SquaredError
from common.methods.base import Method
from common.sources import Teacher
from common.terms import Match
from common.views import Strong, View


class MeanTeacher(Method):
    """The network's probabilities on a strong view follow the teacher's on the weak one (Tarvainen and Valpola 2017;
    for segmentation Perone and Cohen-Adad 2018).

    L = Ls + lambda(t) mean (p(a(x)) - a(p'(x)))^2, with p' of an exponential moving average of the weights, changed as
    the image was: Perone and Cohen-Adad, too, transform the image before the network and the prediction after the
    teacher. The model of a run is the network, not the teacher.

    Args:
        labels: the label space.
        decay: of the teacher's average; 0.99 in the papers.
        view: what the network is shown, a; :class:`~common.views.Strong` where not given.
        consistency_weight: the largest lambda.
        consistency_loss: compares the two; the squared error of probabilities where not given.
        ramp_up: number of iterations over which lambda rises along exp(-5 (1 - t)^2).
        options: see :class:`~common.methods.Method`.

    Raises:
        ValueError: for a decay outside of [0, 1), a negative weight.
    """

    def __init__(
        self,
        labels: LabelSpace,
        decay: float = 0.99,
        view: View | None = None,
        consistency_weight: float = 1.0,
        consistency_loss: Loss | None = None,
        ramp_up: int = 200,
        **options: Any,
    ) -> None:
        loss = consistency_loss or SquaredError()
        match = Match(Teacher(decay, soft=True), None, view or Strong(), loss, consistency_weight)
        super().__init__(labels, {"consistency": match}, ramp_up=ramp_up, **options)
