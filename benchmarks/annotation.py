"""What the order is worth in which patients are annotated: Dice over their number, by strategy.

    python -m common datalist lgg DATA/lgg64 --labeled 2 --test 30 --split 0 --output lgg_split0.json
    python benchmarks/annotation.py lgg_split*.json --bundle lgg_segmatch --config train.json,demo.json --output next

Each datalist is a beginning. A network is trained on the labelled patients and tested, a strategy chooses some of the
unlabelled ones by it, whose truth becomes their label, and all begins anew. The first training is shared by all
strategies. It can be stopped, and goes on. `weight` needs a method that weighs pseudo-labels (--method). Printed are,
for each number of patients, the mean Dice of each strategy, and its difference to random with a bootstrap's interval
over datalists and test cases.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from common.annotation import STRATEGIES, open_order
from common.bundle_run import BUNDLES, train_and_evaluate
from common.data.datalist import load_datalist, save_datalist
from common.report.statistics import difference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datalists", nargs="+", help="datalists whose unlabelled images have a truth")
    parser.add_argument("--bundle", required=True, choices=sorted(path.name for path in BUNDLES.iterdir()))
    parser.add_argument("--config", default="train.json", help="files of the bundle, separated by commas")
    parser.add_argument("--method", default="Supervised")
    parser.add_argument("--settings", default="{}", help="further settings of the bundle, as YAML")
    parser.add_argument("--strategies", default="random,disagreement,distance", help=f"of {', '.join(STRATEGIES)}")
    parser.add_argument("--rounds", type=int, default=3, help="how often patients are annotated")
    parser.add_argument("--step", type=int, default=2, help="how many each time")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    rows = []
    for file in map(Path, arguments.datalists):
        for strategy in arguments.strategies.split(","):
            datalist = load_datalist(file)
            for number in range(arguments.rounds + 1):
                name = f"{strategy}_{number}" if number else "begin"
                folder = trained(datalist, arguments.output / file.stem / name, arguments)
                table = pd.read_csv(folder / "test.csv").groupby("case")["dice"].mean().reset_index()
                annotated = len({item["patient"] for item in datalist["labeled"]})
                rows.append(table.assign(strategy=strategy, patients=annotated, split=file.stem, seed=0))
                print(f"{file.stem} {strategy} {annotated} patients: Dice {table['dice'].mean():.3f}", flush=True)
                if number < arguments.rounds:
                    order = open_order(folder)
                    places = order.places(strategy, by="patient")[: arguments.step]
                    images = {order.unlabeled.data[row]["image"] for place in places for row in place.rows}
                    datalist = annotated_too(datalist, images)
    print(summary(pd.concat(rows)))


def trained(datalist: dict[str, Any], folder: Path, arguments: argparse.Namespace) -> Path:
    """The folder of a network that was trained on a datalist and tested; other settings are another folder."""
    asked = json.dumps([datalist, arguments.bundle, arguments.config, arguments.method, arguments.settings])
    folder = folder.with_name(f"{folder.name}_{hashlib.sha256(asked.encode()).hexdigest()[:8]}")
    folder.mkdir(parents=True, exist_ok=True)
    file = save_datalist(datalist, folder / "datalist.json")
    bundle, settings = BUNDLES / arguments.bundle, yaml.safe_load(arguments.settings)
    train_and_evaluate(folder, bundle, arguments.method, file, arguments.config, settings, arguments.threads)
    return folder


def annotated_too(datalist: dict[str, Any], images: set[str]) -> dict[str, Any]:
    """The datalist with the truth of some unlabelled images as their label."""
    chosen = [item for item in datalist["unlabeled"] if item["image"] in images]
    new = [{("label" if key == "truth" else key): value for key, value in item.items()} for item in chosen]
    left = [item for item in datalist["unlabeled"] if item["image"] not in images]
    return {**datalist, "labeled": datalist["labeled"] + new, "unlabeled": left}


def summary(table: pd.DataFrame) -> str:
    lines = ["| strategy | " + " | ".join(f"{n} patients" for n in sorted(table["patients"].unique())) + " |"]
    lines.append("|---" * (lines[0].count("|") - 1) + "|")
    keys = ["split", "seed", "case"]
    for strategy, own in table.groupby("strategy", sort=False):
        cells = []
        for number in sorted(table["patients"].unique()):
            at, other = (t[t["patients"] == number] for t in (own, table[table["strategy"] == "random"]))
            cell = f"{at['dice'].mean():.3f}"
            if strategy != "random" and len(other) and number > table["patients"].min():
                found = difference(at.set_index(keys)["dice"], other.set_index(keys)["dice"])
                cell += f" ({found.mean:+.3f}, {found.low:+.3f} to {found.high:+.3f})"
            cells.append(cell)
        lines.append(f"| {strategy} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
