"""Transforms that MONAI does not have."""

from common.transforms.change import Change
from common.transforms.load import LoadLabeld, LoadRadiographd
from common.transforms.masks import ToMasksd
from common.transforms.strong import StrongView

__all__ = ["Change", "LoadLabeld", "LoadRadiographd", "StrongView", "ToMasksd"]
