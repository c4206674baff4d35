"""Losses that ask the label space."""

from common.losses.dice import dice_loss

__all__ = ["dice_loss"]
