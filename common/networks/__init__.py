"""Networks, and what methods need of them."""

from common.networks.basic_unet import BasicUNet
from common.networks.heads import pixelwise_head
from common.networks.seen import Seen, unwrapped

__all__ = ["BasicUNet", "Seen", "pixelwise_head", "unwrapped"]
