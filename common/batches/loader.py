"""Gives batches to MONAI's trainers, one after the other, and knows its position."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from common.batches.batches import Batches


class Loader:
    """The batches of an epoch, and in the next epoch the ones after them.

    Images that lie on the device are cut and augmented there by the training process itself, which costs it a
    millisecond or two. Others are read by threads, a few batches ahead: they wait for files, not for Python.

    Args:
        batches: the batches by iteration.
        iterations: number of iterations that count as an epoch; the loader's length.
        num_workers: number of threads that prepare batches ahead; 0 prepares them when they are asked for.

    Raises:
        ValueError: when ``iterations`` is below 1 or ``num_workers`` below 0.
    """

    def __init__(self, batches: Batches, iterations: int = 50, num_workers: int = 2) -> None:
        if iterations < 1 or num_workers < 0:
            raise ValueError(
                f"iterations must be at least 1 and num_workers must not be negative, got {iterations} and "
                f"{num_workers}."
            )
        self.batches, self.iterations, self.num_workers = batches, iterations, num_workers
        self.position = 0

    def __len__(self) -> int:
        return self.iterations

    def __iter__(self) -> Iterator[dict[str, Any]]:
        # batches of the next epoch are not prepared in this one: images may join between the two
        numbers = range(self.position, self.position + self.iterations)
        ahead = self.num_workers if not self.batches.resident else 0
        for batch in self._ahead(numbers, ahead) if ahead else map(self.batches.__getitem__, numbers):
            self.position += 1
            yield batch

    def _ahead(self, numbers: range, workers: int) -> Iterator[dict[str, Any]]:
        with ThreadPoolExecutor(workers) as pool:
            submitted = (pool.submit(self.batches.__getitem__, number) for number in numbers)
            waiting = deque(islice(submitted, workers + 1))
            try:
                while waiting:
                    batch = waiting.popleft().result()
                    waiting.extend(islice(submitted, 1))
                    yield batch
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def settings(self) -> dict[str, Any]:
        """What a resumed run must have in common with the one before."""
        return {"iterations": self.iterations, **self.batches.settings()}

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = int(state["position"])
