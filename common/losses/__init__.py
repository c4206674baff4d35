"""Losses that ask the label space."""

from common.losses.dice import Dice
from common.losses.loss import CrossEntropy, Loss, Sum
from common.losses.squared_error import SquaredError

__all__ = ["CrossEntropy", "Dice", "Loss", "SquaredError", "Sum"]
