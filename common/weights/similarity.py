"""How alike features and prototypes are: by their strongest features, or by their cosine."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from common.precision import full_precision


def similarities(features: Tensor, prototypes: Tensor, k: int | None) -> Tensor:
    """How alike features ``B d H W [D]`` and prototypes ``K d`` are, ``B H W [D] K`` in [0, 1].

    Args:
        features, prototypes: what is compared.
        k: compares the k largest; None for the cosine.
    """
    rows = features.detach().movedim(1, -1)
    with full_precision(features.device):
        if k is not None:
            return strongest(rows, k).float() @ strongest(prototypes, k).T / k
        return (F.normalize(rows.float(), dim=-1) @ F.normalize(prototypes, dim=-1).T).clamp(0, 1)


def strongest(rows: Tensor, k: int) -> Tensor:
    """1 for the k largest of each row ``... d``, of equal ones the first, else 0.

    k times the largest, rather than a sort, which takes several times as long for few of many.
    """
    left = rows.clone(memory_format=torch.contiguous_format)
    for _ in range(k):
        left.scatter_(-1, left.argmax(-1, keepdim=True), -torch.inf)
    return left.eq_(-torch.inf)
