"""Semi-supervised methods, one object in a bundle's ``train.json`` each."""

from common.methods.balanced_rpg import BalancedRPG
from common.methods.base import Method
from common.methods.multi_task_attention import MultiTaskAttention
from common.methods.popcorn import Popcorn
from common.methods.rpg import RPG, NearestNeighbor, RPGPlus
from common.methods.self_training import FixMatch, PseudoLabel
from common.methods.supervised import Supervised
from common.methods.transformation_consistency import TransformationConsistency
from common.methods.uncertainty_guided import UncertaintyGuided

__all__ = [
    "RPG",
    "BalancedRPG",
    "FixMatch",
    "Method",
    "MultiTaskAttention",
    "NearestNeighbor",
    "Popcorn",
    "PseudoLabel",
    "RPGPlus",
    "Supervised",
    "TransformationConsistency",
    "UncertaintyGuided",
]
