"""What a gate accepted, for the training log."""

from __future__ import annotations

import logging

import numpy as np
import torch
from ignite.engine import Engine
from torch import Tensor

from common.label_space import LabelSpace
from common.metrics import gate_statistics, image_dice
from common.ranks import is_first_rank

logger = logging.getLogger(__name__)


class GateRecord:
    """Gathers what a gate says of each iteration's unlabelled images, and warns of one that decides nothing.

    Nobody waits for the device until a row is asked for. The truth of all images is read where it is known.

    Args:
        labels: the label space.
    """

    def __init__(self, labels: LabelSpace) -> None:
        self.labels = labels
        self.waiting: list[tuple[Tensor, Tensor, Tensor]] = []  # scores, accepted, Dice of an iteration
        self.epoch: list[np.ndarray] = []  # scores and accepted of the epoch's rows
        self.decides = True

    def add(self, engine: Engine) -> None:
        """Remembers what the gate, if there is one, said in this iteration."""
        judged = engine.state.output["judged"]
        if judged is None:
            return
        pseudo = next(iter(engine.state.output["notes"].values())).pseudo
        truth = engine.state.batch["unlabeled"]["truth"]()
        if truth is None:
            dice = torch.full_like(judged.scores, torch.nan)
        else:
            truth = truth if pseudo.grid is None else pseudo.grid.of(truth)
            dice = image_dice(self.labels, pseudo.label, truth)
            dice = dice if dice.shape == judged.scores.shape else dice.mean(1, keepdim=True)
        self.waiting.append((judged.scores, judged.accepted, dice))

    def row(self) -> dict[str, float]:
        """:func:`~common.metrics.gate_statistics` since the row before; nothing without a gate."""
        if not self.waiting:
            return {}
        flat = [torch.stack([part.flatten().float() for part in parts]) for parts in self.waiting]
        scores, accepted, dice = torch.cat(flat, 1).double().cpu().numpy()
        self.waiting.clear()
        self.epoch.append(np.stack([scores, accepted]))
        return gate_statistics(scores, accepted, None if np.isnan(dice).all() else dice)

    def warn(self, epoch: int) -> None:
        """At the end of an epoch, says when the gate accepted all of it, or nothing; once until it decides again."""
        if not self.epoch:
            return
        scores, accepted = np.concatenate(self.epoch, axis=1)
        self.epoch.clear()
        rate, before = accepted.mean(), self.decides
        self.decides = bool(0 < rate < 1)
        if before and not self.decides and is_first_rank():
            effect = "nothing is learnt from them" if rate == 0 else "it has no effect"
            logger.warning(
                f"The gate accepted {rate:.0%} of the unlabelled images in epoch {epoch}, whose scores were "
                f"{scores.min():.3f} to {scores.max():.3f}: {effect}. Set the method's threshold within this range, or "
                f"take another gate."
            )
