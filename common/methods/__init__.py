"""Semi-supervised methods, one object in a bundle's ``train.json`` each."""

from common.methods.ael import AEL
from common.methods.augseg import AugSeg
from common.methods.base import Method
from common.methods.bcp import BCP
from common.methods.fixmatch import FixMatch, PseudoLabel
from common.methods.iic import IIC
from common.methods.mean_teacher import MeanTeacher
from common.methods.mlds import MLDS
from common.methods.multi_task_attention import MultiTaskAttention
from common.methods.popcorn import Popcorn
from common.methods.rpg import RPG, BalancedRPG, NearestNeighbor, ReferenceMatch, RPGPlus
from common.methods.segmatch import SegMatch
from common.methods.supervised import Supervised
from common.methods.transformation_consistency import TransformationConsistency
from common.methods.u2pl import U2PL
from common.methods.uncertainty_guided import UncertaintyGuided
from common.methods.unimatch import UniMatch
from common.step import Step

__all__ = [
    "AEL",
    "BCP",
    "IIC",
    "MLDS",
    "RPG",
    "U2PL",
    "AugSeg",
    "BalancedRPG",
    "FixMatch",
    "MeanTeacher",
    "Method",
    "MultiTaskAttention",
    "NearestNeighbor",
    "Popcorn",
    "PseudoLabel",
    "RPGPlus",
    "ReferenceMatch",
    "SegMatch",
    "Step",
    "Supervised",
    "TransformationConsistency",
    "UncertaintyGuided",
    "UniMatch",
]
