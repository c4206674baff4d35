"""Pseudo-labels of a teacher: the network's own weights, averaged over the training."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from monai.transforms import KeepLargestConnectedComponent
from torch import Tensor, nn

from common.label_space import LabelSpace
from common.networks import Seen, unwrapped
from common.parts import Needs, Part
from common.pseudo_label import PseudoLabel
from common.ranks import average

if TYPE_CHECKING:
    from common.step import Step


class Teacher(Part):
    """What an average of the network's weights predicts of the weakly augmented image (Tarvainen and Valpola 2017).

    .. math::
        \\theta'_t = \\alpha_t \\theta'_{t-1} + (1 - \\alpha_t) \\theta_t, \\quad
        \\alpha_t = \\min(\\alpha, 1 - 1/(t + 1))

    after each step t of the optimizer (eq. 5), batch norm's running statistics among it: the teacher looks at images as
    in evaluation, so that what it says of one does not depend on the others of the batch. Its weights are part of the
    checkpoint; without them, in an evaluation, the network itself speaks. Known about the label: ``outputs``.

    Args:
        decay: alpha.
        soft: the class probabilities instead of the decision.
        largest: of each class the largest connected component alone, as BCP has it; found on the host.

    Raises:
        ValueError: when the decay is outside of [0, 1).
    """

    needs, knows = Needs(unlabeled=1), ("outputs",)

    def __init__(self, decay: float = 0.99, soft: bool = False, largest: bool = False) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}: 0.99 and 0.999 are usual.")
        if soft and largest:
            raise ValueError("largest needs decisions, got soft probabilities: set one of the two.")
        self.decay, self.soft, self.largest = decay, soft, largest
        self.network: nn.Module | None = None
        self.updates = 0

    def prepare(self, network: nn.Module, labels: LabelSpace) -> None:
        self.network = copy.deepcopy(unwrapped(network)).requires_grad_(False)

    def start(self, network: nn.Module) -> None:
        if self.updates == 0:  # weights may have been loaded since
            self.network.load_state_dict(unwrapped(network).state_dict())

    @torch.no_grad()
    def forward(self, step: Step) -> PseudoLabel:
        image = step.unlabeled["image"]
        outputs = (step.outputs_of(image) if self.network is None else self.see(step, image).outputs).detach().float()
        label = step.labels.probabilities(outputs) if self.soft else step.labels.predict(outputs).float()
        label = largest_components(step.labels, label) if self.largest else label
        return PseudoLabel(label, known={"outputs": outputs}, network=self.network)

    def see(self, step: Step, image: Tensor) -> Seen:
        """Outputs and features of any images, in evaluation."""
        return step.see(image, network=self.network)

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        self.updates += 1
        mine, theirs = self.network.state_dict(), unwrapped(step.network).state_dict()
        means = [name for name, value in mine.items() if value.is_floating_point()]
        torch._foreach_lerp_([mine[name] for name in means], [theirs[name] for name in means], 1 - self.rate)
        for name in mine.keys() - means:  # numbers of batches
            mine[name].copy_(theirs[name])
        # each process has running statistics of its own: one teacher for all has their mean
        average([buffer for buffer in self.network.buffers() if buffer.is_floating_point()])

    @property
    def rate(self) -> float:
        """alpha_t of the last update."""
        return min(self.decay, 1 - 1 / (self.updates + 1))

    def get_extra_state(self) -> dict[str, int]:
        return {"updates": self.updates}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.updates = int(state["updates"])


def largest_components(labels: LabelSpace, label: Tensor) -> Tensor:
    """A label ``B C H W [D]`` of whole numbers with the largest connected component of each class of each image."""
    applied = range(labels.num_classes) if labels.multilabel else range(1, labels.num_outputs)
    keep = KeepLargestConnectedComponent(list(applied), is_onehot=labels.multilabel, connectivity=1)
    kept = [keep(one) for one in label.cpu()]
    return torch.stack([torch.as_tensor(one) for one in kept]).to(label)
