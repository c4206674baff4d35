"""Time and peak memory of a step of POPCORN's proximity graph, kept and in the plain form, each in its own process.

    python benchmarks/proximity_graph.py --images 3000 30000 --joined 0 50 90

The setting is the paper's: 21 labelled images, p = 5 neighbours, K = 200 images per step, and latents of length 2048. A
step selects 200 images and lets them join. The plain form is eq. 6 and 7 word for word: the matrix of the distances
between all unlabelled images and the training set of that moment. ``--json`` prints one object per case with images,
joined (how many before), start_s (ours: the neighbours among the labelled, once in a run), plain_s, ours_s (best of the
repeats), plain_mb, ours_mb (peak above the latents; ours with the start), same (how many of the 200 images both select)
and equal (all their scores within a share of 1e-4).
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
from reference_labels import available_memory, peak_memory, reset_peak_memory
from torch import Tensor

from common.curriculum import ProximityGraph

LABELED, NEIGHBORS, SELECTED, FEATURES, SITES = 21, 5, 200, 2048, 50


def make_latents(images: int, folder: Path, seed: int = 0) -> None:
    """Latents of images from some sites, the labelled ones from one of them, as positive as those behind a ReLU."""
    random = np.random.default_rng(seed)
    centers = random.normal(1, 0.5, (SITES, FEATURES)).astype(np.float32)
    for name, number, sites in (("unlabeled", images, SITES), ("training", LABELED, 1)):
        latents = random.standard_normal((number, FEATURES), dtype=np.float32)
        latents *= random.uniform(0.2, 1, (number, 1)).astype(np.float32)
        for part in np.array_split(np.arange(number), max(1, number // 1000)):
            latents[part] = np.maximum(latents[part] + centers[random.integers(0, sites, len(part))], 0)
        np.save(folder / f"{name}.npy", latents)


def load(folder: Path) -> tuple[Tensor, Tensor]:
    return tuple(torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("unlabeled", "training"))


def plain_step(unlabeled: Tensor, training: Tensor, joined: int) -> tuple[Tensor, Tensor]:
    """Which images are selected, and their scores."""
    training = torch.cat([training, unlabeled[:joined]])
    distances = torch.cdist(unlabeled[joined:], training)
    scores = distances.topk(NEIGHBORS, largest=False).values.sum(1)
    scores, order = scores.sort(stable=True)
    return order[:SELECTED] + joined, scores[:SELECTED]


def measure(form: str, folder: Path, joined: int, repeats: int) -> None:
    """Runs one form's step on the latents in a folder and writes what it found there (in a process of its own)."""
    unlabeled, training = load(folder)
    plain_step(unlabeled[:64], training, 32)  # loads what libraries load first
    ProximityGraph(unlabeled[:64], training, NEIGHBORS)
    reset_peak_memory(True)
    before = peak_memory(True)
    seconds, result = [], {}
    if form == "ours":
        start = time.perf_counter()
        graph = ProximityGraph(unlabeled, training, NEIGHBORS)
        result["start"] = time.perf_counter() - start
        state = torch.load(folder / "state.pt", weights_only=True)
    for _ in range(repeats):
        if form == "ours":
            graph.load_state_dict(state)
        start = time.perf_counter()
        if form == "ours":
            rows = graph.select(SELECTED)
            graph.join(rows)
            scores = graph.scores(rows)
        else:
            rows, scores = plain_step(unlabeled, training, joined)
        seconds.append(time.perf_counter() - start)
    result |= {"seconds": min(seconds), "megabytes": (peak_memory(True) - before) / 2**20}
    np.savez(folder / f"{form}.npz", rows=rows, scores=scores, **result)


def run_case(images: int, joined: int, repeats: int, folder: Path) -> dict[str, float | bool | str | None]:
    row: dict[str, float | bool | str | None] = {"images": images, "joined": joined, "start_s": None}
    results, notes = {}, []
    remaining, training = images - joined, LABELED + joined
    needed = 4 * (remaining * training + 3 * (remaining + training) * FEATURES)
    for form in ("plain", "ours"):
        row[f"{form}_s"] = row[f"{form}_mb"] = None
        if form == "plain" and needed > available_memory("cpu"):
            notes.append(f"plain needs about {needed / 2**30:.0f} GB, too little memory is free")
            continue
        times = 1 if form == "plain" and remaining * training > 2e8 else repeats
        command = [sys.executable, __file__, "--measure", form, str(folder), str(joined), str(times)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["killed, probably for lack of memory"])[-1]
            notes.append(f"{form} failed with {done.returncode}: {last}")
            continue
        with np.load(folder / f"{form}.npz") as arrays:
            results[form] = {name: arrays[name] for name in arrays.files}
        row[f"{form}_s"] = round(float(results[form]["seconds"]), 4)
        row[f"{form}_mb"] = round(float(results[form]["megabytes"]), 1)
    if "ours" in results:
        row["start_s"] = round(float(results["ours"]["start"]), 4)
    row["same"] = row["equal"] = None
    if len(results) == 2:
        row["same"] = len(np.intersect1d(results["plain"]["rows"], results["ours"]["rows"]))
        row["equal"] = bool(np.allclose(results["plain"]["scores"], results["ours"]["scores"], rtol=1e-4, atol=0))
    return row | ({"note": "; ".join(notes)} if notes else {})


def table_row(row: dict[str, float | bool | str | None]) -> str:
    def number(key: str, digits: int) -> str:
        return "-" if row[key] is None else f"{row[key]:.{digits}f}"

    faster = f"{row['plain_s'] / row['ours_s']:.1f}x" if row["plain_s"] and row["ours_s"] else "-"
    cells = [str(row["images"]), str(row["joined"]), number("start_s", 2), number("plain_s", 2), number("ours_s", 3)]
    cells += [faster, number("plain_mb", 0), number("ours_mb", 0), str(row["same"]), str(row["equal"])]
    return "".join(f"{cell:>10}" for cell in cells) + "  " + str(row.get("note", ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[3000, 30000, 100000], help="numbers of unlabelled")
    parser.add_argument("--joined", type=int, nargs="+", default=[0, 5, 95], help="percent that joined before the step")
    parser.add_argument("--repeats", type=int, default=3, help="the best time counts; long plain steps are done once")
    parser.add_argument("--json", action="store_true", help="one JSON object per case instead of the table")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        form, folder, joined, repeats = arguments.measure
        measure(form, Path(folder), int(joined), int(repeats))
        return
    if not arguments.json:
        head = ["images", "joined", "start s", "plain s", "ours s", "faster", "plain MB", "ours MB", "same", "equal"]
        print("".join(f"{name:>10}" for name in head), flush=True)
    for images in arguments.images:
        with tempfile.TemporaryDirectory() as folder:
            make_latents(images, Path(folder))
            graph = ProximityGraph(*load(Path(folder)), NEIGHBORS)
            for share in sorted(arguments.joined):
                joined = images * share // 100
                graph.join(torch.arange(len(graph.joined), joined))  # all at once
                torch.save(graph.state_dict(), Path(folder) / "state.pt")
                row = run_case(images, joined, arguments.repeats, Path(folder))
                print(json.dumps(row) if arguments.json else table_row(row), flush=True)


if __name__ == "__main__":
    main()
