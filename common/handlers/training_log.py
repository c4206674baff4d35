"""The training log: losses and pseudo-label statistics as a table."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pandas as pd
from ignite.engine import Engine, Events
from torch import Tensor

from common.files import replacing
from common.handlers.gate_examples import GateExamples
from common.handlers.gate_record import GateRecord
from common.label_space import LabelSpace
from common.metrics import comparison_statistics, pseudo_label_statistics, view_statistics, weight_statistics
from common.pseudo_label import PseudoLabel
from common.ranks import is_first_rank
from common.step import Noted
from common.weights.confidence import probability_of


class TrainingLog:
    """Writes ``train.csv``: one row for every ``interval`` iterations with the means since the row before.

    Columns: ``iteration``, ``epoch``, ``seconds`` (of training, over all resumed parts), ``learning_rate``, ``loss``,
    ``loss_<term>``, and, measured at the row's own iteration, those of
    :func:`~common.metrics.comparisons.comparison_statistics`, and for methods with pseudo-labels those of
    :func:`~common.metrics.pseudo_label.pseudo_label_statistics` and, where the truth is known, of
    :func:`~common.metrics.weights.weight_statistics` for the first of them, and of
    :func:`~common.metrics.comparisons.view_statistics` for all.
    Methods with a gate have those of :func:`~common.metrics.gate_statistics` over all images since the row
    before, and numbers of their parts (``discriminator_loss``) as means since then; a gate that accepts everything or
    nothing for a whole epoch is warned of, and pictures of the last one are kept (``GateExamples``). The numbers of the
    newest row are in ``engine.state.log`` for other handlers. Between two rows nobody waits for the device.

    Args:
        path: the CSV file; written after every epoch. Rows after the resumed checkpoint are dropped.
        labels: the label space.
        interval: number of iterations between two rows.
    """

    def __init__(self, path: str | Path, labels: LabelSpace, interval: int = 10) -> None:
        self.path, self.labels, self.interval = Path(path), labels, interval
        self.rows: list[dict[str, float]] = []
        self.sums: dict[str, Tensor] = {}
        self.counts: Counter[str] = Counter()
        self.seconds, self.clock = 0.0, 0.0
        self.gate, self.examples = GateRecord(labels), GateExamples(self.path.parent, labels)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.iteration_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.write)

    def start(self, engine: Engine) -> None:
        self.rows = rows_up_to(self.path, "iteration", engine.state.iteration)
        self.seconds = self.rows[-1]["seconds"] if self.rows else 0.0
        self.clock = time.perf_counter()

    def iteration_completed(self, engine: Engine) -> None:
        output, state = engine.state.output, engine.state
        terms = {f"loss_{name}": value for name, value in output["terms"].items()}
        for name, value in {"loss": output["loss"], **terms, **output["numbers"]}.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] += 1
        self.gate.add(engine)
        if state.iteration % self.interval == 0 or state.iteration % state.epoch_length == 0:
            self.add_row(engine)

    def add_row(self, engine: Engine) -> None:
        now = time.perf_counter()
        self.seconds, self.clock = self.seconds + now - self.clock, now
        row = {
            "iteration": engine.state.iteration,
            "epoch": engine.state.epoch,
            "seconds": self.seconds,
            "learning_rate": engine.optimizer.param_groups[0]["lr"],
            **{name: float(total) / self.counts[name] for name, total in self.sums.items()},
        }
        row |= comparison_statistics(self.labels, engine.state.output["compared"])
        if engine.state.output["notes"]:
            row |= self._taught(engine.state.output["notes"], engine.state.batch["unlabeled"]["truth"]())
        row |= self.gate.row()
        if is_first_rank():
            self.examples.add(engine)
        self.rows.append(row)
        self.sums.clear()
        self.counts.clear()
        engine.state.log = row

    def _taught(self, notes: dict[str, Noted], truth: Tensor | None) -> dict[str, float]:
        """Numbers of the first of the pseudo-labels, and of the views of all."""
        views = {} if truth is None else view_statistics(self.labels, notes, truth)
        noted = next(iter(notes.values()))
        if truth is not None and noted.pseudo.grid is not None:
            truth = noted.pseudo.grid.of(truth)
        row = pseudo_label_statistics(self.labels, noted.pseudo.label, noted.weight, truth)
        if truth is not None:
            weights, known = {"weight": noted.weight, **(noted.factors or {})}, self._confidence(noted.pseudo)
            row |= weight_statistics(self.labels, noted.pseudo.label, weights, truth, known)
        return row | views

    def _confidence(self, pseudo: PseudoLabel) -> Tensor | None:
        outputs = pseudo.known.get("outputs", pseudo.known.get("predicted"))
        return None if outputs is None else probability_of(self.labels, pseudo.label, outputs)

    def write(self, engine: Engine) -> None:
        self.gate.warn(engine.state.epoch)
        if is_first_rank():
            write_table(self.path, self.rows)
            self.examples.write()


def rows_up_to(path: Path, column: str, last: float) -> list[dict]:
    """Rows of a CSV file whose ``column`` is at most ``last``; none where there is no file yet."""
    if not path.exists() or last == 0:
        return []
    table = pd.read_csv(path)
    return table[table[column] <= last].to_dict("records")


def write_table(path: Path, rows: list[dict]) -> None:
    """Writes rows as a CSV file, replacing the one before."""
    with replacing(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False, float_format="%.6g")
