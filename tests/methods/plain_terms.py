"""A network and a batch small enough to compute a method's terms again in NumPy."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from common.methods import Method, Step
from common.networks import Seen


class Pixels(nn.Module):
    """A network whose features are the image's own channels, and whose head is a matrix."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.final_conv = nn.Conv2d(channels, outputs, 1)

    def forward_features(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor, seen: bool = False, perturb=None):
        features = x if perturb is None else perturb((x,))[0]
        outputs = self.final_conv(features)
        return Seen(outputs, features, features) if seen else outputs


def random_batch(labels, size=6, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, (2, 2, size, size)) if labels.multilabel else rng.integers(0, 3, (2, 1, size, size))
    return {
        "labeled": {
            "image": torch.from_numpy(rng.normal(size=(2, channels, size, size))).float(),
            "label": torch.from_numpy(label).float(),
        },
        "unlabeled": {"image": torch.from_numpy(rng.normal(size=(3, channels, size, size))).float()},
    }


def losses(method: Method, network: nn.Module, batch: dict, iteration: int = 1, seed: int = 0):
    """A method's terms by name, and the step that made them."""
    options = {"joint": method.joint, "weak_gradients": method.needs.weak_gradients}
    step = Step(method.labels, network, batch, iteration, seed, **options)
    return method.losses(step), step


def plain_loss(labels, logits, label, weight):
    """Mean over pixels of the weighted cross-entropy, in float64."""
    logits = logits.detach().double().numpy()
    label, weight = label.double().numpy(), weight.double().numpy()
    if labels.multilabel:
        p = 1 / (1 + np.exp(-logits))
        loss = -(label * np.log(p) + (1 - label) * np.log(1 - p))
    else:
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        loss = -np.log(np.take_along_axis(p, label.astype(int), axis=1))
    return (loss * weight).mean()
