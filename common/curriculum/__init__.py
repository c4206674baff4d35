"""The curriculum: unlabelled images that join the training images step by step (Kamraoui et al. 2021, POPCORN)."""

from common.curriculum.joining import SELECTIONS, Joining
from common.curriculum.latents import grid_of, image_latent, image_latents, loaded
from common.curriculum.proximity_graph import ProximityGraph
from common.curriculum.store import PseudoLabelStore

__all__ = [
    "SELECTIONS",
    "Joining",
    "ProximityGraph",
    "PseudoLabelStore",
    "grid_of",
    "image_latent",
    "image_latents",
    "loaded",
]
