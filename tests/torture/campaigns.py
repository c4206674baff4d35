"""All campaigns by name, in the order in which they are run."""

from __future__ import annotations

from files import damaged_files, volumes_that_lie
from leaks import leaks, masks, patients
from runs import damaged_checkpoints, full_disks, killed_2d, killed_3d, killed_together
from strangers import datalists, grids, weights
from tried import Campaign

CAMPAIGNS: dict[str, Campaign] = {
    "files": damaged_files,
    "volumes": volumes_that_lie,
    "leaks": leaks,
    "patients": patients,
    "masks": masks,
    "grids": grids,
    "datalists": datalists,
    "weights": weights,
    "checkpoints": damaged_checkpoints,
    "disks": full_disks,
    "kills-2d": killed_2d,
    "kills-3d": killed_3d,
    "kills-two": killed_together,
}
