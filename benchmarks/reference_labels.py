"""Time and peak memory of RPG's reference labels, chunked and in the plain top-k form, each in its own process.

    python benchmarks/reference_labels.py --pools 3 5 10 20 --shares 25 50 100

The setting is the paper's: p labelled images of 64 x 64 pixels as references, features of length 64, five
overlapping classes as on chest radiographs, 8192 queries (two images). ``--json`` prints one object per case with p,
k (percent of the references), plain_s, ours_s (best of the repeats), plain_mb, ours_mb (peak above the level before
the call) and equal (all labels the same, all class distances within 1e-5).
On a CPU the peak is that of the resident set, as Linux counts it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads collapse where the cores are shared

import numpy as np
import torch
from torch import Tensor

from common.sources.nearest import reference_labels
from common.sources.nearest.plain import plain_reference_labels

SIZE, FEATURES, CLASSES, QUERIES = 64, 64, 5, 8192
PLAIN_BYTES = 4, 17  # per query and reference (similarity), and per listed neighbour (value, place, label, maximum)


def label_maps(images: int, random: np.random.Generator) -> np.ndarray:
    """Right lung, left lung, heart over the left lung, clavicles over both: ``(images * 64 * 64, 5)`` of 0 and 1."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    shapes = [(0.29, 0.5, 0.15, 0.32), (0.71, 0.5, 0.15, 0.32), (0.57, 0.63, 0.14, 0.14)]
    shapes += [(0.27, 0.22, 0.17, 0.03), (0.73, 0.22, 0.17, 0.03)]
    maps = np.zeros((images, SIZE, SIZE, CLASSES), np.int64)
    for image in range(images):
        moved = np.array(shapes) * random.normal(1, 0.04, (CLASSES, 4))
        for j, (centre_x, centre_y, width, height) in enumerate(moved):
            maps[image, ..., j] = ((x - centre_x) / width) ** 2 + ((y - centre_y) / height) ** 2 < 1
    return maps.reshape(-1, CLASSES)


