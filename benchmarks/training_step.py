"""Time and memory of a training step: the whole of it, what it waits for batches, and what the network alone takes.

    python benchmarks/training_step.py                  # the bundles' networks; for a GPU
    python benchmarks/training_step.py --small          # the demonstrations' networks and sizes; for a processor
    python benchmarks/training_step.py --cases 2d-256 --methods UniMatch --json

Each case is trained by MONAI's trainer with the package's batches, on invented images that have been decoded, for some
iterations after some to warm up. Printed are milliseconds a step; ``waiting``, how much of it is gone when the same
batch is handed over again and again; ``limit``, a bare loop over as many passes of the network with tensors that lie on
the device, without views, pseudo-labels and engine; images per second; and what a training takes of memory beyond
network, optimizer and images. Volumes are z-scores around a background of 0, as in MR. ``--json`` prints one object per
line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads collapse where the cores are shared

import numpy as np
import torch
from ignite.engine import Events
from monai.data import MetaTensor
from monai.engines import SupervisedTrainer

from common import methods
from common.batches import Batches, Loader
from common.data.decoded import DecodedImages
from common.determinism import set_up
from common.label_space import LabelSpace
from common.networks import BasicUNet
from common.views import Affine, Chain, Flip, ImageQuality, IntensityJitter

# size, labelled and unlabelled images of a batch, features of the network
CASES: dict[str, tuple[tuple[int, ...], int, int, tuple[int, ...]]] = {
    "2d-256": ((256, 256), 12, 12, (32, 32, 64, 128, 256, 32)),
    "2d-512": ((512, 512), 3, 2, (32, 32, 64, 128, 256, 32)),
    "3d-64": ((64, 64, 64), 4, 2, (32, 32, 64, 128, 256, 32)),
}
SMALL: dict[str, tuple[tuple[int, ...], int, int, tuple[int, ...]]] = {
    "2d-64": ((64, 64), 3, 2, (16, 16, 32, 64, 128, 16)),
    "2d-96": ((96, 96), 3, 2, (16, 16, 32, 64, 128, 16)),
    "2d-128": ((128, 128), 3, 2, (16, 16, 32, 64, 128, 16)),
    "3d-32": ((32, 32, 32), 4, 2, (8, 8, 16, 32, 64, 8)),
}
METHODS = ("Supervised", "RPG", "FixMatch", "UniMatch")
# passes of a step beside that over labelled images: batches of unlabelled ones in it, with gradients or without
PASSES = {
    "Supervised": (),
    "RPG": ((1, True),),
    "FixMatch": ((1, False), (1, True)),
    "UniMatch": ((1, False), (2, True), (1, True)),
}
LABELS = LabelSpace(["right_lung", "left_lung", "heart", "right_clavicle", "left_clavicle"])


class Invented:
    """A transform that gives random smooth images of a name."""

    def __init__(self, size: tuple[int, ...]) -> None:
        self.size = size

    def __call__(self, item: dict[str, str]) -> dict[str, Any]:
        rng = np.random.default_rng(int(item["image"]))
        image = np.cumsum(rng.normal(size=self.size), axis=0)
        image = (image - image.min()) / np.ptp(image)
        label = np.stack([(image > 0.1 * (j + 3)) for j in range(LABELS.num_classes)])
        if len(self.size) == 3:  # a brain within nothing
            image = (image - image.mean()) / image.std() * (image > np.percentile(image, 30))
        arrays = {"image": image[None], "label": label}
        return {key: MetaTensor(torch.from_numpy(arrays[key].astype(np.float32))) for key in item}


def make_batches(size: tuple[int, ...], method: methods.Method, numbers: tuple[int, int], device: str) -> Batches:
    """The bundles' batches of invented images; volumes are twice as large as their patches along each axis."""
    volumes = len(size) == 3
    whole = tuple(2 * side for side in size) if volumes else size
    stores = [
        DecodedImages([{"image": str(first + i)} | extra for i in range(24)], Invented(whole), progress=False)
        for first, extra in ((0, {"label": ""}), (100, {}))
    ]
    weak = [Flip([0]), ImageQuality()] if volumes else [Affine(10, 0.15, translate=0.0625), IntensityJitter()]
    options = {"patch_size": size, "value_range": None, "foreground": 0.3} if volumes else {}
    return Batches(*stores, LABELS, method, *numbers, weak=Chain(weak), device=device, **options)


class Timer:
    """Times the iterations of a trainer after those to warm up."""

    def __init__(self, warm: int, device: torch.device) -> None:
        self.warm, self.device, self.start, self.end = warm, device, 0.0, 0.0

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def attach(self, engine: SupervisedTrainer) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=self.warm), self.begin)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def begin(self, engine: SupervisedTrainer) -> None:
        self.start = self.now()

    def finish(self, engine: SupervisedTrainer) -> None:
        self.end = self.now()


