"""What the numbers in train.csv cost, beside the step whose pseudo-labels, weights, gradients and views they judge.

    python benchmarks/instruments.py [--rounds 3] [--device cpu]

UniMatch on three classes; a row is written every 10 iterations, and what it takes is shown as a share of these 10
steps. One thread, its own time on a processor.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import pandas as pd
import torch

from common.label_space import LabelSpace
from common.methods import UniMatch
from common.metrics import comparison_statistics, pseudo_label_statistics, view_statistics, weight_statistics
from common.networks import BasicUNet
from common.step import Step
from common.weights.confidence import probability_of

INTERVAL = 10  # iterations between two rows
CASES = {"64 x 64": (64, 4, [8, 16, 32, 64, 128, 16]), "256 x 256": (256, 12, [16, 32, 64, 128, 256, 16])}


def milliseconds(function: Callable, rounds: int, device: str) -> float:
    best = float("inf")
    for _ in range(rounds):
        if device == "cuda":
            torch.cuda.synchronize()
        clock = time.perf_counter if device == "cuda" else time.thread_time
        start = clock()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, clock() - start)
    return 1e3 * best


def measure(size: int, number: int, features: list[int], rounds: int, device: str) -> dict[str, float]:
    torch.manual_seed(0)
    labels = LabelSpace(["one", "two", "three"], "multiclass")
    network = BasicUNet(spatial_dims=2, in_channels=1, out_channels=4, features=features, norm="batch").to(device)
    method = UniMatch(labels, threshold=0.3)
    method.prepare(network)
    truth = torch.randint(0, 4, (number, 1, size, size), device=device).float()
    batch = {
        "labeled": {"image": torch.rand(number, 1, size, size, device=device), "label": truth},
        "unlabeled": {"image": torch.rand(number, 1, size, size, device=device)},
    }

    def step() -> Step:
        step = Step(labels, network, batch, iteration=1)
        sum(method.losses(step).values()).backward()
        return step

    made = step()
    noted = next(iter(made.notes.values()))
    label = noted.pseudo.label
    known = probability_of(labels, label, noted.pseudo.known["outputs"])
    parts = {
        "pseudo-labels": lambda: pseudo_label_statistics(labels, label, noted.weight, truth),
        "weights": lambda: weight_statistics(labels, label, {"weight": noted.weight}, truth, known),
        "gradients": lambda: comparison_statistics(labels, made.compared),
        "views": lambda: view_statistics(labels, made.notes, truth),
    }
    spent = {name: milliseconds(part, rounds, device) for name, part in {"step": step, **parts}.items()}
    share = sum(spent[name] for name in parts) / (INTERVAL * spent["step"])
    return {f"{name} ms": value for name, value in spent.items()} | {"of all steps": f"{share:.1%}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = {name: measure(*case, arguments.rounds, arguments.device) for name, case in CASES.items()}
    print(pd.DataFrame.from_dict(rows, orient="index").to_string(float_format="%.1f"))


if __name__ == "__main__":
    main()
