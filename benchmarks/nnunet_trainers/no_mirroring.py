"""nnU-Net's short trainers without mirroring, for classes that differ by their side alone; imported by nnU-Net."""

from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import nnUNetTrainerNoMirroring
from nnunetv2.training.nnUNetTrainer.variants.training_length.nnUNetTrainer_Xepochs import (
    nnUNetTrainer_1epoch,
    nnUNetTrainer_5epochs,
    nnUNetTrainer_10epochs,
    nnUNetTrainer_20epochs,
)


class nnUNetTrainer_1epoch_NoMirroring(nnUNetTrainerNoMirroring, nnUNetTrainer_1epoch):
    """250 iterations."""


class nnUNetTrainer_5epochs_NoMirroring(nnUNetTrainerNoMirroring, nnUNetTrainer_5epochs):
    """1,250 iterations."""


class nnUNetTrainer_10epochs_NoMirroring(nnUNetTrainerNoMirroring, nnUNetTrainer_10epochs):
    """2,500 iterations."""


class nnUNetTrainer_20epochs_NoMirroring(nnUNetTrainerNoMirroring, nnUNetTrainer_20epochs):
    """5,000 iterations."""
