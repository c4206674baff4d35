"""Soft pseudo-labels from several passes with dropout, and how much these differ."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from common.label_space import LabelSpace
from common.parts import Needs, Part
from common.pseudo_label import PseudoLabel

if TYPE_CHECKING:
    from common.step import Step


class MonteCarloDropout(Part):
    """The mean of T passes with dropout on (Gal and Ghahramani 2016; as Sedai et al. 2019 use it).

    .. math::
        m = \\frac{1}{T} \\sum_t p_t, \\quad s = \\sqrt{\\frac{1}{T} \\sum_t (p_t - m)^2}

    Known about the label m: its ``spread`` s. Both are a function of the weights, the image and the seed: dropout's
    draws are seeded with the image's content, and the global generators are as they were before.

    Args:
        passes: number T of passes.
        seed: seed of dropout's draws.

    Raises:
        ValueError: when a number is out of its range, or the network has no dropout.
    """

    needs, knows = Needs(unlabeled=1), ("spread",)

    def __init__(self, passes: int = 10, seed: int = 0) -> None:
        super().__init__()
        if passes < 2:
            raise ValueError(f"passes must be at least 2, for there to be a spread, got {passes}.")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}.")
        self.passes, self.seed = passes, seed

    def prepare(self, network: nn.Module, labels: LabelSpace) -> None:
        dropout_layers(network)  # before the training, not when the first image is labelled

    @torch.no_grad()
    def forward(self, step: Step) -> PseudoLabel:
        image, training = step.unlabeled["image"], step.network.training
        mean = squares = 0.0
        with dropout_alone(step.network), repeatable(image, self.seed):
            for number in range(1, self.passes + 1):
                probability = step.labels.probabilities(step.outputs_of(image).float())
                change = probability - mean
                mean = mean + change / number
                squares = squares + change * (probability - mean)  # Welford: no difference of large sums
        step.network.train(training)
        return PseudoLabel(mean, known={"spread": (squares / self.passes).clamp(min=0).sqrt()})


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
