"""MONAI dictionary transforms that load images and labels, and turn outputs into masks."""

from common.transforms.load import LoadLabeld, LoadRadiographd
from common.transforms.load_volume import LoadVolumed
from common.transforms.masks import ToMasksd

__all__ = ["LoadLabeld", "LoadRadiographd", "LoadVolumed", "ToMasksd"]
