"""Tries, over and over, what must not pass in silence, and counts what did: `make torture`."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import numpy as np
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent), str(HERE.parent / "bundles")]

from campaigns import CAMPAIGNS  # noqa: E402
from tried import ACCEPTED, Setting, Tried, table  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of all draws")
    parser.add_argument("--times", type=int, default=25, help="how often each fault is tried")
    parser.add_argument("--only", nargs="+", choices=CAMPAIGNS, default=list(CAMPAIGNS), help="these campaigns alone")
    given = parser.parse_args()
    tried: list[Tried] = []
    broken: list[str] = []
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for name in given.only:
            setting = Setting(Path(folder) / name, np.random.default_rng([given.seed, *name.encode()]), given.times)
            try:
                for one in tqdm(CAMPAIGNS[name](setting), desc=name, unit=" tries", leave=False):
                    tried.append(one)
            except Exception as error:  # what has been tried so far, and the other campaigns, count all the same
                traceback.print_exc()
                broken.append(f"{name} ended with {type(error).__name__}: {str(error)[-300:]}")
    print(table(tried))
    print(f"\n{len(tried)} tries in {time.monotonic() - started:.0f} s, seed {given.seed}")
    wrong = [one for one in tried if one.verdict == ACCEPTED]
    for line in [*(f"{one.kind}: {one.detail}" for one in wrong[:20]), *broken]:
        print(line)
    sys.exit(bool(wrong or broken))


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    main()
