"""Transforms that MONAI does not have."""

from common.transforms.load import LoadLabeld, LoadRadiographd
from common.transforms.masks import ToMasksd

__all__ = ["LoadLabeld", "LoadRadiographd", "ToMasksd"]
