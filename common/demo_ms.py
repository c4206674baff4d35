"""The demonstration in 3D: Supervised and POPCORN on invented brains of several scanners."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.compare_lesions import compare_lesions, row_names
from common.data import save_datalist
from common.phantoms.isbi import make_ms_phantom, phantom_datalist

# few images join at a time, and near means near: there are 3 labelled images, not 21
SETTINGS = {"method#step_size": 4, "method#step_epochs": 2, "method#neighbors": 2}


def demo_ms(
    directory: str = "runs/demo-ms",
    rows: str | Sequence[str] = "Supervised,POPCORN",
    seeds: int = 3,
    size: int = 90,
    unlabeled: int = 12,
    test: int = 8,
    workers: int | None = None,
    settings: dict[str, Any] | None = None,
) -> None:
    """Train methods with 3 labelled volumes of one scanner and unlabelled ones of others, and compare them.

    Args:
        directory: the demonstration's folder.
        rows: names of rows of the paper's tables, separated by commas, or ``all``.
        seeds: number of seeds, each with other labelled volumes.
        size: voxels of a phantom along its longest side, for 180 mm.
        unlabeled: number of unlabelled volumes.
        test: number of test volumes.
        workers: number of models trained at the same time; by default one for each core, two at most.
        settings: further settings of the bundle, by id.

    Raises:
        ValueError, ChildProcessError: as :func:`~common.compare_lesions.compare_lesions`.
    """
    row_names(rows)
    folder = Path(directory)
    data = folder / f"phantom_{size}_{unlabeled}_{test}"
    if not data.exists():
        make_ms_phantom(data, labeled=6, unlabeled=unlabeled, test=test, size=size, seed=0)
    datalists = [folder / f"seed{seed}.json" for seed in range(seeds)]
    for seed, file in enumerate(datalists):
        save_datalist(phantom_datalist(data, labeled=3, split=seed), file)
    options = {"spacing": json.dumps([180 / size] * 3), **SETTINGS, **(settings or {})}
    compare_lesions(folder, datalists, rows, config="train.json,demo.json", workers=workers, settings=options)
