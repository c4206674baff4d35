"""Runs that are killed at random moments, whose disk is full, whose checkpoint was damaged, or that share a folder."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import bundle_runs
import damaged
import test_ms_popcorn
import torch
from bundle_runs import configs, environment, run_in_fork, same, train_log, weights
from tried import ACCEPTED, REFUSED, SAME, Setting, Tried
from volume_phantom import make_ms_data

from common import methods
from common.phantoms.jsrt import make_jsrt_phantom

NAMES = [name for name in methods.__all__ if name not in ("Method", "Step")]
SETTINGS = {
    "Popcorn": {"method#step_size": 2, "method#step_epochs": 1, "method#neighbors": 2, "supervised_epochs": 1},
    "U2PL": {"method#contrast": {"dimensions": 4, "anchors": 8, "negatives": 4, "queue": 30, "enqueued": 5}},
}


class Runs:
    """Trainings with tiny settings in 2D or 3D, and those that were never stopped to compare with."""

    def __init__(self, folder: Path, dimensions: int) -> None:
        self.folder, self.bundle = folder, {2: "jsrt_rpg", 3: "ms_popcorn"}[dimensions]
        tiny = {2: bundle_runs.TINY, 3: test_ms_popcorn.TINY}[dimensions]
        # for methods that learn from pairs, and that ask what dropout changes
        even = {"labeled_batch": 2, "unlabeled_batch": 2, "network_def#dropout": 0.2}
        self.tiny = {key: value for key, value in tiny.items() if not key.startswith("method#")} | even
        folder.mkdir(parents=True)
        if dimensions == 2:
            self.data = make_jsrt_phantom(folder / "phantom", patients=24, size=64, seed=0)
        else:
            self.data = make_ms_data(folder / "phantom")
        self.whole = cache(self.whole)

    def train(self, method: str, folder: Path, die: tuple = ()) -> int:
        changes = {"method#_target_": f"common.methods.{method}", **SETTINGS.get(method, {}), "resume": "true"}
        settings = bundle_runs.options(folder, self.data, self.bundle, {**self.tiny, **changes})
        return run_in_fork("training", configs("train", bundle=self.bundle), settings, self.folder / "log.txt", die)

    def whole(self, method: str) -> tuple[Path, float]:
        """The folder of a run that was never stopped, and how long it took."""
        folder, started = self.folder / method, time.monotonic()
        assert self.train(method, folder) == 0, self.log()
        return folder, time.monotonic() - started

    def log(self) -> str:
        return (self.folder / "log.txt").read_text()[-3000:]

    def equal(self, method: str, folder: Path) -> bool:
        """Whether a run ended as the one that was never stopped, bit by bit."""
        return equal_runs(folder, self.whole(method)[0])


def equal_runs(*runs: Path) -> bool:
    """Whether two runs have the same state, weights and log."""
    states = [torch.load(run / "checkpoint.pt", weights_only=True) for run in runs]
    logs = [train_log(run) for run in runs]
    return same(*states) and same(*map(weights, runs)) and logs[0].equals(logs[1])


def killed(setting: Setting, dimensions: int) -> Iterator[Tried]:
    """Each method in turn, killed once or twice and started again until it ends."""
    runs, kind = Runs(setting.folder, dimensions), f"killed and resumed, {dimensions}D"
    for index in range(setting.times * (2 if dimensions == 2 else 1)):
        method = NAMES[index % len(NAMES)]
        folder, moments, codes = setting.folder / f"{index}", [], []
        for _ in range(int(setting.rng.integers(1, 3))):
            moments.append(float(setting.rng.uniform(0.2, 1) * runs.whole(method)[1]))
            codes.append(runs.train(method, folder, die=("seconds", moments[-1])))
        codes.append(runs.train(method, folder))
        well = codes[-1] == 0 and {*codes} <= {0, -signal.SIGKILL}  # one that was faster ended well
        found = SAME if well and runs.equal(method, folder) else ACCEPTED
        yield Tried(kind, found, f"{method} after {moments} s{'' if well else ': ' + runs.log()}")


def killed_together(setting: Setting) -> Iterator[Tried]:
    """Two processes that train together; a fifth as often, since starting them takes long."""
    setting.folder.mkdir(parents=True)
    data = make_jsrt_phantom(setting.folder / "phantom", patients=24, size=64, seed=0)
    files = configs("train", "multi_gpu_train")
    whole, duration = setting.folder / "whole", together(files, bundle_runs.options(setting.folder / "whole", data))
    assert duration > 0, "two processes do not train together here"
    for index in range(max(1, setting.times // 5)):
        folder = setting.folder / f"{index}"
        settings = bundle_runs.options(folder, data, resume="true")
        moment = float(setting.rng.uniform(0.5, 1) * duration)  # before that, nothing has begun
        together(files, settings, moment)
        ended = together(files, settings) > 0
        found = SAME if ended and equal_runs(folder, whole) else ACCEPTED
        yield Tried("killed and resumed, two processes", found, f"after {moment} s")


def together(files: list[str], settings: dict, moment: float = 600) -> float:
    """Trains in two processes, which are killed at a moment; gives how long it took, or 0 where it did not end well."""
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    command = [sys.executable, *launch, *bundle_runs.command("training", files, settings)]
    started = time.monotonic()
    process = subprocess.Popen(
        command, cwd=bundle_runs.ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        code = process.wait(moment)
    except subprocess.TimeoutExpired:
        subprocess.run(["pkill", "-KILL", "-f", str(settings["output_dir"])], check=True)  # all of them know the folder
        code = process.wait()
    return time.monotonic() - started if code == 0 else 0


def damaged_checkpoints(setting: Setting) -> Iterator[Tried]:
    """A run goes on from the one before, and ends as if nothing had been."""
    runs = Runs(setting.folder, 2)
    for index in range(setting.times):
        method = NAMES[(index // 3) % len(NAMES)]
        folder = setting.folder / f"{index}"
        code = runs.train(method, folder, die=("saved", 2))
        assert code == -signal.SIGKILL, runs.log()
        path = folder / "checkpoint.pt"
        damage = (damaged.cut, damaged.flipped, damaged.without_end)[index % 3]
        path.write_bytes(damage(path.read_bytes(), setting.rng))
        code = runs.train(method, folder)
        found = SAME if code == 0 and runs.equal(method, folder) else ACCEPTED
        yield Tried("a checkpoint was damaged: the run goes on from the one before", found, f"{method}: {runs.log()}")


def full_disks(setting: Setting) -> Iterator[Tried]:
    """The run ends and says why, and goes on to the same end once there is space; a mount point is a folder, too."""
    runs, method = Runs(setting.folder, 2), "Supervised"
    size = sum(path.stat().st_size for path in runs.whole(method)[0].rglob("*") if path.is_file()) // 1024
    for index in range(setting.times):
        disk = setting.folder / f"disk{index}"
        folder, kib = (disk, disk / "run")[index % 2], int(setting.rng.integers(8, size))
        disk.mkdir()
        if not mounted(disk, f"size={kib}k,ro", "-t", "tmpfs"):
            print("disks: not tried, since mounting one is for the superuser")
            return
        try:
            code = runs.train(method, folder)
            yield Tried("the disk is read-only", ended(code, runs.log(), "got a read-only one"), runs.log())
            mounted(disk, f"remount,rw,size={kib}k")
            code, full = runs.train(method, folder), f"{kib} of {size} KiB: {runs.log()}"
            yield Tried("the disk is full", ended(code, full, "got no space left"), full)
            mounted(disk, f"remount,size={20 * size}k")
            code = runs.train(method, folder)
            found = SAME if code == 0 and runs.equal(method, folder) else ACCEPTED
            yield Tried("there is space again: the run goes on", found, f"{kib} of {size} KiB: {runs.log()}")
        finally:
            subprocess.run(["umount", "-l", disk], check=True)


def mounted(disk: Path, options: str, *kind: str) -> bool:
    command = ["mount", *kind, "-o", options, "none", str(disk)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def ended(code: int, log: str, said: str) -> str:
    return REFUSED if code == 1 and said in log.strip().splitlines()[-1] else ACCEPTED


killed_2d, killed_3d = partial(killed, dimensions=2), partial(killed, dimensions=3)
