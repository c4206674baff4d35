"""Small grid files, and a stand-in for MONAI's bundle that is over in no time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.grid.cells import Grid, expand
from common.grid.data import data_source
from common.grid.grid_file import read_grid

TINY: dict[str, Any] = {
    "bundle": "jsrt_rpg",
    "config": "train.json,demo.json",
    "data": {"phantom": "jsrt", "patients": 24, "size": 64},
    "splits": [0, 1],
    "labeled": [3, 4],
    "settings": {"epochs": 3, "val_interval": 1, "neighbors": 0.5},
    "tables": {
        "methods": {
            "title": "Methods",
            "baseline": "Supervised",
            "rows": [{"method": "Supervised"}, {"name": "Nearest", "method": "NearestNeighbor"}, {"method": "RPG"}],
        },
        "shares": {
            "baseline": "RPG, p = 3",
            "labeled": 3,
            "columns": "neighbors",
            "rows": [{"method": "RPG", "labeled_batch": [2, 3], "neighbors": [0.5, 1.0]}],
        },
    },
}

# Scores depend on the method and the split alone; NearestNeighbor fails where there is a file `fail` in the
# grid's folder, and all fail after their scores where there is a file `late`.
STAND_IN = """
import json, sys
from pathlib import Path

options = dict(zip(sys.argv[3::2], sys.argv[4::2]))
folder, method = Path(options["--output_dir"]), options["--method#_target_"].split(".")[-1]
if method == "NearestNeighbor" and (folder.parents[1] / "fail").exists():
    sys.exit("no such luck")
datalist = json.loads(Path(options["--datalist"]).read_text())
if sys.argv[2] == "training":
    run = {"method": method, "classes": datalist["classes"], "split": datalist["split"], "seconds": 2.0}
    run |= {"mode": datalist["mode"], "epoch": 3, "epochs": 3}
    (folder / "run.json").write_text(json.dumps(run))
else:
    score = {"Supervised": 0.5, "NearestNeighbor": 0.6, "RPG": 0.75}[method] + 0.01 * datalist["split"]
    lines = [f"{case},{name},{score},{score}" for case in "ab" for name in datalist["classes"]]
    (folder / "test.csv").write_text("\\n".join(["case,class,iou,dice", *lines]) + "\\n")
    if (folder.parents[1] / "late").exists():
        sys.exit("no picture could be drawn")
"""


@pytest.fixture
def tiny() -> dict[str, Any]:
    """A grid's content, to be changed."""
    return copy.deepcopy(TINY)


@pytest.fixture
def write(tmp_path) -> Callable[[dict[str, Any]], Path]:
    """``write(content)``: a grid file."""

    def make(content: Any) -> Path:
        file = tmp_path / "grid.yaml"
        file.write_text(yaml.safe_dump(content, sort_keys=False))
        return file

    return make


@pytest.fixture
def spread_out(write) -> Callable[[dict[str, Any]], Grid]:
    """``spread_out(content)``: the grid with its cells."""

    def make(content: dict[str, Any]) -> Grid:
        file = read_grid(write(content))
        return expand(file, data_source(file.path, file.data).identity)

    return make


@pytest.fixture
def stand_in(tmp_path, monkeypatch) -> None:
    """Every ``python -m monai.bundle`` that this process starts is the stand-in."""
    folder = tmp_path / "stand_in" / "monai" / "bundle"
    folder.mkdir(parents=True)
    (folder / "__main__.py").write_text(STAND_IN)
    for package in (folder, folder.parent):
        (package / "__init__.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stand_in"))
