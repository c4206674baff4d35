"""Terms: the summands of a method's loss beside the supervised one."""

from common.terms.bottleneck import BottleneckConsistency
from common.terms.contrast import Contrast
from common.terms.deep_supervision import DeepMatch, DeepSupervision, LevelHeads
from common.terms.equivariance import Equivariance
from common.terms.match import Match
from common.terms.match_back import MatchBack
from common.terms.mutual_information import MutualInformation
from common.terms.reconstruction import Reconstruction
from common.terms.term import Term

__all__ = [
    "BottleneckConsistency",
    "Contrast",
    "DeepMatch",
    "DeepSupervision",
    "Equivariance",
    "LevelHeads",
    "Match",
    "MatchBack",
    "MutualInformation",
    "Reconstruction",
    "Term",
]
