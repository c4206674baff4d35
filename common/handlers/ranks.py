"""Which process of a distributed run writes files."""

from __future__ import annotations

import torch.distributed as dist


def is_first_rank() -> bool:
    """True in the one process that writes files: the only one, or rank 0."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0
