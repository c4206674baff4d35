"""How well each class is learnt, as AEL keeps account of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from common.label_space import LabelSpace
from common.parts import Part
from common.ranks import total

if TYPE_CHECKING:
    from common.step import Step


class ClassConfidence(Part):
    """A running mean of each class's confidence on labelled images (Hu et al. 2021, AEL, eq. 4, 5).

    The confidence of class c in an iteration is the mean of p_c over the labelled pixels of c, and after each step

    .. math::
        Conf_c \\leftarrow \\alpha_c Conf_c + (1 - \\alpha_c) \\overline{p_c}, \\quad
        \\alpha_c = \\min(\\alpha, 1 - 1/(n_c + 1))

    with n_c the number of iterations before that showed the class: the first one sets it. A class that no pixel is of
    keeps what it has. There is one for each of the network's outputs, the softmax's background among them. All
    processes of a distributed run have the same numbers, which are part of the checkpoint.

    Args:
        decay: alpha; 0.999 in the paper.

    Raises:
        ValueError: when the decay is outside of [0, 1).
    """

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay of the class confidence must be in [0, 1), got {decay}: 0.999 is the paper's.")
        self.decay, self.noted = decay, None
        self.register_buffer("confidence", torch.zeros(0))
        self.register_buffer("times", torch.zeros(0))

    def prepare(self, network: nn.Module, labels: LabelSpace) -> None:
        device = next(network.parameters()).device
        self.foreground = labels.num_classes
        self.confidence = torch.zeros(labels.num_outputs, device=device)
        self.times = torch.zeros(labels.num_outputs, device=device)

    @torch.no_grad()
    def note(self, labels: LabelSpace, outputs: Tensor, label: Tensor) -> None:
        """What the network says of labelled images; it counts after the step."""
        truth = labels.one_hot(label)
        over = [0, *range(2, truth.ndim)]
        found = labels.probabilities(outputs.float()) * truth
        sums = torch.stack([found.sum(over), truth.sum(over)])
        self.noted = sums if self.noted is None else self.noted + sums  # of several batches of one step

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        if self.noted is None:
            return
        sums, counts = total(self.noted)
        there = counts > 0
        rate = torch.clamp(1 - 1 / (self.times + 1), max=self.decay)
        moved = torch.lerp(sums / counts.clamp(min=1), self.confidence, rate)
        self.confidence.copy_(torch.where(there, moved, self.confidence))
        self.times += there
        self.noted = None

    def need(self) -> np.ndarray:
        """Probability with which each foreground class is drawn: softmax(1 - Conf), on the host."""
        return (1 - self.confidence[-self.foreground :]).double().softmax(0).cpu().numpy()

    def rates(self, power: float) -> Tensor:
        """Share of each output's pixels that are sampled: ((1 - Conf_c) / max_c (1 - Conf_c))^power (eq. 8)."""
        lack = 1 - self.confidence
        return (lack / lack.amax().clamp(min=1e-12)) ** power
