"""Losses that ask the label space."""

from common.losses.dice import Dice
from common.losses.loss import CrossEntropy, Loss, Sum

__all__ = ["CrossEntropy", "Dice", "Loss", "Sum"]
