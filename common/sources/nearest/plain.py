"""The plain formulation of ``reference_labels``, to test and measure it against."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def plain_reference_labels(
    queries: Tensor, references: Tensor, labels: Tensor, k: int, num_classes: int, background: bool = True
) -> tuple[Tensor, Tensor]:
    """Labels and class distances as one would write them down first (Seibold et al. 2022, eq. 3-5).

    All similarities at once, the k nearest listed by ``topk``, their labels gathered, a masked maximum per class:
    memory grows with queries x references. Arguments and results are those of ``reference_labels``, k a plain count.
    """
    similarity = cosine(queries, references)
    label = labels[similarity.argmax(1)]
    nearest, neighbors = list_nearest(similarity, min(k, len(references)))
    del similarity
    classes = (
        labels.bool() if labels.ndim == 2 else labels.unsqueeze(1) == torch.arange(num_classes, device=labels.device)
    )
    if labels.ndim == 2 and background:
        classes = torch.cat([~classes.any(1, keepdim=True), classes], dim=1)
    distances = torch.stack(
        [1 - nearest.where(member[neighbors], 0).amax(1) for member in classes.unbind(1)], dim=1
    ).clamp(0, 1)
    return label, distances


def cosine(queries: Tensor, references: Tensor) -> Tensor:
    """Cosine similarities ``(Q, R)``, clipped at 0 (eq. 3)."""
    norms = [vectors.float().norm(dim=1, keepdim=True) for vectors in (queries, references)]
    units = [v.float() / n.where(n > 0, 1) for v, n in zip((queries, references), norms, strict=True)]
    similarity = units[0] @ units[1].T
    smallest = norms[0].min() * norms[1].min()
    if smallest < 1:  # above, epsilon is lost in float32's rounding
        similarity /= 1 + 1e-8 / (norms[0] * norms[1].T)
    return similarity.clamp_(min=0)


def list_nearest(similarity: Tensor, k: int, more: int = 16) -> tuple[Tensor, Tensor]:
    """Similarities and positions of the k nearest references and of all that tie with the k-th, the rest set to 0."""
    nearest, neighbors = similarity.topk(min(k + more, similarity.shape[1]))
    farthest = nearest[:, k - 1 : k]
    if nearest.shape[1] < similarity.shape[1] and ((nearest[:, -1:] == farthest) & (farthest > 0)).any():
        return list_nearest(similarity, k, more * 8)
    nearest[:, k:] *= nearest[:, k:] == farthest
    return nearest, neighbors
