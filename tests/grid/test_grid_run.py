"""A grid that runs, here and under Snakemake: failures, what is run again, and a grid that is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from common.__main__ import main
from common.grid.lock import lock
from common.grid.make import checked, default_cores, run_and_report
from common.grid.run import end

ROOT = Path(__file__).parents[2]


def small(tiny) -> dict:
    """Three methods, one split."""
    tiny |= {"splits": [0], "labeled": [3]}
    del tiny["tables"]["shares"]
    return tiny


def files(output: Path, pattern: str) -> dict[str, int]:
    return {str(file): file.stat().st_mtime_ns for file in output.glob(pattern)}


@pytest.mark.parametrize("snakemake", ["", pytest.param("--quiet", marks=pytest.mark.slow)])
def test_a_failed_cell_is_named_with_its_log_while_others_finish(write, tiny, stand_in, tmp_path, capsys, snakemake):
    if snakemake:
        pytest.importorskip("snakemake")
    output, grid = tmp_path / "out", write(small(tiny))
    output.mkdir()
    (output / "fail").touch()
    (line,) = run_and_report(grid, output, cores=1, snakemake=snakemake)
    assert "nearestneighbor_labeled3_split0" in line
    log = Path(line.split("see ")[1])
    assert "no such luck" in log.read_text()
    text = (output / "tables.md").read_text()
    assert "2 of 3 cells have finished, 1 failed." in text
    assert str(log) in text
    assert "+0.250 [+0.250, +0.250], p = 0.5, n = 2" in text
    assert (output / "report.html").is_file()
    done = files(output, "cells/*/test.csv")
    assert len(done) == 2

    # the same command tries the failed cell again, and it alone
    (output / "fail").unlink()
    assert run_and_report(grid, output, cores=1, snakemake=snakemake) == []
    assert {file: changed for file, changed in files(output, "cells/*/test.csv").items() if file in done} == done
    assert "3 of 3 cells have finished." in (output / "tables.md").read_text()
    assert set(pd.read_csv(output / "results.csv")["method"]) == {"Supervised", "NearestNeighbor", "RPG"}

    # other settings are other folders, and nothing of the old ones is shown
    tiny["settings"]["learning_rate"] = 0.1
    grid = write(tiny)
    capsys.readouterr()
    assert run_and_report(grid, output, cores=1, dry_run=True) == []
    said = capsys.readouterr().out
    assert said.count("to run  ") == 3
    assert "3 to run" in said
    run_and_report(grid, output, tables_only=True)
    assert "0 of 3 cells have finished." in (output / "tables.md").read_text()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("test.csv", None, "test.csv must hold the scores of a cell that has finished, got none: remove"),
        ("test.csv", b"case,class,iou,dice\n", "test.csv must hold the scores of a cell that has finished, got none"),
        ("test.csv", b"", "test.csv must be a table, got an empty file"),
        ("test.csv", "case".encode("utf-16"), "test.csv must be text in UTF-8"),
        ("run.json", b"{", "run.json must be valid JSON"),
        ("run.json", None, "must hold run.json, got none"),
        ("run.json", b'{"method": "a", "classes": 5}', "run.json: classes must be a list of different names, got 5"),
        ("train.csv", b"iteration,loss\nx,y\n", "train.csv: column iteration must hold numbers"),
    ],
)
def test_a_damaged_file_of_a_cell_is_named_and_nothing_is_written(
    write, tiny, stand_in, tmp_path, monkeypatch, capsys, name, content, message
):
    output, grid = tmp_path / "out", write(small(tiny))
    for cell in checked(grid)[0].cells.values():
        folder = cell.folder(output)
        folder.mkdir(parents=True)
        (folder / ".done").touch()
        (folder / "run.json").write_text(json.dumps({"method": cell.method, "classes": ["lung"]}))
        (folder / "test.csv").write_text("case,class,iou,dice\nNA,lung,0.5,0.6\n")
    (folder / name).unlink(missing_ok=True)
    if content is not None:
        (folder / name).write_bytes(content)
    before = set(output.rglob("*"))
    monkeypatch.setattr(sys, "argv", ["python -m common", "grid", str(grid), str(output), "--tables_only"])
    with pytest.raises(SystemExit) as end:
        main()
    error = capsys.readouterr().err
    assert end.value.code == 1 and message in error and str(folder) in error and "Traceback" not in error
    assert set(output.rglob("*")) == before


def test_a_cell_that_fails_after_its_scores_has_failed(write, tiny, stand_in, tmp_path):
    output, grid = tmp_path / "out", write(small(tiny))
    output.mkdir()
    (output / "late").touch()
    assert len(run_and_report(grid, output, cores=2)) == 3
    assert len(files(output, "cells/*/test.csv")) == 3
    assert "0 of 3 cells have finished, 3 failed." in (output / "tables.md").read_text()
    (output / "late").unlink()
    assert run_and_report(grid, output, cores=2) == []


def test_a_folder_in_use_is_refused(write, tiny, stand_in, tmp_path):
    output = tmp_path / "out"
    with (
        lock(output / ".lock"),
        pytest.raises(ValueError, match="out must not be in use, got a grid that is running there"),
    ):
        run_and_report(write(small(tiny)), output)
    assert [file.name for file in output.iterdir()] == [".lock"]  # no data either


def test_snakemake_that_does_not_start_is_an_error_after_the_tables(write, tiny, stand_in, tmp_path, capsys):
    pytest.importorskip("snakemake")
    with pytest.raises(ChildProcessError, match=r"every cell must be started, got 3 of 3 that were not: see .*\.log"):
        run_and_report(write(small(tiny)), tmp_path / "out", snakemake="--no-such-option")
    assert "0 of 3 cells have finished." in (tmp_path / "out" / "tables.md").read_text()
    assert capsys.readouterr().out.count("0 of 3 cells have finished.") == 1


def test_a_dry_run_writes_nothing(write, tiny, tmp_path, capsys):
    run_and_report(write(tiny), tmp_path / "out", dry_run=True)
    assert not (tmp_path / "out").exists()
    assert "18 cells in 2 tables, 18 to run." in capsys.readouterr().out


def test_cells_do_not_share_a_gpu_unless_told_to(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert default_cores() == 1
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert default_cores() == os.cpu_count()


# Starts another job as soon as one has ended, and says which.
RESTARTING = """
import subprocess, sys
while True:
    job = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print(job.pid, flush=True)
    job.wait()
