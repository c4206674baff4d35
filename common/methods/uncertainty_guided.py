"""Pseudo-labels of a teacher that says how sure it is of each voxel (Sedai et al. 2019)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from common.label_space import LabelSpace
from common.methods.popcorn import Popcorn


class UncertaintyGuided(Popcorn):
    """Soft pseudo-labels for all unlabelled images at once, weighted by their uncertainty (Sedai et al. 2019).

    A comparator of Kamraoui et al. 2021 (section 3.2, table 2). The teacher, trained on the labelled images alone,
    looks at each unlabelled image T times with its dropout on. The student learns the mean m of the probabilities p_t,
    and the less of a voxel the more they differ:

    .. math::
        m = \\frac{1}{T} \\sum_t p_t, \\quad
        s = \\sqrt{\\frac{1}{T} \\sum_t (p_t - m)^2}, \\quad
        w = \\exp(-\\beta \\max_c s_c)

    The loss is the Dice of both patches of a pair (eq. 1) with m as label and w as weight; w is 1 in labelled images,
    and lies between exp(-beta / 2) and 1 in the others, as s is at most 1/2.

    This is made from the description in Kamraoui et al., who say that soft pseudo-labels and uncertainty maps come of a
    teacher for all images at once and that the uncertainty weights the student's loss. Ours are the standard deviation
    as the uncertainty, the exponential and its factor, the number of passes, the Dice loss instead of another, and that
    the student goes on from the teacher's weights, where it could start anew: teacher and student are the
    one network before and after the curriculum's only step, ``start`` of :class:`~common.handlers.Curriculum`.

    A label is a function of the weights, the image and the seed: dropout's draws are seeded with the image's content,
    and the global generators are as they were before. So a resumed run labels as the uninterrupted one.

    Args:
        labels: the label space; multi-label, where a label can be any number between 0 and 1.
        passes: number T of passes with dropout on.
        falloff: beta, how fast the weight falls with the uncertainty; 0 for equal weights.
        seed: seed of dropout's draws.
        curriculum: as for :class:`Popcorn`: ``share``, for one; ``step_size`` and ``neighbors`` are without effect.
            ``consistency_weight`` is 0 and ``selection`` ``"random"`` unless they are given.

    Raises:
        ValueError: when a number is out of its range, the classes exclude one another, or the network has no dropout.
    """

    one_step = True

    def __init__(
        self, labels: LabelSpace, passes: int = 10, falloff: float = 5.0, seed: int = 0, **curriculum: Any
    ) -> None:
        super().__init__(labels, **{"consistency_weight": 0.0, "selection": "random", **curriculum})
        if not labels.multilabel:
            raise ValueError(
                f"mode of the label space must be multilabel, whose labels can be soft, got {labels.mode!r}: set it in "
                f"the datalist."
            )
        if passes < 2:
            raise ValueError(f"passes must be at least 2, for there to be a spread, got {passes}.")
        if falloff < 0 or seed < 0:
            raise ValueError(f"falloff and seed must not be negative, got {falloff} and {seed}.")
        self.passes, self.falloff, self.seed = passes, falloff, seed

    def parameters(self, network: nn.Module) -> list[nn.Parameter]:
        dropout_layers(network)  # before the training, not when the first image is labelled
        return super().parameters(network)

    @torch.no_grad()
    def label_image(self, network: nn.Module, image: Tensor, inferer: Any) -> tuple[Tensor, Tensor | None]:
        """Mean of the passes, ``1 C H W [D]``, and the weight of each voxel, ``1 1 H W [D]``; see :class:`Popcorn`."""
        mean = squares = 0.0
        with dropout_alone(network), repeatable(image, self.seed):
            for number in range(1, self.passes + 1):
                probability = self.labels.probabilities(inferer(image, network).float())
                change = probability - mean
                mean = mean + change / number
                squares = squares + change * (probability - mean)  # Welford: no difference of large sums
        spread = (squares / self.passes).clamp(min=0).sqrt()
        return mean, torch.exp(-self.falloff * spread.amax(1, keepdim=True))


def dropout_layers(network: nn.Module) -> list[nn.Module]:
    """The network's layers that drop something.

    Raises:
        ValueError: when there are none.
    """
    layers = [module for module in network.modules() if isinstance(module, _DropoutNd) and module.p > 0]
    if not layers:
        raise ValueError(
            "the network must have dropout, whose draws tell how sure it is, got none: set network_def#dropout, to 0.2 "
            "for example."
        )
    return layers


@contextmanager
def dropout_alone(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode but for its dropout, in evaluation mode altogether at the end."""
    layers = dropout_layers(network)
    network.eval()
    try:
        for layer in layers:
            layer.train()
        yield
    finally:
        network.eval()


@contextmanager
def repeatable(image: Tensor, seed: int) -> Iterator[None]:
    """Random numbers that image and seed determine; afterwards the global generators are as they were."""
    content = zlib.crc32(image.detach().cpu().contiguous().numpy().tobytes())
    number = int(np.random.SeedSequence([seed, content]).generate_state(1)[0])
    with torch.random.fork_rng(devices=[image.device] if image.is_cuda else []):
        torch.default_generator.manual_seed(number)
        if image.is_cuda:
            with torch.cuda.device(image.device):
                torch.cuda.manual_seed(number)
        yield
