"""Loops over references in float64, and small maps to ask them of."""

from __future__ import annotations

import math

import numpy as np
import torch
from methods.plain_terms import Pixels

from common.methods import Step

# similarities to (1, 0): 1, 0.8, 0.6, 0, -1
FAN = torch.tensor([[2.0, 0.0], [0.4, 0.3], [0.6, 0.8], [0.0, 5.0], [-1.0, 0.0]])
EAST = torch.tensor([[3.0, 0.0]])


def step_of(labels, references, label, queries, **options):
    """A step with a network whose features are the images."""
    batch = {"labeled": {"image": references, "label": label}, "unlabeled": {"image": queries}}
    network = Pixels(references.shape[1], labels.num_outputs)
    if references.ndim == 5:
        network.final_conv = torch.nn.Conv3d(references.shape[1], labels.num_outputs, 1)
    return Step(labels, network, batch, **options)


def random_task(labels, size=(10, 12), pool=2, batch=2, channels=4, seed=0):
    rng = np.random.default_rng(seed)
    references = rng.normal(size=(pool, channels, *size)) + 0.3
    queries = rng.normal(size=(batch, channels, *size)) + 0.3
    if labels.multilabel:
        label = rng.integers(0, 2, (pool, labels.num_classes, *size)) * rng.integers(0, 2, (pool, 1, *size))
    else:
        label = rng.integers(0, labels.num_classes + 1, (pool, 1, *size))
    return references, label.astype(np.float64), queries


def tensors(*arrays, dtype=torch.float32):
    return [torch.from_numpy(array).to(dtype) for array in arrays]


def members_of(labels, classes, background=True):
    """Whether each reference is of each class of the weight, lists of lists."""
    if labels.ndim == 1:
        return [[value == j for value in labels.tolist()] for j in range(classes)]
    rows = labels.tolist()
    masks = [[row[j] == 1 for row in rows] for j in range(classes)]
    return [[not any(row) for row in rows], *masks] if background else masks


def mean_distances(query, references, members, k):
    """Mean distance (eq. 3) to the nearest k of the references that are members, one after the other."""
    distances = []
    for reference, member in zip(references.tolist(), members, strict=True):
        if member:
            product = sum(a * b for a, b in zip(query, reference, strict=True))
            lengths = math.sqrt(sum(a * a for a in query)) * math.sqrt(sum(b * b for b in reference))
            distances.append(1 - max(product / (lengths + 1e-8), 0))
    if not distances:
        return 1.0
    number = max(1, round(k * len(distances))) if isinstance(k, float) else min(k, len(distances))
    return sum(sorted(distances)[:number]) / number


def plain_distances(queries, references, labels, k, classes, background=True):
    """Mean distance of each query to the nearest k of each class's references."""
    groups = members_of(labels, classes, background)
    queries, references = queries.double(), references.double()
    return np.array([[mean_distances(q, references, group, k) for group in groups] for q in queries.tolist()])


def plain_votes(queries, references, labels, k):
    """Of the labels that there are the one with the highest mean vote 1 - D, a query at a time."""
    rows = labels.reshape(len(labels), -1).tolist()
    candidates = sorted(map(list, set(map(tuple, rows))))
    groups = [[row == candidate for row in rows] for candidate in candidates]
    found = []
    for query in queries.double().tolist():
        votes = [1 - mean_distances(query, references.double(), group, k) for group in groups]
        found.append(candidates[votes.index(max(votes))])  # the first of equals
    return np.array(found).reshape(len(queries), *labels.shape[1:])


def rows_of(maps):
    """Maps ``B C H W [D]`` as a list of pixels."""
    return torch.from_numpy(np.moveaxis(maps, 1, -1).reshape(-1, maps.shape[1]))


def at_pixels(plain, labels, references, label, queries, *settings):
    """:func:`plain_distances` or :func:`plain_votes` at each pixel of maps ``B C H W [D]``."""
    said = rows_of(label) if labels.multilabel else rows_of(label)[:, 0].long()
    found = plain(rows_of(queries), rows_of(references), said, *settings)
    return np.moveaxis(found.reshape(queries.shape[0], *queries.shape[2:], -1), -1, 1)


def normal(number, seed, features=6):
    return torch.randn(number, features, generator=torch.Generator().manual_seed(seed)) + 0.3


def drawn_labels(number, multilabel, seed=3):
    """Classes of very different sizes: of 100 references some 70, 25 and 5."""
    generator = torch.Generator().manual_seed(seed)
    if multilabel:
        return (torch.rand(number, 2, generator=generator) < torch.tensor([0.3, 0.06])).long()
    return torch.multinomial(torch.tensor([0.7, 0.25, 0.05]), number, True, generator=generator)
