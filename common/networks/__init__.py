"""Networks of MONAI that also give their features."""

from common.networks.basic_unet import BasicUNet

__all__ = ["BasicUNet"]
