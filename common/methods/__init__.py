"""Semi-supervised methods, one object in a bundle's ``train.json`` each."""

from common.methods.base import Method
from common.methods.rpg import RPG, NearestNeighbor
from common.methods.supervised import Supervised

__all__ = ["RPG", "Method", "NearestNeighbor", "Supervised"]