def make_case(images: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Queries ``(8192, 64)``, references ``(p * 4096, 64)``, labels; features mix a direction per class and noise."""
    random = np.random.default_rng(seed)
    directions = random.normal(size=(CLASSES + 2, FEATURES))

    def features(maps: np.ndarray) -> np.ndarray:
        background = ~maps.any(1, keepdims=True)
        parts = np.concatenate([np.ones_like(background), background, maps], axis=1)
        strength = random.uniform(0.3, 1.2, parts.shape)
        strength[:, 0] += 0.5  # what all pixels share: most similarities of a trained network's features are positive
        noise = random.normal(size=(len(maps), FEATURES))
        return ((parts * strength) @ directions + 0.7 * noise).astype(np.float32)

    query_maps = label_maps(QUERIES // SIZE**2, random)
    maps = label_maps(images, random)
    return {"queries": features(query_maps), "references": features(maps), "labels": maps}


def measure(form: str, folder: Path, share: int, device: str, repeats: int) -> None:
    """Runs one form on the case in a folder and writes what it found there (in a process of its own)."""
    names = ("queries", "references", "labels")
    queries, references, labels = (torch.from_numpy(np.load(folder / f"{name}.npy")).to(device) for name in names)
    k = max(1, round(share / 100 * len(references)))
    function = plain_reference_labels if form == "plain" else reference_labels
    on_cpu = device == "cpu"
    unchecked = {} if form == "plain" else {"check": False}  # as in training

    def call() -> tuple[Tensor, Tensor]:
        found = function(queries, references, labels, k, num_classes=CLASSES, **unchecked)
        if not on_cpu:
            torch.cuda.synchronize()
        return found

    function(queries[:64], references[:64], labels[:64], 32, num_classes=CLASSES)  # loads what libraries load first
    reset_peak_memory(on_cpu)
    before = peak_memory(on_cpu)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        found = call()
        seconds.append(time.perf_counter() - start)
    megabytes = (peak_memory(on_cpu) - before) / 2**20
    result = {"seconds": min(seconds), "megabytes": megabytes}
    np.savez(folder / f"{form}.npz", labels=found[0].cpu(), distances=found[1].cpu(), **result)


def reset_peak_memory(on_cpu: bool) -> None:
    if on_cpu:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak is from now on that of what follows
    else:
        torch.cuda.reset_peak_memory_stats()


def peak_memory(on_cpu: bool) -> int:
    """Peak in bytes. Not ``getrusage``: a new process inherits its parent's peak there, which hides its own."""
    return kilobytes("/proc/self/status", "VmHWM") * 1024 if on_cpu else torch.cuda.max_memory_allocated()


def kilobytes(file: str, name: str) -> int:
    return next(int(line.split()[1]) for line in Path(file).read_text().splitlines() if line.startswith(name))


def available_memory(device: str) -> int:
    if device != "cpu":
        return torch.cuda.mem_get_info()[0]
    return kilobytes("/proc/meminfo", "MemAvailable") * 1024


def run_case(images: int, share: int, device: str, repeats: int, folder: Path) -> dict[str, float | bool | str | None]:
    row: dict[str, float | bool | str | None] = {"p": images, "k": share}
    results, notes = {}, []
    needed = QUERIES * images * SIZE**2 * (PLAIN_BYTES[0] + PLAIN_BYTES[1] * share / 100)
    for form in ("plain", "ours"):
        row[f"{form}_s"] = row[f"{form}_mb"] = None
        if form == "plain" and needed > available_memory(device):
            notes.append(f"plain needs about {needed / 2**30:.0f} GB, too little memory is free")
            continue
        times = 1 if form == "plain" and images * share > 250 else repeats
        command = [sys.executable, __file__, "--measure", form, str(folder), str(share), device, str(times)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["killed, probably for lack of memory"])[-1]
            notes.append(f"{form} failed with {done.returncode}: {last}")
            continue
        with np.load(folder / f"{form}.npz") as arrays:
            results[form] = {name: arrays[name] for name in arrays.files}
        row[f"{form}_s"] = round(float(results[form]["seconds"]), 4)
        row[f"{form}_mb"] = round(float(results[form]["megabytes"]), 1)
    row["equal"] = equal(results) if len(results) == 2 else None
    return row | ({"note": "; ".join(notes)} if notes else {})


def equal(results: dict[str, dict[str, np.ndarray]]) -> bool:
    plain, ours = results["plain"], results["ours"]
    close = np.allclose(plain["distances"], ours["distances"], rtol=0, atol=1e-5)
    return bool(close and np.array_equal(plain["labels"], ours["labels"]))


def table_row(row: dict[str, float | bool | str | None]) -> str:
    def number(key: str, digits: int) -> str:
        return "-" if row[key] is None else f"{row[key]:.{digits}f}"

    both = row["plain_s"] and row["ours_s"]
    faster = f"{row['plain_s'] / row['ours_s']:.1f}x" if both else "-"
    cells = [str(row["p"]), f"{row['k']} %", number("plain_s", 2), number("ours_s", 3), faster]
    cells += [number("plain_mb", 0), number("ours_mb", 0), str(row["equal"]), str(row.get("note", ""))]
    return "".join(f"{cell:>10}" for cell in cells[:-1]) + "  " + cells[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pools", type=int, nargs="+", default=[3, 5, 10, 20], help="numbers p of reference images")
    parser.add_argument("--shares", type=int, nargs="+", default=[25, 50, 100], help="k in percent of the references")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5, help="the best time counts; long plain runs are done once")
    parser.add_argument("--json", action="store_true", help="one JSON object per case instead of the table")
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        form, folder, share, device, repeats = arguments.measure
        measure(form, Path(folder), int(share), device, int(repeats))
        return
    if not arguments.json:
        head = ["p", "k", "plain s", "ours s", "faster", "plain MB", "ours MB", "equal"]
        print("".join(f"{name:>10}" for name in head), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for images in arguments.pools:
            for name, values in make_case(images).items():
                np.save(Path(folder) / f"{name}.npy", values)
            for share in arguments.shares:
                row = run_case(images, share, arguments.device, arguments.repeats, Path(folder))
                print(json.dumps(row) if arguments.json else table_row(row), flush=True)


if __name__ == "__main__":
    main()
