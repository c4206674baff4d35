"""The job of one cell: where it runs, and what it leaves behind when it fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.grid import job
from common.grid.run import describe


@pytest.fixture
def cell(spread_out, tiny, tmp_path, monkeypatch) -> Path:
    """The folder of a cell, described by a command that was started in ``tmp_path / "start"``."""
    grid = spread_out(tiny)
    first = next(iter(grid.cells.values()))
    for name in ("start", "out"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "start")

    class Made:
        def write(self, output, labeled, split):
            return Path("datalist.json")

    describe(first, grid, Made(), tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    return first.folder(Path())


def test_it_runs_where_the_grid_was_started(cell, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(job, "train_and_evaluate", lambda folder, *_, **__: seen.append((Path.cwd(), folder)))
    job.run(cell, 1)
    assert seen == [(tmp_path / "start", (tmp_path / "out" / cell).resolve())]
    assert json.loads((tmp_path / "out" / cell / "cell.json").read_text())["datalist"] == str(
        tmp_path / "start" / "datalist.json"
    )


def test_a_method_gets_no_keyword_of_the_bundle_s_that_it_lacks(spread_out, tiny, tmp_path):
    """The paper's queries and background are of the references; one pass is of all methods."""
    tiny["config"] = "train.json,paper.json"
    grid = spread_out(tiny)

    class Made:
        def write(self, output, labeled, split):
            return Path("datalist.json")

    found = {}
    for cell in grid.cells.values():
        describe(cell, grid, Made(), tmp_path)
        found[cell.method] = json.loads((cell.folder(tmp_path) / "cell.json").read_text())["settings"]
    own = {"_target_": "common.methods.Supervised", "labels": "@labels", "seed": "@seed", "joint": True}
    assert found["Supervised"]["method"] == own
    assert "method" not in found["RPG"] and "method" not in found["NearestNeighbor"]


@pytest.mark.parametrize(
    "error", [RuntimeError("no such luck"), OSError("no such luck"), ZeroDivisionError("no such luck")]
)
def test_any_error_is_written_down_and_raised(cell, tmp_path, monkeypatch, error):
    def broken(*_, **__):
        raise error

    monkeypatch.setattr(job, "train_and_evaluate", broken)
    folder = cell.resolve()
    with pytest.raises(type(error), match="no such luck"):
        job.run(cell, 1)
    assert (folder / "failed.txt").read_text() == "no such luck\n"


def test_a_folder_that_is_gone_is_written_down_too(cell, tmp_path):
    folder = cell.resolve()
    (tmp_path / "start").rmdir()
    with pytest.raises(FileNotFoundError):
        job.run(cell, 1)
    assert "start" in (folder / "failed.txt").read_text()