"""


def test_no_job_is_started_while_others_are_ended(tmp_path):
    psutil = pytest.importorskip("psutil")
    said = tmp_path / "jobs"
    with said.open("w") as file:
        child = subprocess.Popen([sys.executable, "-c", RESTARTING], stdout=file)
    limit = time.time() + 30
    while not said.read_text():
        assert time.time() < limit
        time.sleep(0.02)
    end(child)
    assert child.poll() is not None
    (job,) = map(int, said.read_text().split())
    assert not psutil.pid_exists(job) or psutil.Process(job).status() == psutil.STATUS_ZOMBIE
    end(child)


def start(grid: Path, output: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "common", "grid", str(grid), str(output), "--cores", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, stdout=quiet, stderr=quiet)


@pytest.mark.slow
def test_a_grid_that_is_killed_goes_on_where_it_was(write, tiny, tmp_path):
    """Real trainings: the second cell is killed after an epoch, goes on from there, and the first is left alone."""
    settings = {"image_size": [32, 32], "network_def#features": [4, 4, 4, 4, 8, 4], "epochs": 40, "iterations": 2}
    tiny = small(tiny) | {"settings": {**settings, "val_interval": 41}}
    tiny["data"]["patients"] = 19
    tiny["tables"]["methods"]["rows"] = [{"method": "Supervised"}, {"name": "B", "method": "Supervised", "seed": 1}]
    output, grid = tmp_path / "out", write(tiny)
    process = start(grid, output)
    end = time.time() + 200
    while not (begun := unfinished(output)):
        assert time.time() < end, list(output.glob("cells/*"))
        time.sleep(0.02)
    # its jobs go on where it alone is killed: here they are, too, as when the machine goes down
    subprocess.run(["pkill", "-KILL", "-f", str(output)], check=True)
    process.wait()
    before = files(output, "cells/*/test.csv") | files(output, "cells/*/checkpoint.pt")
    assert len(files(output, "cells/*/test.csv")) == 1
    assert process.returncode != 0

    assert start(grid, output).wait(timeout=200) == 0
    after = files(output, "cells/*/test.csv") | files(output, "cells/*/checkpoint.pt")
    assert {name: after[name] for name in before if begun.name not in name} == {
        name: changed for name, changed in before.items() if begun.name not in name
    }
    assert "Resumed from" in (begun / "log.txt").read_text()
    assert "2 of 2 cells have finished." in (output / "tables.md").read_text()


def unfinished(output: Path) -> Path | None:
    """The folder of a cell that has begun to train while another is finished."""
    folders = [file.parent for file in output.glob("cells/*/run.json")]
    training = [folder for folder in folders if not (folder / "test.csv").exists()]
    for folder in training:
        run = json.loads((folder / "run.json").read_text())
        if len(folders) > 1 and 1 <= run["epoch"] < run["epochs"] and (folder / "checkpoint.pt").exists():
            return folder
    return None