class Again:
    """Hands the same batch over again and again."""

    def __init__(self, batch: dict[str, Any], number: int) -> None:
        self.batch, self.number = batch, number

    def __len__(self) -> int:
        return self.number

    def __iter__(self):
        return iter([self.batch] * self.number)


def measure(case: str, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One row of the table."""
    size, labeled, unlabeled, features = (CASES | SMALL)[case]
    device = torch.device(options.device)
    set_up(0, deterministic=not options.fast)
    keywords = {"neighbors": 0.5} if name == "RPG" else {}
    method = getattr(methods, name)(LABELS, **keywords)
    layout = torch.channels_last if len(size) == 2 else torch.channels_last_3d
    network = BasicUNet(len(size), 1, LABELS.num_outputs, features).to(device, memory_format=layout)
    optimizer = torch.optim.Adam(method.prepare(network), lr=1e-4, fused=device.type == "cuda")
    batches = make_batches(size, method, (labeled, unlabeled), options.device)
    number = options.warm + options.iterations
    start = memory(device)

    def run(loader: Any) -> float:
        timer = Timer(options.warm, device)
        SupervisedTrainer(
            device=device, max_epochs=1, train_data_loader=loader, network=network, optimizer=optimizer,
            loss_function=method.loss, iteration_update=method, train_handlers=[timer], decollate=False,
            optim_set_to_none=True, amp=device.type == "cuda", amp_kwargs={"dtype": torch.bfloat16},
            compile=options.compile,
        ).run()  # fmt: skip
        return 1000 * (timer.end - timer.start) / options.iterations

    step = run(Loader(batches, number))
    again = run(Again(batches[1], number))
    peak = memory(device) - start
    return {
        "case": case, "method": name, "step_ms": step, "waiting_ms": max(0.0, step - again),
        "limit_ms": limit(network, batches, name, options), "images_per_s": 1000 * (labeled + unlabeled) / step,
        "peak_mb": peak, "resident": batches.resident,
    }  # fmt: skip


def limit(network: torch.nn.Module, batches: Batches, name: str, options: argparse.Namespace) -> float:
    """Milliseconds of a bare loop over the passes that a step of the method makes."""
    device = torch.device(options.device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=device.type == "cuda")
    network = torch.compile(network) if options.compile else network
    labeled = batches[1]["labeled"]["image"]
    unlabeled = labeled[:1].expand(batches.unlabeled_batch, *labeled.shape[1:]).contiguous()
    passes = {copies: torch.cat([unlabeled] * copies) for copies in (1, 2)}
    network.train()
    for iteration in range(options.warm + options.iterations):
        if iteration == options.warm:
            start = Timer(0, device).now()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = network(labeled).float().square().mean()
            for copies, gradients in PASSES[name]:
                with torch.set_grad_enabled(gradients):
                    outputs = network(passes[copies])
                loss = loss + outputs.float().square().mean() if gradients else loss
        loss.backward()
        optimizer.step()
    return 1000 * (Timer(0, device).now() - start) / options.iterations


def memory(device: torch.device) -> float:
    """Peak memory so far in MB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status").read_text()  # of this process alone: a child inherits getrusage's peak
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="the demonstrations' networks and sizes")
    parser.add_argument("--cases", nargs="+", choices=[*CASES, *SMALL], metavar="CASE", help=", ".join(CASES | SMALL))
    parser.add_argument("--methods", nargs="+", choices=PASSES, default=METHODS)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--warm", type=int, default=20)
    parser.add_argument("--fast", action="store_true", help="deterministic=false")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--json", action="store_true", help="one object per line")
    options = parser.parse_args()
    cases = options.cases or list(SMALL if options.small else CASES)
    if not options.json:
        print("| case | method | step ms | waiting ms | limit ms | images/s | peak MB |")
        print("|---|---|---:|---:|---:|---:|---:|")
    for case in cases:
        for name in options.methods:
            row = measure(case, name, options) if len(cases) * len(options.methods) == 1 else apart(case, name)
            numbers = (f"{row[key]:.1f}" for key in ("step_ms", "waiting_ms", "limit_ms", "images_per_s", "peak_mb"))
            line = json.dumps(row) if options.json else f"| {case} | {name} | {' | '.join(numbers)} |"
            print(line, flush=True)


def apart(case: str, name: str) -> dict[str, Any]:
    """A row measured in a process of its own."""
    given = [a for a in sys.argv[1:] if a not in ("--json", "--small")]
    command = [sys.executable, __file__, *given, "--json", "--cases", case, "--methods", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
