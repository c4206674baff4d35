"""Transforms that MONAI does not have."""

from common.transforms.change import Change
from common.transforms.image_quality import ImageQualityd
from common.transforms.load import LoadLabeld, LoadRadiographd
from common.transforms.load_volume import LoadVolumed
from common.transforms.masks import ToMasksd
from common.transforms.strong import StrongView

__all__ = ["Change", "ImageQualityd", "LoadLabeld", "LoadRadiographd", "LoadVolumed", "StrongView", "ToMasksd"]
