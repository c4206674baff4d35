"""The demonstration: Supervised and RPG on invented radiographs, trained, evaluated, compared and pictured."""

from __future__ import annotations

import json
from pathlib import Path

from common.bundle_run import BUNDLE
from common.compare import compare
from common.data import jsrt_datalist, save_datalist
from common.phantoms.jsrt import make_jsrt_phantom

# At 96 pixels, half of them along each axis; k is as large a share of the references as 7000 of 3 x 64 x 64.
SETTINGS = {"method#reference_size": 48, "method#query_size": 48, "method#neighbors": 0.57}


def demo(directory: str = "runs/demo", splits: int = 3, patients: int = 140, workers: int | None = None) -> None:
    """Train Supervised and RPG with 3 labelled radiographs on several splits of a phantom and compare them.

    Args:
        directory: the demonstration's folder.
        splits: number of splits.
        patients: number of patients of the phantom; half of them are the test part.
        workers: number of runs at the same time; by default one for each core, two at most.
    """
    folder = Path(directory)
    size = json.loads((BUNDLE / "configs" / "demo.json").read_text())["image_size"][0]
    data = folder / f"phantom_{patients}"
    if not data.exists():
        make_jsrt_phantom(data, patients=patients, size=size, seed=0)
    datalists = [folder / f"split{split}.json" for split in range(splits)]
    for split, file in enumerate(datalists):
        save_datalist(jsrt_datalist(data, labeled=3, split=split), file)
    compare(folder, datalists, config="train.json,demo.json", settings=SETTINGS, workers=workers)
