"""The learning rate over the epochs."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class Polynomial(LRScheduler):
    """A constant learning rate up to an epoch, and from there on a polynomial that ends in 0.

    After t epochs the rate is lr (1 - (t - start) / (epochs - start))^power where t is above ``start``, else lr.
    Torch's ``PolynomialLR`` falls from the first epoch on, and leaves little to images that join the training late.

    Args:
        optimizer: the optimizer.
        epochs: number of epochs of the training.
        power: the exponent; 0 for a rate that is constant throughout.
        start: number of epochs before the rate begins to fall.
        last_epoch: number of epochs that are over; -1 for a new training.

    Raises:
        ValueError: when a number is negative.
    """

    def __init__(
        self, optimizer: Optimizer, epochs: int, power: float = 0.9, start: int = 0, last_epoch: int = -1
    ) -> None:
        if epochs < 1 or power < 0 or start < 0:
            raise ValueError(
                f"epochs must be at least 1, power and start must not be negative, got {epochs}, {power} and {start}."
            )
        self.epochs, self.power, self.start = epochs, power, start
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        left = 1 - max(0, self.last_epoch - self.start) / max(1, self.epochs - self.start)
        return [rate * max(0.0, left) ** self.power for rate in self.base_lrs]
