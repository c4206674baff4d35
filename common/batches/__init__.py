"""Batches of labelled and unlabelled images, on the device and weakly augmented, as methods need them."""

from common.batches.batches import Batches
from common.batches.loader import Loader
from common.batches.training_image import TrainingImage

__all__ = ["Batches", "Loader", "TrainingImage"]
