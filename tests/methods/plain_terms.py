"""A network and a batch small enough to compute a method's terms again in NumPy."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from common.methods import Method, Step
from common.networks import Seen


class Pixels(nn.Module):
    """A network whose features are the image's own channels, and whose head is a matrix."""

    def __init__(self, channels: int, outputs: int, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.final_conv = nn.Conv2d(channels, outputs, 1)
        self.final_conv.weight.data.mul_(scale)

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


def picture_batch(labels, size=12):
    """The same, the unlabelled images with values of pictures, between 0 and 1."""
    batch = random_batch(labels, size)
    batch["unlabeled"]["image"] = batch["unlabeled"]["image"].sigmoid()
    return batch


def nearest_labels(batch):
    """The label of the labelled pixel whose features have the largest cosine with those of each unlabelled one.

    In float64, pixel by pixel; features are the images' own channels, as of :class:`Pixels`.
    """
    features = batch["labeled"]["image"].double().numpy()
    features = features.transpose(0, 2, 3, 1).reshape(-1, features.shape[1])
    label = batch["labeled"]["label"].numpy()
    label = label.transpose(0, 2, 3, 1).reshape(-1, label.shape[1])
    images = batch["unlabeled"]["image"].double().numpy()
    found = np.zeros((len(images), label.shape[1], *images.shape[2:]))
    for b, y, x in np.ndindex(len(images), *images.shape[2:]):
        query = images[b, :, y, x]
        cosines = features @ query / np.linalg.norm(features, axis=1) / np.linalg.norm(query)
        found[b, :, y, x] = label[cosines.argmax()]
    return found


def losses(method: Method, network: nn.Module, batch: dict, iteration: int = 1, seed: int = 0):
    """A method's terms by name, and the step that made them."""
    needs = method.needs
    options = {"joint": method.joint, "weak_gradients": needs.weak_gradients, "levels": needs.levels}
    step = Step(method.labels, network, batch, iteration, seed, **options)
    return method.losses(step), step


def plain_probabilities(labels, logits):
    logits = logits.detach().double().numpy()
    if labels.multilabel:
        return 1 / (1 + np.exp(-logits))
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def plain_entropies(labels, logits, label):
    """Cross-entropy of each pixel, and of each class where classes may overlap, in float64; labels may be soft."""
    p, label = plain_probabilities(labels, logits), label.double().numpy()
    if labels.multilabel:
        return -(label * np.log(p) + (1 - label) * np.log(1 - p))
    if label.shape[1] == 1:
        return -np.log(np.take_along_axis(p, label.astype(int), axis=1))
    return -(label * np.log(p)).sum(axis=1, keepdims=True)


def plain_loss(labels, logits, label, weight):
    """Mean over pixels of the weighted cross-entropy, in float64."""
    return (plain_entropies(labels, logits, label) * weight.double().numpy()).mean()


def plain_dice(labels, logits, label, weight, per_image=False):
    """One minus Dice, of all images together or the mean over images, of hard or soft labels, in float64."""
    p, label, weight = plain_probabilities(labels, logits), label.double().numpy(), weight.double().numpy()
    if labels.multilabel:
        masks = label
    else:
        p = p[:, 1:]
        masks = label[:, 1:] if label.shape[1] > 1 else np.concatenate([label == 1, label == 2], axis=1)
    found = []
    for images in [[b] for b in range(len(p))] if per_image else [list(range(len(p)))]:
        for c in range(p.shape[1]):
            w = weight[images, min(c, weight.shape[1] - 1)]
            overlap = (w * p[images, c] * masks[images, c]).sum()
            found.append(1 - (2 * overlap + 1) / ((w * p[images, c]).sum() + (w * masks[images, c]).sum() + 1))
    return np.mean(found)


def confident(labels, logits, threshold):
    """Label and weight of eq. 9 or 10 of RPG+, in float64."""
    p = plain_probabilities(labels, logits)
    if labels.multilabel:
        return torch.from_numpy(np.round(p)), torch.from_numpy((np.abs(p - 0.5) > abs(0.5 - threshold)) * 1.0)
    return torch.from_numpy(p.argmax(1)[:, None] * 1.0), torch.from_numpy((p.max(1)[:, None] > threshold) * 1.0)
