"""Time and peak memory of the rank similarity and of its memory, ours and in the plain form, each in its own process.

    python benchmarks/rank_similarity.py                  # 24 images of 256 x 256, 32 features, four classes, k = 5
    python benchmarks/rank_similarity.py --device cuda
    python benchmarks/rank_similarity.py --images 6 --size 96 96 --features 16 --layout first --json

``weight`` is the weight of all pixels, from features, pseudo-labels and prototypes; ``memory`` what a step adds to the
memory of 256 features of each class: 16 pixels of each, drawn from as many labelled images. The plain form sorts all
features of each pixel and compares the first k with each class's, one after the other, and draws pixels on the host
from lists of them. Printed are the best of the repeats, on a CPU of the time that one thread ran, the peak above the
features and labels, and whether both give the same weights. ``--layout first`` has a feature's pixels side by side in
memory, ``last`` a pixel's features, as the bundles' networks have them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads collapse where the cores are shared

import numpy as np
import torch
from reference_labels import peak_memory, reset_peak_memory
from torch import Tensor

from common.draws import generator
from common.weights.class_memory import ClassMemory, draw_pixels
from common.weights.similarity import similarities

MEMORY, ENQUEUED = 256, 16


def make_case(options: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor]:
    """Features ``B d H W [D]``, labels ``B 1 H W [D]`` and a memory ``K 256 d``; what is rectified has ties at 0."""
    draw = torch.Generator(options.device).manual_seed(0)
    settings = {"generator": draw, "device": options.device}
    centers = torch.randn(options.classes, options.features, **settings)
    label = torch.randint(options.classes, (options.images, 1, *options.size), **settings)
    features = centers[label[:, 0]].movedim(-1, 1).contiguous()
    features.add_(torch.randn(features.shape, **settings)).clamp_(min=0)
    kept = (centers[:, None] + torch.randn(options.classes, MEMORY, options.features, **settings)).clamp(min=0)
    if options.layout == "last":
        features = features.to(memory_format=torch.channels_last if len(options.size) == 2 else torch.channels_last_3d)
    return features, label, kept


def our_weight(features: Tensor, label: Tensor, kept: Tensor, k: int) -> Tensor:
    return similarities(features, kept.mean(1), k).movedim(-1, 1).gather(1, label)


def our_memory(features: Tensor, label: Tensor, kept: Tensor) -> Callable[[int], Tensor]:
    memory = ClassMemory(MEMORY)
    memory.prepare(len(kept), kept.shape[2], kept.device)

    def add(iteration: int) -> Tensor:
        draw = generator(0, iteration, "benchmark")
        memory.add(*draw_pixels(features, label, len(kept), ENQUEUED, draw))
        return memory.features

    return add


def plain_weight(features: Tensor, label: Tensor, kept: Tensor, k: int) -> Tensor:
    order = features.sort(dim=1, descending=True, stable=True).indices[:, :k]
    weight = torch.zeros_like(label, dtype=torch.float32)
    for index, prototype in enumerate(kept.mean(1)):
        best = prototype.sort(descending=True, stable=True).indices[:k]
        shared = torch.zeros_like(weight)
        for one in best:
            shared += (order == one).sum(1, keepdim=True)
        weight += torch.where(label == index, shared / k, 0)
    return weight


def plain_memory(features: Tensor, label: Tensor, kept: Tensor) -> Callable[[int], Tensor]:
    queues = [kept.new_zeros(0, kept.shape[2])] * len(kept)

    def add(iteration: int) -> Tensor:
        draw, rows = generator(0, iteration, "benchmark"), features.movedim(1, -1)
        for index in range(len(queues)):
            mine = rows[label[:, 0] == index]
            chosen = draw.choice(len(mine), min(ENQUEUED, len(mine)), replace=False)
            queues[index] = torch.cat([queues[index], mine[torch.from_numpy(chosen).to(mine.device)]])[-MEMORY:]
        return torch.cat(queues)

    return add


def timed(call: Callable[[int], Tensor], repeats: int, device: str) -> tuple[float, float, Tensor]:
    """Best of the repeats in milliseconds, peak in megabytes above what was there before, and the last result."""
    call(0)  # loads what libraries load first
    on_cpu, best = device == "cpu", float("inf")
    clock = time.thread_time if on_cpu else time.perf_counter
    reset_peak_memory(on_cpu)
    before = peak_memory(on_cpu) if on_cpu else torch.cuda.memory_allocated()
    for repeat in range(1, repeats + 1):
        synchronize(device)
        start = clock()
        result = call(repeat)
        synchronize(device)
        best = min(best, clock() - start)
    return 1000 * best, (peak_memory(on_cpu) - before) / 2**20, result


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


@torch.no_grad()
def measure(form: str, folder: Path, options: argparse.Namespace) -> None:
    """Runs one form and writes what it found (in a process of its own)."""
    torch.set_num_threads(1)
    case = make_case(options)
    weigh, remember = (our_weight, our_memory) if form == "ours" else (plain_weight, plain_memory)
    took, peak, weight = timed(lambda _: weigh(*case, options.k), options.repeats, options.device)
    added, beside, _ = timed(remember(*case), options.repeats, options.device)
    values = {"weight_ms": took, "weight_mb": peak, "memory_ms": added, "memory_mb": beside}
    np.savez(folder / f"{form}.npz", weight=weight.cpu().numpy(), **values)


def run_case(arguments: list[str], folder: Path) -> dict[str, float | bool]:
    row: dict[str, float | bool] = {}
    weights = []
    for form in ("plain", "ours"):
        subprocess.run([sys.executable, __file__, *arguments, "--measure", form, str(folder)], check=True)
        with np.load(folder / f"{form}.npz") as arrays:
            weights.append(arrays["weight"])
            row |= {f"{form}_{name}": round(float(arrays[name]), 2) for name in arrays.files if name != "weight"}
    return row | {"equal": bool(np.allclose(*weights, rtol=0, atol=1e-6))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--size", type=int, nargs="+", default=[256, 256], help="sides of an image or a volume")
    parser.add_argument("--features", type=int, default=32)
    parser.add_argument("--classes", type=int, default=4, help="background among them")
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--layout", choices=["first", "last"], default="last", help="of channels in memory")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="a JSON object instead of the table")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure[0], Path(options.measure[1]), options)
        return
    with tempfile.TemporaryDirectory() as folder:
        row = run_case(sys.argv[1:], Path(folder))
    if options.json:
        print(json.dumps(row))
        return
    print("| | plain ms | ours ms | plain MB | ours MB |\n|---|---:|---:|---:|---:|")
    for part in ("weight", "memory"):
        times, sizes = ([row[f"{form}_{part}_{unit}"] for form in ("plain", "ours")] for unit in ("ms", "mb"))
        print("| {} | {:.1f} | {:.1f} | {:.0f} | {:.0f} |".format(part, *times, *sizes))
    print(f"weights are {'equal' if row['equal'] else 'NOT equal'}")


if __name__ == "__main__":
    main()
